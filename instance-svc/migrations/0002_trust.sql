-- The life of keys, the trust feed and its subscribers, and what is revoked.

ALTER TABLE signing_keys ADD COLUMN published_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE signing_keys ADD COLUMN published_sequence BIGINT NOT NULL DEFAULT 0;
ALTER TABLE signing_keys ADD COLUMN activated_at BIGINT;
ALTER TABLE signing_keys ADD COLUMN retired_at BIGINT;
ALTER TABLE signing_keys ADD COLUMN remove_at BIGINT;
UPDATE signing_keys SET published_at = created_at, activated_at = created_at;
CREATE UNIQUE INDEX one_pending_signing_key ON signing_keys (state) WHERE state = 'pending';

-- Every change of the trust state, by the sequence number that it made. Old ones are pruned: a subscriber that needs them
-- takes a snapshot.
CREATE TABLE trust_events (
    sequence BIGINT PRIMARY KEY,
    event TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- What is revoked and still alive, by what it refuses. `until` is in seconds since 1970.
CREATE TABLE revocations (
    id TEXT PRIMARY KEY,
    revocation TEXT NOT NULL,
    until BIGINT NOT NULL
);

-- The processes that follow the trust feed.
CREATE TABLE leases (
    replica_id TEXT PRIMARY KEY,
    member_id TEXT NOT NULL REFERENCES principals (id) ON DELETE CASCADE,
    acknowledged BIGINT NOT NULL,
    ends_at BIGINT NOT NULL
);

ALTER TABLE credentials ADD COLUMN last_used_at BIGINT;
-- Networks from which the credential may be used, separated by spaces; empty for anywhere.
ALTER TABLE credentials ADD COLUMN networks TEXT NOT NULL DEFAULT '';

-- How a credential is proved, as JSON; empty: by the secret whose MAC stands in `mac`. For other proofs `mac` holds what no two
-- credentials may share.
ALTER TABLE credentials ADD COLUMN proof TEXT NOT NULL DEFAULT '';
-- Of a credential that a federated issuer's token proves: the issuer, and the `sub` that it asks for, if it does.
ALTER TABLE credentials ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE credentials ADD COLUMN subject TEXT NOT NULL DEFAULT '';
CREATE INDEX credentials_by_issuer ON credentials (issuer, subject);

CREATE TABLE federated_issuers (
    issuer TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Assertions that were shown once and are not taken again. `until` is in seconds since 1970.
CREATE TABLE used_assertions (
    id TEXT PRIMARY KEY,
    until BIGINT NOT NULL
);

-- A principal's groups, separated by spaces.
ALTER TABLE principals ADD COLUMN member_of TEXT NOT NULL DEFAULT '';

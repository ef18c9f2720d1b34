-- One SQL for SQLite and PostgreSQL. Times are milliseconds since 1970; sealed values and MACs are base64url text.

-- The one row of the instance itself. A change of configuration or trust begins by counting up here: that is its lock.
CREATE TABLE instance (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL,
    sealed_pepper TEXT NOT NULL,
    config_version BIGINT NOT NULL,
    trust_sequence BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE signing_keys (
    kid TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    public_jwk TEXT NOT NULL,
    sealed_private TEXT,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX one_active_signing_key ON signing_keys (state) WHERE state = 'active';

-- Users, service accounts, gateways and adapters.
CREATE TABLE principals (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    roles TEXT NOT NULL,
    audience TEXT UNIQUE,
    address TEXT,
    adapter_group TEXT,
    created_at BIGINT NOT NULL
);

CREATE TABLE credentials (
    id TEXT PRIMARY KEY,
    principal_id TEXT NOT NULL REFERENCES principals (id) ON DELETE CASCADE,
    purpose TEXT NOT NULL,
    label TEXT NOT NULL,
    mac TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);

CREATE TABLE models (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    credential_kind TEXT NOT NULL,
    sealed_credential TEXT,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE features (
    name TEXT PRIMARY KEY,
    binding TEXT NOT NULL
);

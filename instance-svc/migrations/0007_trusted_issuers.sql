-- Other instances whose tokens the gateways of this one take: members of the fleet, with what they are entitled to, and what they
-- published last.
CREATE TABLE trusted_issuers (
    principal_id TEXT PRIMARY KEY REFERENCES principals (id) ON DELETE CASCADE,
    issuer TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL,
    published TEXT NOT NULL DEFAULT '',
    sequence BIGINT NOT NULL DEFAULT 0
);

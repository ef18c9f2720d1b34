-- The audit log. Rows are added and never changed; each holds the hash over the one before it and itself.
CREATE TABLE audit (
    chain TEXT NOT NULL,
    number BIGINT NOT NULL,
    time BIGINT NOT NULL,
    event TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (chain, number)
);
CREATE INDEX audit_by_time ON audit (time, chain, number);

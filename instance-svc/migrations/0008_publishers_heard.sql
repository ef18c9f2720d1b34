-- When another instance last published, or was seen to be there.
ALTER TABLE trusted_issuers ADD COLUMN heard_at BIGINT NOT NULL DEFAULT 0;

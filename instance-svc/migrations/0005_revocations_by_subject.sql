-- Whose token a row refuses; empty for other revocations.
ALTER TABLE revocations ADD COLUMN subject TEXT NOT NULL DEFAULT '';
CREATE INDEX revocations_by_subject ON revocations (subject);

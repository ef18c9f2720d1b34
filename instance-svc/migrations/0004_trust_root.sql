-- The key under which gateways keep what they were told, for the time when the instance cannot be asked. Sealed.
ALTER TABLE instance ADD COLUMN sealed_trust_root TEXT;

-- Prompts that stand before those that gateways ship.
CREATE TABLE prompts (
    name TEXT PRIMARY KEY,
    text TEXT NOT NULL
);

-- Whether an API key may send SQL.
ALTER TABLE api_keys ADD COLUMN sql INTEGER NOT NULL DEFAULT 0;

-- When SQL last changed the schema of a tenant's file, which its migrations do not know.
ALTER TABLE tenants ADD COLUMN drifted INTEGER;

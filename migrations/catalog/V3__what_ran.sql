-- The tenants' migrations that have run on some file of this folder, the template's copies included.
CREATE TABLE tenant_migrations (
    version  INTEGER NOT NULL PRIMARY KEY,
    name     TEXT    NOT NULL,
    checksum TEXT    NOT NULL              -- as refinery has it in a file's own history
) STRICT;

-- Out of quarantine, a tenant counts as healthy again if nothing happens until this moment; only then is
-- its next quarantine as short as a first one.
ALTER TABLE tenants ADD COLUMN healthy_at INTEGER;

-- The schema of the program that quarantined it: another one tries again at once.
ALTER TABLE tenants ADD COLUMN quarantine_digest INTEGER;

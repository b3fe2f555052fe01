-- Migrations of all tenants by a running server. Who is left to migrate is in the tenants' own rows; this is how far a run
-- was when that was last recorded.
CREATE TABLE migration_runs (
    id      INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL UNIQUE,
    digest  INTEGER NOT NULL,              -- of the tenants' schema that it migrates to
    started INTEGER NOT NULL,
    ended   INTEGER,                       -- NULL: it runs, or the server died
    report  TEXT    NOT NULL,              -- JSON
    failed  TEXT    NOT NULL DEFAULT '[]'  -- JSON: [tenant, reason] of those it has quarantined since the report was recorded
) STRICT;

-- Who exists, in what state, at which schema. Times are Unix milliseconds, UTC.
CREATE TABLE tenants (
    id                  TEXT    NOT NULL PRIMARY KEY,
    state               TEXT    NOT NULL CHECK (state IN ('active', 'suspended', 'deleted', 'quarantined')),
    reason              TEXT,             -- why suspended or quarantined
    faults              INTEGER NOT NULL DEFAULT 0, -- failed attempts to open since the last good one
    retry_at            INTEGER,          -- when a quarantined tenant is tried again; NULL: by an operator
    fault               TEXT,             -- the newest fault of its file or of the disk under it
    fault_at            INTEGER,
    created             INTEGER NOT NULL,
    deleted             INTEGER,
    purge_after         INTEGER,          -- when a deleted tenant's file may be removed
    purged              INTEGER,          -- when it was
    restored            INTEGER,          -- when it was last brought back; deletions from before are history
    schema_version      INTEGER,
    schema_digest       INTEGER,          -- of the migrations last seen on it: an edited one shows
    bytes               INTEGER,          -- size of the file when it was last closed
    last_seen           INTEGER,
    last_backup         INTEGER,
    -- the provider's view
    email               TEXT,
    first_name          TEXT,
    last_name           TEXT,
    username            TEXT,
    image_url           TEXT,
    role                TEXT    NOT NULL DEFAULT 'client',
    workspace           TEXT    NOT NULL DEFAULT 'My Workspace',
    provider_updated_at INTEGER,          -- the user's own updated_at
    provider_event_at   INTEGER,          -- the time of the newest event applied
    provider_metadata   TEXT              -- public metadata, JSON
) STRICT, WITHOUT ROWID;

-- One row: the tenants' schema of the program that has the folder.
CREATE TABLE current_schema (
    one    INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    digest INTEGER NOT NULL
) STRICT;

CREATE INDEX tenants_by_state ON tenants (state, id) WHERE state <> 'active';
CREATE INDEX tenants_by_purge ON tenants (purge_after) WHERE purge_after IS NOT NULL AND purged IS NULL;
CREATE INDEX tenants_by_email ON tenants (email) WHERE email IS NOT NULL;

-- How many tenants are in each state, kept by triggers: counting a million rows for every look at
-- the dashboard would be a scan each time.
CREATE TABLE tenant_counts (
    state TEXT    NOT NULL PRIMARY KEY,
    n     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO tenant_counts VALUES ('active', 0), ('suspended', 0), ('deleted', 0), ('quarantined', 0);

CREATE TRIGGER tenants_count_insert AFTER INSERT ON tenants BEGIN
    UPDATE tenant_counts SET n = n + 1 WHERE state = new.state;
END;
CREATE TRIGGER tenants_count_delete AFTER DELETE ON tenants BEGIN
    UPDATE tenant_counts SET n = n - 1 WHERE state = old.state;
END;
CREATE TRIGGER tenants_count_update AFTER UPDATE OF state ON tenants WHEN old.state <> new.state BEGIN
    UPDATE tenant_counts SET n = n - 1 WHERE state = old.state;
    UPDATE tenant_counts SET n = n + 1 WHERE state = new.state;
END;

-- Webhook messages, by the sender's own id: a retry is the same delivery.
CREATE TABLE deliveries (
    svix_id     TEXT    NOT NULL PRIMARY KEY,
    type        TEXT    NOT NULL,
    tenant      TEXT,
    received    INTEGER NOT NULL,          -- first attempt
    updated     INTEGER NOT NULL,          -- newest attempt
    outcome     TEXT    NOT NULL CHECK (outcome IN ('created', 'exists', 'updated', 'deleted', 'ignored', 'rejected', 'failed')),
    attempts    INTEGER NOT NULL DEFAULT 1,
    duration_us INTEGER,
    error       TEXT,
    answer      TEXT,                      -- what the first success answered, JSON
    body        BLOB                       -- for replay, until its retention ends
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_by_received ON deliveries (received);
CREATE INDEX deliveries_by_outcome ON deliveries (outcome, received);
CREATE INDEX deliveries_by_failure ON deliveries (updated) WHERE outcome = 'failed';
CREATE INDEX deliveries_by_tenant ON deliveries (tenant, received) WHERE tenant IS NOT NULL;

-- Runs of the comparison with the provider.
CREATE TABLE sync_runs (
    id       INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    started  INTEGER NOT NULL,
    finished INTEGER,
    outcome  TEXT,                         -- NULL: it runs, or the server died
    report   TEXT                          -- JSON
) STRICT;

-- Who did what to whom.
CREATE TABLE audit (
    id     INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    actor  TEXT    NOT NULL,
    action TEXT    NOT NULL,
    target TEXT,
    origin TEXT,                           -- address or command line
    result TEXT    NOT NULL,
    detail TEXT
) STRICT;

CREATE INDEX audit_by_target ON audit (target, id);

-- API keys. Of the key itself only the SHA-256 is kept.
CREATE TABLE api_keys (
    id        TEXT    NOT NULL PRIMARY KEY,
    hash      BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    name      TEXT    NOT NULL,
    hint      TEXT    NOT NULL,
    tenant    TEXT,                        -- the only one it reaches; NULL: all
    read_only INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    expires   INTEGER,
    revoked   INTEGER,
    last_used INTEGER
) STRICT, WITHOUT ROWID;

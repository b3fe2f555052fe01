-- Changes of many tenants that an operator has started. What was done is in the tenants' own rows and in the audit trail; this
-- is how far a run was when that was last recorded.
CREATE TABLE bulk_runs (
    id      INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL UNIQUE,
    started INTEGER NOT NULL,
    ended   INTEGER,                       -- NULL: it runs, or the server died
    report  TEXT    NOT NULL               -- JSON
) STRICT;

-- Deliveries of one type, in order.
CREATE INDEX deliveries_by_type ON deliveries (type, received);

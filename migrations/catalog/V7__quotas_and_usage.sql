-- What a tenant may use, where an operator has set it. NULL: as the provider's metadata or the settings say.
ALTER TABLE tenants ADD COLUMN quota_bytes INTEGER;
ALTER TABLE tenants ADD COLUMN quota_rate TEXT;

-- What each tenant used, by day. A day on which it was not used has no row.
CREATE TABLE usage_days (
    day      INTEGER NOT NULL,             -- since 1970-01-01, UTC
    tenant   TEXT    NOT NULL,
    bytes    INTEGER NOT NULL,             -- size of the file when it was last looked at on that day
    requests INTEGER NOT NULL,
    writes   INTEGER NOT NULL,
    PRIMARY KEY (day, tenant)
) STRICT, WITHOUT ROWID;

-- How many tenants that are not deleted have each version of the schema, kept by triggers as tenant_counts is: the operators'
-- page is looked at every few seconds while all are migrated. A version that nobody has any more keeps its row, with zero.
CREATE TABLE schema_counts (
    schema      INTEGER UNIQUE,            -- NULL: not known
    tenants     INTEGER NOT NULL DEFAULT 0,
    quarantined INTEGER NOT NULL DEFAULT 0 -- of those
) STRICT;

CREATE TRIGGER tenants_schema_insert AFTER INSERT ON tenants WHEN new.state <> 'deleted' BEGIN
    INSERT INTO schema_counts (schema) SELECT new.schema_version
        WHERE NOT EXISTS (SELECT 1 FROM schema_counts WHERE schema IS new.schema_version);
    UPDATE schema_counts SET tenants = tenants + 1, quarantined = quarantined + (new.state = 'quarantined')
        WHERE schema IS new.schema_version;
END;
CREATE TRIGGER tenants_schema_delete AFTER DELETE ON tenants WHEN old.state <> 'deleted' BEGIN
    UPDATE schema_counts SET tenants = tenants - 1, quarantined = quarantined - (old.state = 'quarantined')
        WHERE schema IS old.schema_version;
END;
CREATE TRIGGER tenants_schema_update AFTER UPDATE OF state, schema_version ON tenants
WHEN old.state <> new.state OR old.schema_version IS NOT new.schema_version
BEGIN
    UPDATE schema_counts SET tenants = tenants - 1, quarantined = quarantined - (old.state = 'quarantined')
        WHERE schema IS old.schema_version AND old.state <> 'deleted';
    INSERT INTO schema_counts (schema) SELECT new.schema_version
        WHERE new.state <> 'deleted' AND NOT EXISTS (SELECT 1 FROM schema_counts WHERE schema IS new.schema_version);
    UPDATE schema_counts SET tenants = tenants + 1, quarantined = quarantined + (new.state = 'quarantined')
        WHERE schema IS new.schema_version AND new.state <> 'deleted';
END;

INSERT INTO schema_counts (schema, tenants, quarantined)
    SELECT schema_version, count(*), sum(state = 'quarantined') FROM tenants WHERE state <> 'deleted' GROUP BY schema_version;

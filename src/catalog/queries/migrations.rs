//! The migrations that have run on tenants' files.

use rusqlite::{Connection, Transaction, params};

use super::{Sql, all, change, first};
use crate::{sqlite::migrate::Step, tenants::id::TenantId};

/// The migrations that have run on some file, in the order of their versions.
pub fn applied(conn: &Connection) -> Sql<Vec<Step>> {
    all(conn, "SELECT version, name, checksum FROM tenant_migrations ORDER BY version", [], Step::from_row)
}

/// Adds migrations that are about to run on a file.
pub fn add_applied(tx: &Transaction, steps: &[Step]) -> Sql<()> {
    let sql =
        "INSERT INTO tenant_migrations (version, name, checksum) VALUES (?1, ?2, ?3) ON CONFLICT (version) DO NOTHING";
    let add = |step: &Step| change(tx, sql, params![step.version, step.name, step.checksum.to_string()]).map(drop);
    steps.iter().try_for_each(add)
}

/// Up to `limit` tenants that have a file: half of them those with the newest schema, half the first by id.
/// Scans all tenants.
pub fn some_with_files(conn: &Connection, limit: u32) -> Sql<Vec<TenantId>> {
    let sql = "SELECT id FROM (SELECT id FROM tenants WHERE state <> 'deleted' ORDER BY schema_version DESC LIMIT ?1) \
               UNION SELECT id FROM (SELECT id FROM tenants WHERE state <> 'deleted' ORDER BY id LIMIT ?1)";
    all(conn, sql, params![limit / 2], first)
}

/// The schema versions of tenants' files, those in the trash included; none for one that is not known.
/// Scans all tenants.
pub fn versions(conn: &Connection) -> Sql<Vec<Option<i32>>> {
    all(conn, "SELECT DISTINCT schema_version FROM tenants WHERE purged IS NULL", [], first)
}

/// Up to `limit` of the smallest active tenants that are behind `version` and have at most `bytes`. Those of the
/// smallest size come last: most of them are empty. Scans all tenants.
pub fn smallest_behind(conn: &Connection, version: i32, bytes: i64, limit: u32) -> Sql<Vec<TenantId>> {
    let sql = "WITH behind AS (SELECT id, coalesce(bytes, 0) AS size FROM tenants WHERE state = 'active' AND \
               schema_version IS NOT ?1 AND coalesce(bytes, 0) <= ?2) SELECT id FROM behind ORDER BY size = (SELECT \
               min(size) FROM behind), size, id LIMIT ?3";
    all(conn, sql, params![version, bytes, limit], first)
}

/// Of each schema of tenants [`behind`](super::behind) `version`, up to `limit` of the largest. Scans all tenants.
pub fn sample_behind(conn: &Connection, version: i32, limit: u32) -> Sql<Vec<TenantId>> {
    let behind = super::BEHIND;
    let sql = format!(
        "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY schema_version, schema_digest ORDER BY bytes DESC) \
         AS place FROM tenants WHERE {behind}) WHERE place <= ?2 ORDER BY id"
    );
    all(conn, &sql, params![version, limit], first)
}

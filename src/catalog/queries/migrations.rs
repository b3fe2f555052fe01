//! The migrations that have run on tenants' files.

use rusqlite::{Connection, Transaction, params};

use super::{Sql, unknown};
use crate::{sqlite::migrate::Step, tenants::id::TenantId};

/// The migrations that have run on some file, in the order of their versions.
pub fn applied(conn: &Connection) -> Sql<Vec<Step>> {
    conn.prepare_cached("SELECT version, name, checksum FROM tenant_migrations ORDER BY version")?
        .query_map([], Step::from_row)?
        .collect()
}

/// Adds migrations that are about to run on a file.
pub fn add_applied(tx: &Transaction, steps: &[Step]) -> Sql<()> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO tenant_migrations (version, name, checksum) VALUES (?1, ?2, ?3) ON CONFLICT (version) DO NOTHING",
    )?;
    for step in steps {
        statement.execute(params![step.version, step.name, step.checksum.to_string()])?;
    }
    Ok(())
}

/// Up to `limit` tenants that have a file: half of them those with the newest schema, half the first by id.
/// Scans all tenants.
pub fn some_with_files(conn: &Connection, limit: u32) -> Sql<Vec<TenantId>> {
    let sql = "SELECT id FROM (SELECT id FROM tenants WHERE state <> 'deleted' ORDER BY schema_version DESC LIMIT ?1) \
               UNION SELECT id FROM (SELECT id FROM tenants WHERE state <> 'deleted' ORDER BY id LIMIT ?1)";
    ids(conn, sql, params![limit / 2])
}

/// The schema versions of tenants' files, those in the trash included; none for one that is not known.
/// Scans all tenants.
pub fn versions(conn: &Connection) -> Sql<Vec<Option<i32>>> {
    let sql = "SELECT DISTINCT schema_version FROM tenants WHERE purged IS NULL";
    conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// Up to `limit` of the smallest active tenants that are behind `version` and have at most `bytes`. Those of the
/// smallest size come last: most of them are empty. Scans all tenants.
pub fn smallest_behind(conn: &Connection, version: i32, bytes: i64, limit: u32) -> Sql<Vec<TenantId>> {
    let sql = "WITH behind AS (SELECT id, coalesce(bytes, 0) AS size FROM tenants WHERE state = 'active' AND \
               schema_version IS NOT ?1 AND coalesce(bytes, 0) <= ?2) SELECT id FROM behind ORDER BY size = (SELECT \
               min(size) FROM behind), size, id LIMIT ?3";
    ids(conn, sql, params![version, bytes, limit])
}

/// Of each schema of tenants [`behind`](super::behind) `version`, up to `limit` of the largest. Scans all tenants.
pub fn sample_behind(conn: &Connection, version: i32, limit: u32) -> Sql<Vec<TenantId>> {
    let behind = super::BEHIND;
    let sql = format!(
        "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY schema_version, schema_digest ORDER BY bytes DESC) \
         AS place FROM tenants WHERE {behind}) WHERE place <= ?2 ORDER BY id"
    );
    ids(conn, &sql, params![version, limit])
}

fn ids(conn: &Connection, sql: &str, values: impl rusqlite::Params) -> Sql<Vec<TenantId>> {
    conn.prepare(sql)?
        .query_map(values, |row| {
            let id: String = row.get(0)?;
            id.parse().map_err(|_| unknown(0, &id))
        })?
        .collect()
}

//! Which migrations the tenants' files have had.

use rusqlite::{Connection, Transaction, params};

use super::{Sql, unknown};
use crate::{sqlite::migrate::Step, tenants::id::TenantId};

/// The migrations that have run on some file, in the order of their versions.
pub fn applied(conn: &Connection) -> Sql<Vec<Step>> {
    conn.prepare_cached("SELECT version, name, checksum FROM tenant_migrations ORDER BY version")?
        .query_map([], Step::from_row)?
        .collect()
}

/// Adds those that are about to run on one.
pub fn add_applied(tx: &Transaction, steps: &[Step]) -> Sql<()> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO tenant_migrations (version, name, checksum) VALUES (?1, ?2, ?3) ON CONFLICT (version) DO NOTHING",
    )?;
    for step in steps {
        statement.execute(params![step.version, step.name, step.checksum.to_string()])?;
    }
    Ok(())
}

/// Up to `limit` tenants that have a file: half of them those of the newest schema, and half the first ones.
/// Looks at every tenant.
pub fn some_with_files(conn: &Connection, limit: u32) -> Sql<Vec<TenantId>> {
    let sql = "SELECT id FROM (SELECT id FROM tenants WHERE state <> 'deleted' ORDER BY schema_version DESC LIMIT ?1) \
               UNION SELECT id FROM (SELECT id FROM tenants WHERE state <> 'deleted' ORDER BY id LIMIT ?1)";
    ids(conn, sql, params![limit / 2])
}

/// Of each schema that tenants behind `version` have, up to `limit` of the largest; see
/// [`behind`](super::behind). Looks at every tenant.
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

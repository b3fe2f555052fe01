//! Which tenants have files, for a restore: read with no more than the first version of the catalog has.

use rusqlite::{Connection, params};

use super::{Sql, all};
use crate::{catalog::model::State, clock::Millis, tenants::id::TenantId};

/// A tenant that has a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HasFile {
    /// Its id.
    pub id: TenantId,
    /// Its state.
    pub state: State,
    /// When it was created.
    pub created: Millis,
}

/// How many tenants have files, and their bytes as far as they are known.
pub fn totals(conn: &Connection) -> Sql<(u64, u64)> {
    let sql = "SELECT count(*), coalesce(sum(bytes), 0) FROM tenants WHERE purged IS NULL";
    let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
    conn.query_row(sql, [], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))
}

/// Up to `limit` tenants that have files, after `after`.
pub fn with_files(conn: &Connection, after: Option<&TenantId>, limit: u32) -> Sql<Vec<HasFile>> {
    let sql = "SELECT id, state, created FROM tenants WHERE id > ?1 AND purged IS NULL ORDER BY id LIMIT ?2";
    all(conn, sql, params![after.map_or("", TenantId::as_str), limit], |row| {
        Ok(HasFile { id: row.get(0)?, state: row.get(1)?, created: row.get(2)? })
    })
}

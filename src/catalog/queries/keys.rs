//! SQL on API keys.

use rusqlite::{Connection, Row as SqlRow, Transaction, named_params, params};

use super::{Sql, all, change, one};
use crate::{
    catalog::model::{KeyRow, Millis},
    tenants::id::TenantId,
};

const COLUMNS: &str = "id, name, hint, tenant, read_only, created, expires, revoked, last_used, sql";

/// Adds a key. `false` if there are `most` valid ones already.
pub fn insert(tx: &Transaction, key: &KeyRow, hash: &[u8; 32], most: u32) -> Sql<bool> {
    let sql = "INSERT INTO api_keys (id, hash, name, hint, tenant, read_only, sql, created, expires) SELECT :id, :hash, \
               :name, :hint, :tenant, :read_only, :sql, :created, :expires WHERE (SELECT count(*) FROM api_keys WHERE \
               revoked IS NULL AND (expires IS NULL OR expires > :created)) < :most";
    let values = named_params! {
        ":id": key.id, ":hash": hash, ":name": key.name, ":hint": key.hint,
        ":tenant": key.tenant.as_ref().map(TenantId::as_str), ":read_only": key.read_only, ":sql": key.sql,
        ":created": key.created, ":expires": key.expires, ":most": most,
    };
    change(tx, sql, values)
}

/// Deletes the rows of revoked and expired keys, except the `most` that ended last.
pub fn delete_ended(tx: &Transaction, now: Millis, most: u32) -> Sql<usize> {
    tx.prepare_cached(
        "DELETE FROM api_keys WHERE id IN (SELECT id FROM api_keys WHERE revoked IS NOT NULL OR expires <= ?1 ORDER BY \
         min(ifnull(revoked, expires), ifnull(expires, revoked)) DESC LIMIT -1 OFFSET ?2)",
    )?
    .execute(params![now, most])
}

/// All keys, newest last.
pub fn list(conn: &Connection) -> Sql<Vec<KeyRow>> {
    all(conn, &format!("SELECT {COLUMNS} FROM api_keys ORDER BY created, id"), [], key)
}

/// The keys that are valid at `now`, with their digests.
pub fn valid(conn: &Connection, now: Millis) -> Sql<Vec<(KeyRow, [u8; 32])>> {
    let sql =
        format!("SELECT {COLUMNS}, hash FROM api_keys WHERE revoked IS NULL AND (expires IS NULL OR expires > ?1)");
    all(conn, &sql, [now], |row| Ok((key(row)?, row.get(10)?)))
}

/// Revokes a key. Its row after that, or `None` if no key has this id.
pub fn revoke(tx: &Transaction, id: &str, now: Millis) -> Sql<Option<KeyRow>> {
    change(tx, "UPDATE api_keys SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL", params![id, now])?;
    one(tx, &format!("SELECT {COLUMNS} FROM api_keys WHERE id = ?1"), [id], key)
}

/// Writes a batch of uses.
pub fn record_uses(tx: &Transaction, uses: &[(String, Millis)]) -> Sql<()> {
    let sql = "UPDATE api_keys SET last_used = ?2 WHERE id = ?1";
    uses.iter().try_for_each(|(id, at)| change(tx, sql, params![id, at]).map(drop))
}

fn key(row: &SqlRow) -> Sql<KeyRow> {
    Ok(KeyRow {
        id: row.get(0)?,
        name: row.get(1)?,
        hint: row.get(2)?,
        tenant: row.get(3)?,
        read_only: row.get(4)?,
        created: row.get(5)?,
        expires: row.get(6)?,
        revoked: row.get(7)?,
        last_used: row.get(8)?,
        sql: row.get(9)?,
    })
}

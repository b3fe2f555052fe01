//! SQL on API keys.

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, Transaction, named_params, params, types::Type};

use super::KeyRow;
use crate::{catalog::model::Millis, tenants::id::TenantId};

type Sql<T> = rusqlite::Result<T>;

const COLUMNS: &str = "id, name, hint, tenant, read_only, created, expires, revoked, last_used";

/// Adds a key. `false` if there are `most` valid ones already.
pub fn insert(tx: &Transaction, key: &KeyRow, hash: &[u8; 32], most: u32) -> Sql<bool> {
    let added = tx
        .prepare_cached(
            "INSERT INTO api_keys (id, hash, name, hint, tenant, read_only, created, expires) SELECT :id, :hash, :name, \
             :hint, :tenant, :read_only, :created, :expires WHERE (SELECT count(*) FROM api_keys WHERE revoked IS NULL \
             AND (expires IS NULL OR expires > :created)) < :most",
        )?
        .execute(named_params! {
            ":id": key.id, ":hash": hash, ":name": key.name, ":hint": key.hint,
            ":tenant": key.tenant.as_ref().map(TenantId::as_str), ":read_only": key.read_only,
            ":created": key.created, ":expires": key.expires, ":most": most,
        })?;
    Ok(added == 1)
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
    conn.prepare_cached(&format!("SELECT {COLUMNS} FROM api_keys ORDER BY created, id"))?.query_map([], key)?.collect()
}

/// The keys that are valid at `now`, with their digests.
pub fn valid(conn: &Connection, now: Millis) -> Sql<Vec<(KeyRow, [u8; 32])>> {
    conn.prepare_cached(&format!(
        "SELECT {COLUMNS}, hash FROM api_keys WHERE revoked IS NULL AND (expires IS NULL OR expires > ?1)"
    ))?
    .query_map([now], |row| Ok((key(row)?, row.get(9)?)))?
    .collect()
}

/// Revokes a key. Its row after that, or `None` if no key has this id.
pub fn revoke(tx: &Transaction, id: &str, now: Millis) -> Sql<Option<KeyRow>> {
    tx.prepare_cached("UPDATE api_keys SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL")?
        .execute(params![id, now])?;
    tx.prepare_cached(&format!("SELECT {COLUMNS} FROM api_keys WHERE id = ?1"))?.query_row([id], key).optional()
}

/// Writes a batch of uses.
pub fn record_uses(tx: &Transaction, uses: &[(String, Millis)]) -> Sql<()> {
    let mut statement = tx.prepare_cached("UPDATE api_keys SET last_used = ?2 WHERE id = ?1")?;
    for (id, at) in uses {
        statement.execute(params![id, at])?;
    }
    Ok(())
}

fn key(row: &SqlRow) -> Sql<KeyRow> {
    let tenant: Option<String> = row.get(3)?;
    let tenant = tenant.map(|id| {
        id.parse().map_err(|_| rusqlite::Error::FromSqlConversionFailure(3, Type::Text, format!("{id:?}").into()))
    });
    Ok(KeyRow {
        id: row.get(0)?,
        name: row.get(1)?,
        hint: row.get(2)?,
        tenant: tenant.transpose()?,
        read_only: row.get(4)?,
        created: row.get(5)?,
        expires: row.get(6)?,
        revoked: row.get(7)?,
        last_used: row.get(8)?,
    })
}

//! The log of webhook deliveries.

use rusqlite::{Connection, Row as SqlRow, ToSql, Transaction, named_params, params};

use super::{Sql, change, one, search::Cursor};
use crate::{
    catalog::model::{Delivery, DeliveryOutcome, Millis, Recorded},
    tenants::id::TenantId,
};

const COLUMNS: &str = "svix_id, type, tenant, received, updated, outcome, attempts, duration_us, error";

/// How an earlier attempt at a delivery ended.
#[derive(Debug, Clone)]
pub struct First {
    /// Its outcome.
    pub outcome: DeliveryOutcome,
    /// What was answered, JSON.
    pub answer: Option<String>,
    /// Why it failed or was rejected.
    pub error: Option<String>,
}

/// How an earlier attempt at a delivery ended, if there was one.
pub fn first(conn: &Connection, svix_id: &str) -> Sql<Option<First>> {
    one(conn, "SELECT outcome, answer, error FROM deliveries WHERE svix_id = ?1", [svix_id], |row| {
        Ok(First { outcome: row.get(0)?, answer: row.get(1)?, error: row.get(2)? })
    })
}

/// When a delivery was first received, if it was.
pub fn first_received(conn: &Connection, svix_id: &str) -> Sql<Option<Millis>> {
    one(conn, "SELECT received FROM deliveries WHERE svix_id = ?1", [svix_id], super::first)
}

/// Records an attempt at a delivery. Its outcome replaces that of earlier attempts.
pub fn record(tx: &Transaction, d: &Delivery) -> Sql<()> {
    let sql = "INSERT INTO deliveries (svix_id, type, tenant, received, updated, outcome, duration_us, error, answer, \
               body) VALUES (:id, :type, :tenant, :at, :at, :outcome, :duration, :error, :answer, :body) ON CONFLICT \
               (svix_id) DO UPDATE SET attempts = attempts + 1, updated = excluded.updated, outcome = \
               excluded.outcome, error = excluded.error, answer = excluded.answer, duration_us = \
               excluded.duration_us, body = iif(excluded.body IS NULL, NULL, body)";
    let values = named_params! {
        ":id": d.svix_id, ":type": d.kind, ":tenant": d.tenant.as_ref().map(TenantId::as_str), ":at": d.received,
        ":outcome": d.outcome.as_str(), ":duration": d.duration_us, ":error": d.error, ":answer": d.answer,
        ":body": d.body.as_deref(),
    };
    change(tx, sql, values).map(drop)
}

/// The record of one delivery.
pub fn find(conn: &Connection, svix_id: &str) -> Sql<Option<Recorded>> {
    one(conn, &format!("SELECT {COLUMNS} FROM deliveries WHERE svix_id = ?1"), [svix_id], recorded)
}

/// The message itself, while it is kept.
pub fn body(conn: &Connection, svix_id: &str) -> Sql<Option<Vec<u8>>> {
    Ok(one(conn, "SELECT body FROM deliveries WHERE svix_id = ?1", [svix_id], super::first)?.flatten())
}

/// Which deliveries to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this outcome.
    pub outcome: Option<DeliveryOutcome>,
    /// Of this type.
    pub kind: Option<String>,
    /// About this tenant.
    pub tenant: Option<TenantId>,
    /// Behind this place: when the last one of the page before was received, and its id.
    pub cursor: Option<Cursor>,
}

/// Up to `limit` deliveries, newest first.
pub fn list(conn: &Connection, filter: &Filter, limit: u32) -> Sql<Vec<Recorded>> {
    let (tenant, outcome) = (filter.tenant.as_ref().map(TenantId::as_str), filter.outcome.map(DeliveryOutcome::as_str));
    let mut given: Vec<(&str, &dyn ToSql)> = vec![(":limit", &limit)];
    // Each filter uses the index that has its rows in order. A user's deliveries are few, and those of an outcome fewer than
    // those of a type: the plus keeps SQLite from using the index of the other.
    let mut conditions = Vec::new();
    if let Some(tenant) = &tenant {
        conditions.push("tenant = :tenant");
        given.push((":tenant", tenant));
    }
    if let Some(outcome) = &outcome {
        conditions.push(if tenant.is_some() { "+outcome = :outcome" } else { "outcome = :outcome" });
        given.push((":outcome", outcome));
    }
    if let Some(kind) = &filter.kind {
        conditions.push(if conditions.is_empty() { "type = :type" } else { "+type = :type" });
        given.push((":type", kind));
    }
    if let Some(cursor) = &filter.cursor {
        conditions.push("(received, svix_id) < (:at, :id)");
        given.extend([(":at", &cursor.key as &dyn ToSql), (":id", &cursor.id as &dyn ToSql)]);
    }
    let filter = if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
    let sql = format!("SELECT {COLUMNS} FROM deliveries {filter} ORDER BY received DESC, svix_id DESC LIMIT :limit");
    conn.prepare_cached(&sql)?.query_map(&given[..], recorded)?.collect()
}

/// The type of test deliveries, which an operator has the server send to itself.
pub const TEST: &str = "cubby.test";

/// When the newest delivery was received that is no test: those say nothing of the sender.
pub fn newest(conn: &Connection) -> Sql<Option<Millis>> {
    let sql = "SELECT received FROM deliveries WHERE type <> ?1 ORDER BY received DESC LIMIT 1";
    one(conn, sql, [TEST], super::first)
}

/// How many deliveries failed since `since` and have not succeeded yet.
pub fn failing(conn: &Connection, since: Millis) -> Sql<u64> {
    conn.prepare_cached("SELECT count(*) FROM deliveries WHERE outcome = 'failed' AND updated >= ?1")?
        .query_row([since], |row| row.get(0).map(i64::unsigned_abs))
}

/// The time before which deliveries must be deleted so that at most `most` are left; none if there are no more than
/// that.
pub fn beyond(conn: &Connection, most: u32) -> Sql<Option<Millis>> {
    one(conn, "SELECT received + 1 FROM deliveries ORDER BY received DESC LIMIT 1 OFFSET ?1", [most], super::first)
}

/// Deletes up to `limit` deliveries received before `before`; returns how many. The newest that is no test
/// stays without its body: its age is a metric.
pub fn delete_before(tx: &Transaction, before: Millis, limit: u32) -> Sql<usize> {
    let newest = newest(tx)?;
    let sql =
        "UPDATE deliveries SET body = NULL, error = NULL WHERE received = ?1 AND received < ?2 AND body IS NOT NULL";
    change(tx, sql, params![newest, before])?;
    tx.prepare_cached(
        "DELETE FROM deliveries WHERE svix_id IN (SELECT svix_id FROM deliveries WHERE received < ?2 AND received IS NOT ?1 \
         ORDER BY received LIMIT ?3)",
    )?
    .execute(params![newest, before, limit])
}

fn recorded(row: &SqlRow) -> Sql<Recorded> {
    Ok(Recorded {
        svix_id: row.get(0)?,
        r#type: row.get(1)?,
        user_id: row.get(2)?,
        received: row.get(3)?,
        updated: row.get(4)?,
        outcome: row.get(5)?,
        attempts: row.get(6)?,
        duration_us: row.get(7)?,
        error: row.get(8)?,
    })
}

//! SQL on what tenants used, by day.

use rusqlite::{Connection, Row as SqlRow, Transaction, params};

use super::{Sql, all};
use crate::{
    catalog::{
        model::Millis,
        usage::{Count, DayUse},
    },
    clock::day::Day,
    tenants::id::TenantId,
};

/// How much older than now `last_seen` may be of a tenant that was used just now: each change of it changes indexes.
const SEEN_WITHIN: Millis = 5 * 60 * 1000;

/// Adds what tenants used until now, and notes when that was. Of a purged tenant nothing is written.
pub fn add(tx: &Transaction, uses: &[DayUse], now: Millis) -> Sql<()> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO usage_days (day, tenant, bytes, requests, writes) SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 \
         FROM tenants WHERE id = ?2 AND purged IS NULL) ON CONFLICT (day, tenant) DO UPDATE SET bytes = \
         excluded.bytes, requests = requests + excluded.requests, writes = writes + excluded.writes",
    )?;
    let mut seen = tx.prepare_cached(
        // One in the future is of a clock that was wrong.
        "UPDATE tenants SET last_seen = ?2 WHERE id = ?1 AND purged IS NULL AND (last_seen IS NULL OR last_seen NOT \
         BETWEEN ?3 AND ?2)",
    )?;
    for one in uses {
        let [bytes, requests, writes] =
            [one.bytes, one.count.requests, one.count.writes].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        statement.execute(params![one.day.number(), one.user_id.as_str(), bytes, requests, writes])?;
        seen.execute(params![one.user_id.as_str(), now, now - SEEN_WITHIN])?;
    }
    Ok(())
}

/// Up to `limit` rows of the days up to `last` after the row of `after`, in the order of days and ids.
pub fn page(conn: &Connection, after: (Day, &str), last: Day, limit: u32) -> Sql<Vec<DayUse>> {
    let sql = "SELECT day, tenant, bytes, requests, writes FROM usage_days WHERE (day, tenant) > (?1, ?2) AND day <= ?3 \
               ORDER BY day, tenant LIMIT ?4";
    all(conn, sql, params![after.0.number(), after.1, last.number(), limit], read)
}

/// One tenant's row of a day.
pub fn of_day(conn: &Connection, day: Day, tenant: &TenantId) -> Sql<Option<DayUse>> {
    let sql = "SELECT day, tenant, bytes, requests, writes FROM usage_days WHERE day = ?1 AND tenant = ?2";
    super::one(conn, sql, params![day.number(), tenant.as_str()], read)
}

/// Removes up to `limit` rows of the days before `day`; says how many.
pub fn forget(tx: &Transaction, day: Day, limit: u32) -> Sql<usize> {
    tx.prepare_cached(
        "DELETE FROM usage_days WHERE (day, tenant) IN (SELECT day, tenant FROM usage_days WHERE day < ?1 ORDER BY day, \
         tenant LIMIT ?2)",
    )?
    .execute(params![day.number(), limit])
}

/// Removes all rows of a tenant: one search for each day that has any, since no index is by tenant.
pub fn erase(tx: &Transaction, tenant: &TenantId) -> Sql<()> {
    let mut next = tx.prepare_cached("SELECT min(day) FROM usage_days WHERE day > ?1")?;
    let mut remove = tx.prepare_cached("DELETE FROM usage_days WHERE day = ?1 AND tenant = ?2")?;
    let mut day = i64::MIN;
    while let Some(found) = next.query_row([day], |row| row.get::<_, Option<i64>>(0))? {
        remove.execute(params![found, tenant.as_str()])?;
        day = found;
    }
    Ok(())
}

fn read(row: &SqlRow) -> Sql<DayUse> {
    let number = |column| super::number(row, column).map(Option::unwrap_or_default);
    Ok(DayUse {
        day: Day::from_number(row.get(0)?),
        user_id: row.get(1)?,
        bytes: number(2)?,
        count: Count { requests: number(3)?, writes: number(4)? },
    })
}

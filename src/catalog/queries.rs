//! All SQL on the catalog. Reads take a [`Connection`], writes a [`Transaction`].

use rusqlite::{
    Connection, OptionalExtension, Params, Row as SqlRow, Transaction, named_params, params,
    types::{FromSql, FromSqlError, FromSqlResult, ValueRef},
};

use super::{
    model::{Counts, DeliveryOutcome, Millis, Profile, Row, State, UsageSample},
    quota::Quota,
};
use crate::{rate::Rate, tenants::id::TenantId};

pub mod audit;
pub mod bulk;
pub mod deliveries;
pub mod keys;
pub mod migrations;
pub mod placement;
pub mod quota;
pub mod rollouts;
pub mod runs;
pub mod salvage;
pub mod search;
pub mod search_merge;
pub mod tombstones;
pub mod usage;

type Sql<T> = rusqlite::Result<T>;

/// Reads columns by the type's own parser.
macro_rules! parsed_from_sql {
    ($($type:ty),+) => {$(
        impl FromSql for $type {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let text = value.as_str()?;
                text.parse().map_err(|_| FromSqlError::Other(format!("unexpected value {text:?}").into()))
            }
        }
    )+};
}

parsed_from_sql!(State, DeliveryOutcome, TenantId, Rate);

/// Runs a write. Whether it changed a row.
fn change(tx: &Transaction, sql: &str, values: impl Params) -> Sql<bool> {
    Ok(tx.prepare_cached(sql)?.execute(values)? > 0)
}

/// All rows of a query.
fn all<T>(conn: &Connection, sql: &str, values: impl Params, read: fn(&SqlRow) -> Sql<T>) -> Sql<Vec<T>> {
    conn.prepare_cached(sql)?.query_map(values, read)?.collect()
}

/// The row of a query, if there is one.
fn one<T>(conn: &Connection, sql: &str, values: impl Params, read: fn(&SqlRow) -> Sql<T>) -> Sql<Option<T>> {
    conn.prepare_cached(sql)?.query_row(values, read).optional()
}

/// The first column of a row.
fn first<T: FromSql>(row: &SqlRow) -> Sql<T> {
    row.get(0)
}

/// A number that is not negative; none where there is none.
fn number(row: &SqlRow, column: usize) -> Sql<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.and_then(|n| u64::try_from(n).ok()))
}

const COLUMNS: &str = "id, state, reason, faults, retry_at, created, deleted, purge_after, purged, schema_version, \
                       bytes, last_seen, last_backup, workspace, email, first_name, last_name, username, image_url, \
                       role, provider_updated_at, provider_event_at, provider_metadata, restored, fault, fault_at, \
                       state_before, reason_before, deletion_reported, drifted, quota_bytes, quota_rate";

/// The row of one tenant.
pub fn find(conn: &Connection, id: &TenantId) -> Sql<Option<Row>> {
    one(conn, &format!("SELECT {COLUMNS} FROM tenants WHERE id = ?1"), [id.as_str()], tenant)
}

/// The columns that decide whether a tenant may be opened.
#[derive(Debug, Clone)]
pub struct AccessRow {
    /// The state.
    pub state: State,
    /// Why, when not active.
    pub reason: Option<String>,
    /// How often in a row it was quarantined: the column `faults`.
    pub consecutive_quarantines: u32,
    /// When a quarantined one is tried again.
    pub retry_at: Option<Millis>,
    /// When it was last opened or closed.
    pub last_seen: Option<Millis>,
    /// The size of its file when it was last closed.
    pub bytes: Option<u64>,
    /// When `consecutive_quarantines` counts as 0 again, for a tenant whose quarantine ended.
    pub healthy_at: Option<Millis>,
    /// The digest of the schema of the program that quarantined it.
    pub quarantine_digest: Option<i64>,
    /// What an operator has set for it.
    pub quota: Quota,
}

/// Reads an [`AccessRow`].
pub fn access_row(conn: &Connection, id: &TenantId) -> Sql<Option<AccessRow>> {
    let sql = "SELECT state, reason, faults, retry_at, last_seen, bytes, healthy_at, quarantine_digest, \
               quota_bytes, quota_rate FROM tenants WHERE id = ?1";
    one(conn, sql, [id.as_str()], |row| {
        Ok(AccessRow {
            state: row.get(0)?,
            reason: row.get(1)?,
            consecutive_quarantines: row.get(2)?,
            retry_at: row.get(3)?,
            last_seen: row.get(4)?,
            bytes: number(row, 5)?,
            healthy_at: row.get(6)?,
            quarantine_digest: row.get(7)?,
            quota: Quota { bytes: number(row, 8)?, rate: row.get(9)? },
        })
    })
}

/// Up to `limit` tenants after `after` in the order of ids, in one state or in any.
pub fn list(conn: &Connection, state: Option<State>, after: Option<&str>, limit: u32) -> Sql<Vec<Row>> {
    let filter = match state {
        Some(State::Active) => "state = 'active' AND".to_owned(),
        // SQLite uses a partial index only if the query repeats its WHERE clause. Without the index, listing the few
        // suspended tenants scans all.
        Some(state) => format!("state <> 'active' AND state = '{state}' AND"),
        None => String::new(),
    };
    let sql = format!("SELECT {COLUMNS} FROM tenants WHERE {filter} id > ?1 ORDER BY id LIMIT ?2");
    all(conn, &sql, params![after.unwrap_or(""), limit], tenant)
}

/// Writes since when the schema of a tenant's file is not that of the migrations; none if it is.
pub fn set_drifted(tx: &Transaction, id: &TenantId, since: Option<Millis>) -> Sql<bool> {
    change(tx, "UPDATE tenants SET drifted = ?2 WHERE id = ?1", params![id.as_str(), since])
}

/// The tenants that an eager migration visits: those whose file is not known to have the schema's version, or has it
/// by other migrations than those of [`set_current_schema`]; and the quarantined.
const BEHIND: &str = "state <> 'deleted' AND (schema_version IS NOT ?1 OR state = 'quarantined' OR schema_digest IS \
                      NOT (SELECT digest FROM current_schema))";

/// Up to `limit` tenants after `after` that are behind `version`; see `BEHIND`.
pub fn behind(conn: &Connection, version: i32, after: Option<&str>, limit: u32) -> Sql<Vec<TenantId>> {
    let sql = format!("SELECT id FROM tenants WHERE id > ?2 AND {BEHIND} ORDER BY id LIMIT ?3");
    all(conn, &sql, params![version, after.unwrap_or(""), limit], first)
}

/// The number of tenants that [`behind`] lists.
pub fn count_behind(conn: &Connection, version: i32) -> Sql<u64> {
    conn.query_row(&format!("SELECT count(*) FROM tenants WHERE {BEHIND}"), [version], first).map(i64::unsigned_abs)
}

/// How many tenants are in each state. Reads four rows.
pub fn counts(conn: &Connection) -> Sql<Counts> {
    let mut counts = Counts::default();
    let rows = all(conn, "SELECT state, n FROM tenant_counts", [], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
    for (state, n) in rows {
        let n = u64::try_from(n).unwrap_or(0);
        match state {
            State::Active => counts.active = n,
            State::Suspended => counts.suspended = n,
            State::Deleted => counts.deleted = n,
            State::Quarantined => counts.quarantined = n,
        }
    }
    Ok(counts)
}

/// Adds an active tenant. `false` if its id is known already, in whatever state.
pub fn insert(tx: &Transaction, id: &TenantId, now: Millis, schema_version: i32, profile: &Profile) -> Sql<bool> {
    // With the profile in the same statement the index of the search is written once.
    let sql = "INSERT INTO tenants (id, state, created, schema_version, schema_digest, email, first_name, \
               last_name, username, image_url, role, provider_updated_at, provider_event_at, provider_metadata) VALUES \
               (:id, 'active', :now, :schema, (SELECT digest FROM current_schema), :email, :first, :last, \
               :username, :image, coalesce(:role, 'client'), :updated, :event, :metadata) ON CONFLICT (id) DO NOTHING";
    let values = named_params! {
        ":id": id.as_str(), ":now": now, ":schema": schema_version, ":email": profile.email,
        ":first": profile.first_name, ":last": profile.last_name, ":username": profile.username,
        ":image": profile.image_url, ":role": profile.role, ":updated": profile.provider_updated_at,
        ":event": profile.provider_event_at, ":metadata": profile.provider_metadata,
    };
    change(tx, sql, values)
}

/// Writes the provider's view of a tenant.
pub fn set_profile(tx: &Transaction, id: &TenantId, profile: &Profile) -> Sql<bool> {
    let sql = "UPDATE tenants SET email = :email, first_name = :first, last_name = :last, username = :username, \
               image_url = :image, role = coalesce(:role, 'client'), provider_updated_at = :updated, \
               provider_event_at = :event, provider_metadata = :metadata WHERE id = :id";
    let values = named_params! {
        ":id": id.as_str(), ":email": profile.email, ":first": profile.first_name, ":last": profile.last_name,
        ":username": profile.username, ":image": profile.image_url, ":role": profile.role,
        ":updated": profile.provider_updated_at, ":event": profile.provider_event_at,
        ":metadata": profile.provider_metadata,
    };
    change(tx, sql, values)
}

/// Makes a tenant active and clears its reason and its quarantines. `false` for a deleted one; see
/// [`tombstones::restore`].
pub fn activate(tx: &Transaction, id: &TenantId) -> Sql<bool> {
    let sql = "UPDATE tenants SET state = 'active', reason = NULL, faults = 0, retry_at = NULL, healthy_at = NULL, \
               quarantine_digest = NULL WHERE id = ?1 AND state <> 'deleted'";
    change(tx, sql, [id.as_str()])
}

/// Ends the quarantine of a tenant whose file could be opened. The number of its quarantines is kept until
/// `healthy_at`: pages that an open does not read may still be damaged.
pub fn end_quarantine(tx: &Transaction, id: &TenantId, healthy_at: Millis) -> Sql<bool> {
    let sql = "UPDATE tenants SET state = 'active', reason = NULL, retry_at = NULL, healthy_at = ?2, quarantine_digest \
               = NULL WHERE id = ?1 AND state = 'quarantined'";
    change(tx, sql, params![id.as_str(), healthy_at])
}

/// Suspends a tenant that is not deleted.
pub fn suspend(tx: &Transaction, id: &TenantId, reason: &str) -> Sql<bool> {
    let sql =
        "UPDATE tenants SET state = 'suspended', reason = ?2, retry_at = NULL WHERE id = ?1 AND state <> 'deleted'";
    change(tx, sql, params![id.as_str(), reason])
}

/// A quarantine.
#[derive(Debug, Clone)]
pub struct Quarantine {
    /// Why.
    pub reason: String,
    /// When its file is tried again; none if only an operator may let it be used again.
    pub retry_at: Option<Millis>,
    /// How often in a row the tenant was quarantined, with this one.
    pub consecutive: u32,
    /// The digest of the schema that the program had.
    pub digest: i64,
}

/// Quarantines a tenant, unless it is until an operator has looked.
pub fn quarantine(tx: &Transaction, id: &TenantId, quarantine: &Quarantine) -> Sql<bool> {
    let Quarantine { reason, retry_at, consecutive, digest } = quarantine;
    let sql = "UPDATE tenants SET state = 'quarantined', reason = ?2, retry_at = ?3, faults = ?4, quarantine_digest = \
               ?5, healthy_at = NULL WHERE id = ?1 AND (state = 'active' OR (state = 'quarantined' AND retry_at IS NOT NULL))";
    change(tx, sql, params![id.as_str(), reason, retry_at, consecutive, digest])
}

/// Quarantines a tenant until an operator has looked, also a suspended one. It has no time of a retry and, also while
/// it is deleted, the digest 0.
pub fn quarantine_for_operator(tx: &Transaction, id: &TenantId, reason: &str) -> Sql<bool> {
    let sql = "UPDATE tenants SET state = 'quarantined', reason = CASE state WHEN 'suspended' THEN ?2 || '. The user was \
               suspended: ' || coalesce(reason, 'without a reason') ELSE ?2 END, retry_at = NULL, faults = 1, \
               quarantine_digest = 0, healthy_at = NULL WHERE id = ?1 AND state <> 'deleted'";
    change(tx, sql, params![id.as_str(), reason])
}

/// The newest time in the catalog. The system's clock may be behind it, before the machine has asked a time server.
pub(super) fn newest_moment(conn: &Connection) -> Sql<Millis> {
    let sql = "SELECT max(coalesce((SELECT max(received) FROM deliveries), 0), coalesce((SELECT max(at) FROM (SELECT \
               at FROM audit ORDER BY id DESC LIMIT 100)), 0))";
    conn.prepare_cached(sql)?.query_row([], first)
}

/// Marks a tenant deleted; its file may be removed after `purge_after`, and later by as much as `now` is behind
/// the newest time in the catalog. Its state is kept for [`tombstones::restore`].
pub fn mark_deleted(tx: &Transaction, id: &TenantId, now: Millis, purge_after: Millis) -> Sql<bool> {
    let behind = newest_moment(tx)?.saturating_sub(now).max(0);
    let purge_after = if purge_after > now { purge_after.saturating_add(behind) } else { purge_after };
    let sql = "UPDATE tenants SET state = 'deleted', state_before = nullif(state, 'active'), reason = NULL, \
               reason_before = reason, retry_at = NULL, deleted = ?2, purge_after = ?3 WHERE id = ?1 AND state <> \
               'deleted'";
    change(tx, sql, params![id.as_str(), now, purge_after])
}

/// Records the schema that a tenant's file was migrated to.
pub fn set_schema(tx: &Transaction, id: &TenantId, version: i32) -> Sql<()> {
    let sql =
        "UPDATE tenants SET schema_version = ?2, schema_digest = (SELECT digest FROM current_schema) WHERE id = ?1";
    change(tx, sql, params![id.as_str(), version]).map(drop)
}

/// Records the digest of the migrations of the program that has the folder.
pub fn set_current_schema(tx: &Transaction, digest: i64) -> Sql<()> {
    let sql = "INSERT INTO current_schema (one, digest) VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET digest = \
               excluded.digest WHERE digest <> excluded.digest";
    change(tx, sql, [digest]).map(drop)
}

/// Records the newest fault of a tenant; its state does not change. A tombstone is not changed.
pub fn record_fault(tx: &Transaction, id: &TenantId, at: Millis, what: &str) -> Sql<()> {
    let sql = "UPDATE tenants SET fault = ?2, fault_at = ?3 WHERE id = ?1 AND purged IS NULL";
    change(tx, sql, params![id.as_str(), what, at]).map(drop)
}

/// Writes a batch of usage samples. Tombstones are not changed.
pub fn record_usage_samples(tx: &Transaction, usage_samples: &[UsageSample]) -> Sql<()> {
    let mut statement = tx.prepare_cached(
        "UPDATE tenants SET bytes = ?2, schema_version = ?3, schema_digest = (SELECT digest FROM current_schema) \
             WHERE id = ?1 AND purged IS NULL",
    )?;
    for sample in usage_samples {
        let bytes = i64::try_from(sample.bytes).unwrap_or(i64::MAX);
        statement.execute(params![sample.id.as_str(), bytes, sample.schema_version])?;
    }
    Ok(())
}

/// Tests that the catalog can be written, by a write that leaves it as it was. It takes two updates: SQLite does not
/// write a page that an update leaves as it was, and then there is nothing to commit.
pub fn test_write(tx: &Transaction) -> Sql<()> {
    let mut add = tx.prepare_cached("UPDATE tenant_counts SET n = n + ?1 WHERE state = 'active'")?;
    add.execute([1])?;
    add.execute([-1])?;
    Ok(())
}

fn tenant(row: &SqlRow) -> Sql<Row> {
    Ok(Row {
        id: row.get(0)?,
        state: row.get(1)?,
        reason: row.get(2)?,
        consecutive_quarantines: row.get(3)?,
        retry_at: row.get(4)?,
        created: row.get(5)?,
        deleted: row.get(6)?,
        purge_after: row.get(7)?,
        purged: row.get(8)?,
        schema_version: row.get(9)?,
        bytes: number(row, 10)?,
        last_seen: row.get(11)?,
        last_backup: row.get(12)?,
        restored: row.get(23)?,
        workspace: row.get(13)?,
        profile: Profile {
            email: row.get(14)?,
            first_name: row.get(15)?,
            last_name: row.get(16)?,
            username: row.get(17)?,
            image_url: row.get(18)?,
            role: row.get(19)?,
            provider_updated_at: row.get(20)?,
            provider_event_at: row.get(21)?,
            provider_metadata: row.get(22)?,
        },
        fault: row.get(24)?,
        fault_at: row.get(25)?,
        state_before: row.get(26)?,
        reason_before: row.get(27)?,
        deletion_reported: row.get(28)?,
        drifted: row.get(29)?,
        quota: Quota { bytes: number(row, 30)?, rate: row.get(31)? },
    })
}

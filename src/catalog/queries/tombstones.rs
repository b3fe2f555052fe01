//! Deleted tenants: tombstones, purges and restorations.

use rusqlite::{Connection, Transaction, params};

use super::{Sql, all, change};
use crate::{
    catalog::model::{Millis, Profile},
    tenants::id::TenantId,
};

/// Adds a tombstone for a user without a row. `false` if there is one already.
pub fn insert_tombstone(tx: &Transaction, id: &TenantId, now: Millis, purge_after: Millis) -> Sql<bool> {
    let sql = "INSERT INTO tenants (id, state, created, deleted, purge_after) VALUES (?1, 'deleted', ?2, ?2, ?3) ON \
               CONFLICT (id) DO NOTHING";
    change(tx, sql, params![id.as_str(), now, purge_after])
}

/// Up to `limit` deleted tenants whose retention ended at `now` or before, with the time when it did, in the order
/// of those times, after `after`.
pub fn due_for_purge(
    conn: &Connection,
    now: Millis,
    after: Option<&(TenantId, Millis)>,
    limit: u32,
) -> Sql<Vec<(TenantId, Millis)>> {
    let (id, at) = after.map_or(("", Millis::MIN), |(id, at)| (id.as_str(), *at));
    let sql = "SELECT id, purge_after FROM tenants WHERE purge_after IS NOT NULL AND purged IS NULL AND purge_after <= \
               ?1 AND (purge_after, id) > (?2, ?3) ORDER BY purge_after, id LIMIT ?4";
    all(conn, sql, params![now, at, id, limit], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Marks a tenant deleted and its file to be removed by the next purge.
pub fn schedule_purge(tx: &Transaction, id: &TenantId, now: Millis) -> Sql<()> {
    super::mark_deleted(tx, id, now, now)?;
    let sql = "UPDATE tenants SET purge_after = min(coalesce(purge_after, ?2), ?2) WHERE id = ?1";
    change(tx, sql, params![id.as_str(), now]).map(drop)
}

/// Turns a tenant's row into a tombstone, after its file was removed: no personal data is left in the row or in the
/// deliveries about the tenant. The row keeps that it was suspended, without the reason, which may be personal. It
/// does not keep a quarantine, which was about the file.
pub fn anonymize(tx: &Transaction, id: &TenantId, now: Millis) -> Sql<()> {
    let sql = "UPDATE tenants SET state = 'deleted', reason = NULL, faults = 0, retry_at = NULL, deleted = \
               coalesce(deleted, ?2), purged = ?2, reason_before = NULL, state_before = nullif(state_before, \
               'quarantined'), schema_version = NULL, bytes = NULL, last_seen = NULL, last_backup = \
               NULL, email = NULL, first_name = NULL, last_name = NULL, username = NULL, image_url = NULL, role = \
               'client', workspace = 'My Workspace', provider_updated_at = NULL, provider_event_at = NULL, \
               provider_metadata = NULL, fault = NULL, fault_at = NULL, quota_bytes = NULL, quota_rate = NULL WHERE \
               id = ?1";
    change(tx, sql, params![id.as_str(), now])?;
    super::usage::erase(tx, id)?;
    change(tx, "UPDATE deliveries SET body = NULL, error = NULL WHERE tenant = ?1", [id.as_str()]).map(drop)
}

/// Records that the provider reported, at `now`, the deletion of a tenant that is deleted already.
pub fn record_reported_deletion(tx: &Transaction, id: &TenantId, now: Millis) -> Sql<()> {
    let sql = "UPDATE tenants SET deletion_reported = max(coalesce(deletion_reported, ?2), ?2) WHERE id = ?1 AND state \
               = 'deleted'";
    change(tx, sql, params![id.as_str(), now]).map(drop)
}

/// Restores a deleted tenant, whose file is in its live place, to the state it was in: a suspended one is suspended for
/// the same reason, and a quarantined one is tried again by its next request, unless an operator has to look first.
/// Deletions that the provider reports from before `restored` are ignored from now on. `false` if it was not deleted.
pub fn restore(tx: &Transaction, id: &TenantId, restored: Millis) -> Sql<bool> {
    let sql = "UPDATE tenants SET state = coalesce(state_before, 'active'), state_before = NULL, reason = \
               reason_before, reason_before = NULL, faults = 0, healthy_at = NULL, quarantine_digest = iif(state_before = \
               'quarantined' AND quarantine_digest = 0, 0, NULL), retry_at = iif(state_before = 'quarantined' AND \
               quarantine_digest IS NOT 0, ?2, NULL), deleted = NULL, deletion_reported = NULL, purge_after = \
               NULL, purged = NULL, restored = max(coalesce(restored, ?2), ?2) WHERE id = ?1 AND state = 'deleted'";
    change(tx, sql, params![id.as_str(), restored])
}

/// What [`add_found_file`] did to a tenant's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Known,
    /// There was none; it was added.
    New,
    /// It was marked deleted, since the file is in the trash.
    Deleted,
}

/// Adds a row for a tenant whose file was found, if it has none, and marks it deleted if the file is in
/// the trash: `trashed` is the time of the deletion and the time after which the file may be removed. A deleted
/// tenant stays deleted, wherever its file is.
pub fn add_found_file(
    tx: &Transaction,
    id: &TenantId,
    created: Millis,
    schema: i32,
    trashed: Option<(Millis, Millis)>,
) -> Sql<Found> {
    let new = super::insert(tx, id, created, schema, &Profile::default())?;
    if new {
        // It is not known when. A webhook or a reconcile will bring its profile.
        change(tx, "UPDATE tenants SET last_seen = NULL WHERE id = ?1", [id.as_str()])?;
    }
    let deleted = match trashed {
        Some((now, until)) => super::mark_deleted(tx, id, now, until)?,
        None => false,
    };
    Ok(match (new, deleted) {
        (true, _) => Found::New,
        (false, true) => Found::Deleted,
        (false, false) => Found::Known,
    })
}

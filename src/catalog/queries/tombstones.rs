//! Tenants that are gone, and those that come back.

use rusqlite::{Connection, Transaction, params};

use super::{Sql, unknown};
use crate::{
    catalog::model::{Millis, Profile},
    tenants::id::TenantId,
};

/// Adds a tombstone for a user of whom there is nothing else. `false` if the id is known already.
pub fn insert_tombstone(tx: &Transaction, id: &TenantId, now: Millis, purge_after: Millis) -> Sql<bool> {
    let inserted = tx
        .prepare_cached(
            "INSERT INTO tenants (id, state, created, deleted, purge_after) VALUES (?1, 'deleted', ?2, ?2, ?3) ON \
             CONFLICT (id) DO NOTHING",
        )?
        .execute(params![id.as_str(), now, purge_after])?;
    Ok(inserted == 1)
}

/// Up to `limit` deleted tenants whose retention ended at `now` or before, and when it did, in the order
/// of those times, after the one that is given.
pub fn due(
    conn: &Connection,
    now: Millis,
    after: Option<&(TenantId, Millis)>,
    limit: u32,
) -> Sql<Vec<(TenantId, Millis)>> {
    let (id, at) = after.map_or(("", Millis::MIN), |(id, at)| (id.as_str(), *at));
    conn.prepare_cached(
        "SELECT id, purge_after FROM tenants WHERE purge_after IS NOT NULL AND purged IS NULL AND purge_after <= ?1 AND \
         (purge_after, id) > (?2, ?3) ORDER BY purge_after, id LIMIT ?4",
    )?
    .query_map(params![now, at, id, limit], |row| {
        let id: String = row.get(0)?;
        Ok((id.parse().map_err(|_| unknown(0, &id))?, row.get(1)?))
    })?
    .collect()
}

/// Marks a tenant deleted and its file to be removed at once.
pub fn mark_due(tx: &Transaction, id: &TenantId, now: Millis) -> Sql<()> {
    super::mark_deleted(tx, id, now, now)?;
    tx.prepare_cached("UPDATE tenants SET purge_after = min(coalesce(purge_after, ?2), ?2) WHERE id = ?1")?
        .execute(params![id.as_str(), now])?;
    Ok(())
}

/// Leaves of a tenant a tombstone alone: nothing personal in its row, nor in the deliveries about
/// it. Its file is gone already. That it was suspended stays, without the reason, which may name
/// somebody; that its file was in quarantine is over with the file.
pub fn forget(tx: &Transaction, id: &TenantId, now: Millis) -> Sql<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE tenants SET state = 'deleted', reason = NULL, faults = 0, retry_at = NULL, deleted = \
             coalesce(deleted, ?2), purged = ?2, reason_before = NULL, state_before = nullif(state_before, 'quarantined'), schema_version = NULL, bytes = NULL, last_seen = NULL, last_backup = \
             NULL, email = NULL, first_name = NULL, last_name = NULL, username = NULL, image_url = NULL, role = \
             'client', workspace = 'My Workspace', provider_updated_at = NULL, provider_event_at = NULL, \
             provider_metadata = NULL, fault = NULL, fault_at = NULL WHERE id = ?1",
        )?
        .execute(params![id.as_str(), now])?;
    tx.prepare_cached("UPDATE deliveries SET body = NULL, error = NULL WHERE tenant = ?1")?.execute([id.as_str()])?;
    Ok(changed == 1)
}

/// Notes that the provider reported, at `now`, the deletion of a tenant that is deleted already.
pub fn reported_again(tx: &Transaction, id: &TenantId, now: Millis) -> Sql<()> {
    tx.prepare_cached(
        "UPDATE tenants SET deletion_reported = max(coalesce(deletion_reported, ?2), ?2) WHERE id = ?1 AND state = \
         'deleted'",
    )?
    .execute(params![id.as_str(), now])?;
    Ok(())
}

/// Brings a deleted tenant back whose file is in its place, to the state it was in: a suspended one is
/// suspended for the same reason, and one in quarantine is looked at when it is next asked for.
/// Deletions from before `restored` are history from now on. `false` if it was not deleted.
pub fn reinstate(tx: &Transaction, id: &TenantId, restored: Millis) -> Sql<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE tenants SET state = coalesce(state_before, 'active'), state_before = NULL, reason = reason_before, \
             reason_before = NULL, faults = 0, healthy_at = NULL, quarantine_digest = NULL, retry_at = iif(state_before = 'quarantined', ?2, NULL), deleted = NULL, \
             deletion_reported = NULL, purge_after = NULL, purged = NULL, restored = max(coalesce(restored, ?2), ?2) WHERE id = ?1 AND state = \
             'deleted'",
        )?
        .execute(params![id.as_str(), restored])?;
    Ok(changed == 1)
}

/// What [`found`] made of a tenant's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it says enough.
    Known,
    /// There was none.
    New,
    /// It said that the tenant lives, and the file is in the trash.
    Deleted,
}

/// Gives a tenant without a row the one that its file's place says, and marks one deleted whose file is in
/// the trash: `trashed` is when it counts as deleted and when its file may go. Nobody who is deleted comes
/// back by it, wherever the file is.
pub fn found(
    tx: &Transaction,
    id: &TenantId,
    created: Millis,
    schema: i32,
    trashed: Option<(Millis, Millis)>,
) -> Sql<Found> {
    let new = super::insert(tx, id, created, schema, &Profile::default())?;
    if new {
        // Who it is remains to be told, by a webhook or a reconcile.
        unseen(tx, id)?;
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

/// Forgets when a tenant was last seen: of one that was found by its file alone, nobody knows.
pub fn unseen(tx: &Transaction, id: &TenantId) -> Sql<()> {
    tx.prepare_cached("UPDATE tenants SET last_seen = NULL WHERE id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

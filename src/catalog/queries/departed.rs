//! Tenants that are gone, and those that come back.

use rusqlite::{Connection, Transaction, params};

use super::{Sql, unknown};
use crate::{catalog::model::Millis, tenants::id::TenantId};

/// Adds a tombstone for a user of whom there is nothing else. `false` if the id is known already.
pub fn bury(tx: &Transaction, id: &TenantId, now: Millis, purge_after: Millis) -> Sql<bool> {
    let inserted = tx
        .prepare_cached(
            "INSERT INTO tenants (id, state, created, deleted, purge_after) VALUES (?1, 'deleted', ?2, ?2, ?3) ON \
             CONFLICT (id) DO NOTHING",
        )?
        .execute(params![id.as_str(), now, purge_after])?;
    Ok(inserted == 1)
}

/// Up to `limit` deleted tenants whose retention ended at `now` or before, and whose file may go.
pub fn due(conn: &Connection, now: Millis, limit: u32) -> Sql<Vec<TenantId>> {
    conn.prepare_cached(
        "SELECT id FROM tenants WHERE purge_after IS NOT NULL AND purged IS NULL AND purge_after <= ?1 ORDER BY \
         purge_after LIMIT ?2",
    )?
    .query_map(params![now, limit], |row| {
        let id: String = row.get(0)?;
        id.parse().map_err(|_| unknown(0, &id))
    })?
    .collect()
}

/// Leaves of a tenant a tombstone alone: nothing personal in its row, nor in the deliveries about
/// it. Its file is gone already.
pub fn forget(tx: &Transaction, id: &TenantId, now: Millis) -> Sql<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE tenants SET state = 'deleted', reason = NULL, faults = 0, retry_at = NULL, deleted = \
             coalesce(deleted, ?2), purged = ?2, schema_version = NULL, bytes = NULL, last_seen = NULL, last_backup = \
             NULL, email = NULL, first_name = NULL, last_name = NULL, username = NULL, image_url = NULL, role = \
             'client', workspace = 'My Workspace', provider_updated_at = NULL, provider_event_at = NULL, \
             provider_metadata = NULL WHERE id = ?1",
        )?
        .execute(params![id.as_str(), now])?;
    tx.prepare_cached("UPDATE deliveries SET body = NULL, error = NULL WHERE tenant = ?1")?.execute([id.as_str()])?;
    Ok(changed == 1)
}

/// Brings a tenant back whose file is in its place.
pub fn reinstate(tx: &Transaction, id: &TenantId, now: Millis) -> Sql<bool> {
    super::activate(tx, id)?;
    let changed =
        tx.prepare_cached("UPDATE tenants SET restored = ?2 WHERE id = ?1")?.execute(params![id.as_str(), now])?;
    Ok(changed == 1)
}

/// Forgets when a tenant was last seen: of one that was found by its file alone, nobody knows.
pub fn unseen(tx: &Transaction, id: &TenantId) -> Sql<()> {
    tx.prepare_cached("UPDATE tenants SET last_seen = NULL WHERE id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

//! Single steps of a reconcile. Each checks the row again inside its own transaction, and returns whether the step
//! still applied.

use rusqlite::Transaction;

use super::plan::{self, Step};
use crate::{
    catalog::{
        model::{Millis, Profile, Row},
        queries::{self, tombstones},
    },
    clock::millis,
    error::Result,
    identity::user::User,
    tenants::{id::TenantId, store::Store},
};

/// Creates the tenant of a user who is at the provider and not in the catalog.
pub async fn create(store: &Store, user: User, since: Millis) -> Result<bool> {
    let (id, now, schema) = (user.id.clone(), store.clock().now(), store.schema().version());
    store
        .create_with(&id, move |tx| {
            let row = queries::find(tx, &user.id)?;
            match plan::step(row.as_ref(), Some(&user), since) {
                Some(Step::Create(user)) => queries::insert(tx, &user.id, now, schema, &user.profile),
                _ => Ok(false),
            }
        })
        .await
}

/// Updates older profiles in one commit; returns how many.
pub async fn update(store: &Store, users: Vec<User>, since: Millis) -> Result<u64> {
    let updated = store.catalog().write(move |tx| {
        let mut done = Vec::new();
        for user in &users {
            let row = queries::find(tx, &user.id)?;
            if let (Some(row), Some(Step::Update(user))) = (&row, plan::step(row.as_ref(), Some(user), since)) {
                set_profile(tx, row, user)?;
                done.push(row.id.clone());
            }
        }
        Ok(done)
    });
    let updated = updated.await?;
    updated.iter().for_each(|id| store.apply_metadata_quota(id));
    Ok(updated.len() as u64)
}

/// How far the provider's clock, which dates deletions, may be behind this server's, which dates the list, in
/// milliseconds: the tolerance of a delivery's signature. Without it a deletion could seem older than the list and be
/// ignored; one that is applied wrongly is undone by the next run.
const CLOCK_SKEW: Millis = 5 * 60_000;

/// Restores a user who is deleted in the catalog and is at the provider. A deletion that is reported later is newer
/// than the list, and stands.
pub async fn restore(store: &Store, user: User, since: Millis) -> Result<bool> {
    let (id, restored) = (user.id.clone(), since.saturating_sub(CLOCK_SKEW));
    store
        .restore_with(&id, move |tx| {
            let row = queries::find(tx, &user.id)?;
            let (Some(row), Some(Step::Restore(user))) = (&row, plan::step(row.as_ref(), Some(&user), since)) else {
                return Ok(false);
            };
            // A tombstone's profile may be newer than the list's.
            if plan::stale(row, &user) {
                set_profile(tx, row, user)?;
            }
            tombstones::restore(tx, &row.id, restored)
        })
        .await
}

/// Deletes a user who is in the catalog and not at the provider. The file is kept until its retention ends.
pub async fn delete(store: &Store, id: &TenantId, since: Millis) -> Result<bool> {
    let now = store.clock().now();
    let until = now.saturating_add(millis(store.retention()));
    let gone = id.clone();
    store
        .delete_with(id, move |tx| {
            let row = queries::find(tx, &gone)?;
            match plan::step(row.as_ref(), None, since) {
                Some(Step::Delete(id)) => queries::mark_deleted(tx, &id, now, until),
                _ => Ok(false),
            }
        })
        .await
}

/// Writes a profile of the list, which has no event time. If it is as old as the known profile, the known event time
/// stays, so that older events stay old; if it is newer, there is none until the event arrives.
fn set_profile(tx: &Transaction, row: &Row, user: User) -> rusqlite::Result<bool> {
    let same = row.profile.provider_updated_at == user.profile.provider_updated_at;
    let known = row.profile.provider_event_at.filter(|_| same);
    queries::set_profile(tx, &row.id, &Profile { provider_event_at: known, ..user.profile })
}

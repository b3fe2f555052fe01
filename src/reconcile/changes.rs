//! One step of a reconcile. Each looks at the row again inside its own transaction, and says whether
//! the step was still right.

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

/// Makes file and row of a user who is there and not here.
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

/// Writes the profiles of users that are older here, in one commit; says of how many.
pub async fn update(store: &Store, users: Vec<User>, since: Millis) -> Result<u64> {
    store
        .catalog()
        .write(move |tx| {
            let mut done = 0;
            for user in &users {
                let row = queries::find(tx, &user.id)?;
                if let (Some(row), Some(Step::Update(user))) = (&row, plan::step(row.as_ref(), Some(user), since)) {
                    set_profile(tx, row, user)?;
                    done += 1;
                }
            }
            Ok(done)
        })
        .await
}

/// How far the provider's clock, which tells when a user was deleted, may be behind this server's,
/// which tells when a list was begun, in milliseconds: what the signature of a delivery may differ by.
/// A deletion that only looks older than the list would otherwise be taken for history; one that is
/// obeyed wrongly is undone by the next run.
const CLOCKS_APART: Millis = 5 * 60_000;

/// Brings a user back who was deleted here and is there. A deletion that is told later is newer than
/// the list, however late this step comes.
pub async fn restore(store: &Store, user: User, since: Millis) -> Result<bool> {
    let (id, restored) = (user.id.clone(), since.saturating_sub(CLOCKS_APART));
    store
        .restore_with(&id, move |tx| {
            let row = queries::find(tx, &user.id)?;
            let (Some(row), Some(Step::Restore(user))) = (&row, plan::step(row.as_ref(), Some(&user), since)) else {
                return Ok(false);
            };
            // Under a tombstone, too, a profile may be newer than the list's.
            if plan::stale(row, &user) {
                set_profile(tx, row, user)?;
            }
            tombstones::reinstate(tx, &row.id, restored)
        })
        .await
}

/// Deletes a user who is here and not there; the file is kept until its retention ends.
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

/// A list has no event's time. Of the same moment the known one stays, so that the events before it
/// stay old; of a newer one there is none until the event itself tells.
fn set_profile(tx: &Transaction, row: &Row, user: User) -> rusqlite::Result<bool> {
    let same = row.profile.provider_updated_at == user.profile.provider_updated_at;
    let known = row.profile.provider_event_at.filter(|_| same);
    queries::set_profile(tx, &row.id, &Profile { provider_event_at: known, ..user.profile })
}

//! One step of a reconcile. Each looks at the row again inside its own transaction, and says whether
//! the step was still right.

use rusqlite::Transaction;

use super::plan::{self, Step};
use crate::{
    catalog::{
        model::{Millis, Profile},
        queries::{self, departed},
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
        .establish(&id, move |tx| match still(tx, &user, since)? {
            Some(Step::Create(user)) => queries::insert(tx, &user.id, now, schema, &user.profile),
            _ => Ok(false),
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
                if let Some(Step::Update(user)) = still(tx, user, since)? {
                    set_profile(tx, user)?;
                    done += 1;
                }
            }
            Ok(done)
        })
        .await
}

/// Brings a user back who was deleted here and is there.
pub async fn restore(store: &Store, user: User, since: Millis) -> Result<bool> {
    let (id, now) = (user.id.clone(), store.clock().now());
    store
        .bring_back(&id, move |tx| match still(tx, &user, since)? {
            Some(Step::Restore(user)) => {
                departed::reinstate(tx, &user.id, now)?;
                set_profile(tx, user)
            }
            _ => Ok(false),
        })
        .await
}

/// Deletes a user who is here and not there; the file is kept until its retention ends.
pub async fn delete(store: &Store, id: &TenantId, since: Millis) -> Result<bool> {
    let now = store.clock().now();
    let until = now.saturating_add(millis(store.retention()));
    let gone = id.clone();
    store
        .take_out(id, move |tx| {
            let row = queries::find(tx, &gone)?;
            match plan::step(row.as_ref(), None, since) {
                Some(Step::Delete(id)) => queries::mark_deleted(tx, &id, now, until),
                _ => Ok(false),
            }
        })
        .await
}

fn still(tx: &Transaction, user: &User, since: Millis) -> rusqlite::Result<Option<Step>> {
    let row = queries::find(tx, &user.id)?;
    Ok(plan::step(row.as_ref(), Some(user), since))
}

/// A list has no event's time: the one that is known stays, so that the events before it stay old.
fn set_profile(tx: &Transaction, user: User) -> rusqlite::Result<bool> {
    let known = queries::find(tx, &user.id)?.and_then(|row| row.profile.provider_event_at);
    queries::set_profile(tx, &user.id, &Profile { provider_event_at: known, ..user.profile })
}

//! The provider's list of users, sorted by id in bounded memory.
//!
//! The provider lists users in the order of their creation, the catalog in the order of ids. So the list is written
//! to a temporary SQLite file, with the profiles that updates need: SQLite sorts, and spills to disk beyond a fixed
//! cache. Sorting in memory would need some 300 bytes a user, and asking again for each profile some thousand
//! requests more. Clerk's ids begin with their time, so most inserts append.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::{paged::paged, queries};
use crate::{error::Result, identity::user::User, sqlite::open, tenants::id::TenantId};

/// The page cache of the file, in KiB, for any number of users.
const CACHE_KIB: u32 = 16 << 10;

/// A list of users: written in any order, read by id. Cloning shares it; the last clone removes the file. Its
/// methods may block.
#[derive(Clone)]
pub struct ProviderList(Arc<Inner>);

struct Inner {
    conn: Mutex<Connection>,
    path: PathBuf,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The next start clears `tmp/`.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %error, "the temporary list of users was not removed");
        }
    }
}

impl ProviderList {
    /// An empty list in this folder. There is one at a time.
    pub fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("reconcile.db");
        let conn = open::scratch(&path, CACHE_KIB)?;
        let list = Self(Arc::new(Inner { conn: Mutex::new(conn), path }));
        list.with(queries::create)?;
        Ok(list)
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        Ok(work(&self.0.conn.lock())?)
    }

    fn batch<T>(&self, items: &[T], add: impl Fn(&Connection, &T) -> rusqlite::Result<()>) -> Result<()> {
        self.with(|conn| {
            let tx = conn.unchecked_transaction()?;
            items.iter().try_for_each(|item| add(&tx, item))?;
            tx.commit()
        })
    }

    /// Adds a page of users, and of ids that cannot be a tenant's. Returns how many are new: a user who is listed
    /// twice counts once.
    pub fn add(&self, users: &[User], unusable: &[String]) -> Result<u64> {
        let ids = users.iter().map(|user| user.id.as_str()).chain(unusable.iter().map(String::as_str));
        let mut ids: Vec<&str> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        let known = self.with(|conn| {
            ids.iter().try_fold(0, |known, id| queries::holds(conn, id).map(|held| known + u64::from(held)))
        })?;
        self.batch(users, queries::add)?;
        self.batch(unusable, queries::add_unusable)?;
        Ok(ids.len() as u64 - known)
    }

    pub fn unusable(&self, each: impl FnMut(&str)) -> Result<()> {
        self.with(|conn| queries::unusable(conn, each))
    }

    /// Marks tenants as absent: in the catalog, and not in the list.
    pub fn set_absent(&self, ids: &[TenantId]) -> Result<()> {
        self.batch(ids, queries::set_absent)
    }

    /// Removes that mark: the provider has the user after all.
    pub fn unset_absent(&self, ids: &[TenantId]) -> Result<()> {
        self.batch(ids, queries::unset_absent)
    }

    /// Up to `limit` absent tenants, by id, after `after`.
    pub fn absent(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<TenantId>> {
        self.with(|conn| queries::absent(conn, after.map_or("", TenantId::as_str), limit))
    }

    pub fn users(&self) -> impl Iterator<Item = Result<User>> + use<> {
        let list = self.clone();
        paged(move |after: Option<&User>| {
            list.with(|conn| queries::users(conn, after.map_or("", |user| user.id.as_str()), 1000))
        })
    }
}

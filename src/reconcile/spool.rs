//! The provider's list on its way to being sorted.
//!
//! Pages come in the order of creation, the catalog in the order of ids, and neither can be had in
//! the other's. So the list is spooled, with the profiles that a mending will need, into a SQLite
//! file of the moment: it sorts, spills to disk beyond a fixed cache, and is thrown away. Sorting in
//! memory would need some 300 bytes a user, and asking again for each profile some thousand
//! requests more. Clerk's ids begin with their time, so that most inserts append.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::queries;
use crate::{
    error::{Error, Result},
    identity::user::User,
    sqlite::open,
    tenants::id::TenantId,
};

/// Memory for pages of the file, in KiB, whatever the number of users.
const CACHE_KIB: u32 = 16 << 10;

/// Rows read at once.
const CHUNK: u32 = 1000;

/// A list of users, in no order when it is written and by id when it is read. Cloning shares it;
/// the file goes with the last clone. Its methods may block.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    conn: Mutex<Option<Connection>>,
    path: PathBuf,
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.conn.lock().take());
        // What cannot be removed now is removed at the next start, with all of `tmp/`.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %error, "a list of users was left behind");
        }
    }
}

impl Spool {
    /// An empty one in this folder. There is one at a time.
    pub fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("reconcile.db");
        let conn = open::scratch(&path, CACHE_KIB)?;
        let spool = Self(Arc::new(Inner { conn: Mutex::new(Some(conn)), path }));
        spool.with(queries::create)?;
        Ok(spool)
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let conn = self.0.conn.lock();
        let conn = conn.as_ref().ok_or_else(|| Error::internal("the spool is closed"))?;
        Ok(work(conn)?)
    }

    fn batch<T>(&self, items: &[T], add: impl Fn(&Connection, &T) -> rusqlite::Result<()>) -> Result<()> {
        self.with(|conn| {
            let tx = conn.unchecked_transaction()?;
            items.iter().try_for_each(|item| add(&tx, item))?;
            tx.commit()
        })
    }

    /// Adds a page of users and of ids that cannot be used. Says how many it had not seen before: one
    /// who is listed twice counts once.
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

    /// How many there are.
    pub fn count(&self) -> Result<u64> {
        self.with(queries::count)
    }

    /// The ids that cannot be used.
    pub fn unusable(&self, each: impl FnMut(&str)) -> Result<()> {
        self.with(|conn| queries::unusable(conn, each))
    }

    /// Notes who is here and not there.
    pub fn set_absent(&self, ids: &[TenantId]) -> Result<()> {
        self.batch(ids, queries::set_absent)
    }

    /// Takes those back who are there after all.
    pub fn unset_absent(&self, ids: &[TenantId]) -> Result<()> {
        self.batch(ids, queries::unset_absent)
    }

    /// Up to `limit` of those, by id, after `after`.
    pub fn absent(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<TenantId>> {
        self.with(|conn| queries::absent(conn, after.map_or("", TenantId::as_str), limit))
    }

    /// All users by id.
    pub fn users(&self) -> impl Iterator<Item = Result<User>> + use<> {
        let spool = self.clone();
        chunks(move |after: Option<&User>| {
            spool.with(|conn| queries::users(conn, after.map_or("", |user| user.id.as_str()), CHUNK))
        })
    }
}

/// Everything that `fetch` gives when asked again and again for what comes after the last.
pub fn chunks<T: Clone>(mut fetch: impl FnMut(Option<&T>) -> Result<Vec<T>>) -> impl Iterator<Item = Result<T>> {
    let mut chunk = Vec::new().into_iter();
    let (mut last, mut done): (Option<T>, bool) = (None, false);
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        if let Some(item) = chunk.next() {
            return Some(Ok(item));
        }
        match fetch(last.as_ref()) {
            Ok(items) => {
                last = items.last().cloned().or(last.take());
                chunk = items.into_iter();
                let item = chunk.next();
                done = item.is_none();
                item.map(Ok)
            }
            Err(error) => {
                done = true;
                Some(Err(error))
            }
        }
    })
}

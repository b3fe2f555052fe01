//! Moments of a user's past: a user is put back to one, or another user begins with it.
//!
//! A file is made of the bucket in `tmp/` and looked through there; then it gets its place by one rename. After an error
//! nothing of it is left, and nothing was changed.

mod queries;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::{
    history::{self, Moment},
    restore::{self, Restored, source::Source},
    running::Replica,
};
use crate::{
    catalog::{
        audit::Author,
        model::{Row, State},
    },
    clock::{Millis, wire},
    error::{Error, ErrorKind, Result},
    sqlite::open,
    tenants::{disk::template::BOOKKEEPING, id::TenantId, lifecycle::swap::Temporary, store::Store},
};

/// What these are called in the audit trail.
const REWIND: &str = "tenants rewind";
const FORK: &str = "tenants fork";

/// How long the bucket has to take what was written last.
const FLUSH: Duration = Duration::from_secs(30);

/// How long a user's new base is waited for.
const SETTLE: Duration = Duration::from_secs(60);

/// Files that are made of the bucket at once, for one data folder: each takes as much of the disk as its database.
const AT_ONCE: usize = 4;

/// Rows are counted in databases up to this length, in bytes, and of so many tables.
const COUNTED: u64 = 64 << 20;
const TABLES: u32 = 500;

/// How long the rows that a user has now are counted.
const COUNTING: Duration = Duration::from_secs(2);

/// The longest value in a file that is made of the bucket, in bytes: what SQLite takes at most.
const LONGEST: u64 = 1_000_000_000;

/// What came of a rewind.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Rewound {
    /// Who was put back.
    #[schema(value_type = String)]
    pub id: TenantId,
    /// The moment that was asked for.
    #[serde(with = "wire")]
    #[schema(value_type = String, format = DateTime)]
    pub asked: Millis,
    /// When the newest commits were made that they have then: the last ones that were copied before that moment.
    #[serde(with = "wire")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Millis,
    /// The length of the file.
    pub bytes: u64,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Where the file is that was replaced; none if it had nothing of the user's own.
    pub replaced: Option<String>,
    /// Of a dry run: how many rows each table has, and had. Empty for a large database.
    pub tables: Vec<TableRows>,
}

/// The rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableRows {
    /// Its name.
    pub table: String,
    /// How many it has; none if that is not known, or there is no such table.
    pub now: Option<u64>,
    /// How many it had at the moment; none if there was no such table.
    pub then: Option<u64>,
}

/// What came of a fork.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Forked {
    /// Whose data it is.
    #[schema(value_type = String)]
    pub id: TenantId,
    /// When the newest commits were made that are in it.
    #[serde(with = "wire")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Millis,
    /// The length of the file.
    pub bytes: u64,
    /// The new user.
    pub tenant: Row,
}

/// Puts a user back to a moment. What they have is kept in `trash/replaced/`. Of a dry run, everything is done but that.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the bucket does not answer; [`ErrorKind::Invalid`] if the moment is before the first one;
/// [`ErrorKind::Damaged`] if the chain is broken there, with the last good moment; [`ErrorKind::Busy`] if the user is being
/// put back already. Nothing was changed then.
pub async fn rewind(
    replica: &Replica,
    store: &Store,
    id: &TenantId,
    at: Millis,
    dry_run: bool,
    author: &Author,
) -> Result<Rewound> {
    let row = store.find(id).await?.ok_or_else(Error::unknown_tenant)?;
    if row.state == State::Deleted {
        let why = format!("{id} is deleted; `cubby tenants restore {id}` brings them back");
        return Err(Error::new(ErrorKind::Conflict, why));
    }
    let _turn = Turn::take(store, id)?;
    flush(replica).await?;
    let (fresh, restored) = Box::pin(fetch(replica, store, id, Some(at))).await?;
    let mut done = Rewound {
        id: id.clone(),
        asked: at,
        at: restored.time,
        bytes: restored.bytes,
        dry_run,
        replaced: None,
        tables: Vec::new(),
    };
    if dry_run {
        done.tables = compare(store, &row, fresh, restored.bytes).await?;
        return Ok(done);
    }
    let replaced = store.replace_file(id, fresh, REWIND, author).await?;
    done.replaced = replaced.kept.map(|path| path.display().to_string());
    Ok(done)
}

/// Creates a user with what another one had at a moment, or has.
///
/// # Errors
/// Those of [`rewind`]; [`ErrorKind::Conflict`] if the new id is known.
pub async fn fork(
    replica: &Replica,
    store: &Store,
    id: &TenantId,
    to: &TenantId,
    at: Option<Millis>,
    author: &Author,
) -> Result<Forked> {
    let row = store.find(id).await?.filter(|row| row.purged.is_none());
    row.ok_or_else(Error::unknown_tenant)?;
    // It is looked at again when the file is there.
    if let Some(row) = store.find(to).await? {
        let state = if row.purged.is_some() { "purged" } else { row.state.as_str() };
        let why = format!("{to} is known already, and {state}; choose an id that nobody has had");
        return Err(Error::new(ErrorKind::Conflict, why));
    }
    let _turn = Turn::take(store, to)?;
    flush(replica).await?;
    if at.is_none() {
        settle(replica, id.as_str(), SETTLE).await?;
    }
    let (fresh, restored) = Box::pin(fetch(replica, store, id, at)).await?;
    let tenant = store.create_from_file(to, fresh, FORK, author).await?;
    Ok(Forked { id: id.clone(), at: restored.time, bytes: restored.bytes, tenant })
}

/// Up to `limit` moments of a user, newest first: the newest ones, or those before one of them, by its epoch and number.
///
/// # Errors
/// Those of the bucket.
pub async fn history(
    replica: &Replica,
    id: &TenantId,
    limit: usize,
    before: Option<(u64, u64)>,
) -> Result<Vec<Moment>> {
    let (source, name) = (source(replica)?, id.to_string());
    replica.run(async move { history::history(&source, &name, limit, before).await }).await
}

/// The bucket as it is read.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if another server has taken over: to read would take it back.
fn source(replica: &Replica) -> Result<Source> {
    if replica.is_taken_over() {
        let why = "another server has taken over the bucket, and this one does not touch it any more: ask that one";
        return Err(Error::new(ErrorKind::Unavailable, why));
    }
    Ok(Source::of_server(replica.remote().clone(), replica.seal().clone(), replica.shards().clone()))
}

/// Has what was written last in the bucket.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the bucket does not take it.
pub async fn flush(replica: &Replica) -> Result<()> {
    replica.flush(FLUSH).await.map_err(|error| {
        let why = format!(
            "the bucket did not take what was written last within {} s, so a moment of the past may not be whole there. \
             Nothing was changed: look at `cubby replica status`, and try again when it is not behind",
            FLUSH.as_secs()
        );
        Error::new(ErrorKind::Unavailable, why).with_source(error)
    })
}

/// Waits until a user's chain goes on to what they have now: one that has ended needs a base first.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if it does not within `limit`.
pub async fn settle(replica: &Replica, tenant: &str, limit: Duration) -> Result<()> {
    let (shared, until) = (replica.shared(), Instant::now() + limit);
    let mut is_asked = false;
    loop {
        let has_released = shared.has_released.notified();
        if shared.state.head(tenant)?.is_some_and(|head| !head.ended) {
            return Ok(());
        }
        if !std::mem::replace(&mut is_asked, true) {
            shared.wanted.add(tenant);
        }
        if timeout_at(until, has_released).await.is_err() {
            let why = format!(
                "what {tenant} has now is not in the bucket yet: a whole copy of it is to be made, and was not within {} s. \
                 Try again later, or name a moment with --at",
                limit.as_secs()
            );
            return Err(Error::new(ErrorKind::Unavailable, why));
        }
    }
}

/// Makes a file of the bucket, of a moment or of now, and looks through it.
///
/// # Errors
/// Those of [`restore::fetch`] and [`restore::verify`].
pub async fn fetch(
    replica: &Replica,
    store: &Store,
    id: &TenantId,
    at: Option<Millis>,
) -> Result<(Temporary, Restored)> {
    let (source, owner, file) = (source(replica)?, id.clone(), store.temporary_file());
    // The file goes along, so that it is removed after whoever writes to it has ended, also when nobody waits any more.
    let made = async move {
        let restored = restore::fetch(&source, owner.as_str(), at, file.path()).await?;
        Ok::<_, Error>((file, restored))
    };
    let (file, restored) = replica.run(made).await?;
    let owner = id.clone();
    let file = blocking(move || restore::verify(file.path(), Some(&owner)).map(|()| file)).await?;
    Ok((file, restored))
}

/// How many rows the tables have, and had in a file.
async fn compare(store: &Store, row: &Row, file: Temporary, bytes: u64) -> Result<Vec<TableRows>> {
    if bytes > COUNTED {
        return Ok(Vec::new());
    }
    let then = blocking(move || Ok(queries::counts(&open::foreign(file.path(), LONGEST)?, TABLES)?)).await?;
    // To look at another one, it would have to be closed.
    let now = match row.state {
        State::Active => store.look(&row.id, COUNTING, |conn| Ok(queries::counts(conn, TABLES)?)).await.ok(),
        State::Suspended | State::Deleted | State::Quarantined => None,
    };
    Ok(side_by_side(now.as_deref(), &then))
}

/// Counts of now, if they are known, beside those of then, without the tables that every database has.
fn side_by_side(now: Option<&[(String, u64)]>, then: &[(String, u64)]) -> Vec<TableRows> {
    let rows = |counts: &[(String, u64)], name: &str| {
        counts.iter().find(|(table, _)| table.as_str() == name).map(|(_, rows)| *rows)
    };
    let now = now.unwrap_or_default();
    let names: BTreeSet<&str> = now.iter().chain(then).map(|(name, _)| name.as_str()).collect();
    let names = names.into_iter().filter(|name| !BOOKKEEPING.contains(name));
    names.map(|name| TableRows { table: name.to_owned(), now: rows(now, name), then: rows(then, name) }).collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::internal("work on a file of the bucket did not end").with_source(e))?
}

/// Of whom files are being made: the data folder, and the user who is to have the file.
static TURNS: Mutex<BTreeSet<(PathBuf, TenantId)>> = Mutex::new(BTreeSet::new());

/// A place among those at once.
struct Turn((PathBuf, TenantId));

impl Turn {
    fn take(store: &Store, id: &TenantId) -> Result<Self> {
        let root = store.layout().root().to_owned();
        let mut turns = TURNS.lock();
        let there = turns.iter().filter(|(of, _)| *of == root).count();
        let turn = (root, id.clone());
        if there >= AT_ONCE || turns.contains(&turn) {
            let why = format!(
                "{id} is being put back to a moment already, or too many others are; try again when that is done"
            );
            return Err(Error::new(ErrorKind::Busy, why));
        }
        turns.insert(turn.clone());
        Ok(Self(turn))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.lock().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    #[test]
    fn tables_of_now_are_beside_those_of_then() {
        let counts = |counts: &[(&str, u64)]| -> Vec<(String, u64)> {
            counts.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect()
        };
        let now = counts(&[("cubby_meta", 1), ("new", 4), ("notes", 7)]);
        let then = counts(&[("cubby_meta", 1), ("gone", 2), ("notes", 3)]);
        let shown = |tables: Vec<TableRows>| -> Vec<(String, Option<u64>, Option<u64>)> {
            tables.into_iter().map(|rows| (rows.table, rows.now, rows.then)).collect()
        };
        assert_eq!(
            shown(side_by_side(Some(&now), &then)),
            [
                ("gone".to_owned(), None, Some(2)),
                ("new".to_owned(), Some(4), None),
                ("notes".to_owned(), Some(7), Some(3)),
            ]
        );
        assert_eq!(shown(side_by_side(None, &then)).len(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_user_is_put_back_once_at_a_time() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        let ids: Vec<TenantId> = ["a", "b", "c", "d", "e"].iter().map(|id| id.parse().unwrap()).collect();
        let turn = Turn::take(&store, &ids[0]).unwrap();
        assert_eq!(Turn::take(&store, &ids[0]).err().unwrap().kind(), ErrorKind::Busy);
        let others: Vec<Turn> = ids[1..4].iter().map(|id| Turn::take(&store, id).unwrap()).collect();
        assert!(Turn::take(&store, &ids[4]).is_err());
        drop((turn, others));
        Turn::take(&store, &ids[0]).unwrap();
    }
}

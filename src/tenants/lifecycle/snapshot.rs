//! Exact copies of databases: with a copy, what the log has from a moment before it on makes every later state.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::{
    catalog::model::State,
    error::{Error, ErrorKind, Result},
    sqlite::{open, raw},
    tenants::{
        copy::{Copy, digest},
        disk::files,
        id::TenantId,
        store::Store,
    },
};

impl Store {
    /// A copy of a tenant's database, byte for byte as its file is after a checkpoint, made within `limit`. All that it has
    /// was given to the log when this returns. An active tenant is served meanwhile and nothing is migrated; one whose file
    /// has an older schema, or that is suspended or deleted, waits until its file was copied where it is.
    ///
    /// `begun` is called before anything is read: whatever is committed to the files from then on is in the log after what it
    /// sees there. It is called once, unless there is an error before. It may block.
    ///
    /// # Errors
    /// As [`export`](Self::export); those of `begun`.
    pub async fn snapshot<B>(&self, id: &TenantId, limit: Duration, begun: B) -> Result<Copy>
    where
        B: FnOnce() -> Result<()> + Send + 'static,
    {
        let row = self.find(id).await?.ok_or_else(Error::unknown_tenant)?;
        let leased = match row.state {
            State::Quarantined => return Err(quarantined(id)),
            State::Active => self.lease_as_is(id).await?,
            State::Suspended | State::Deleted => None,
        };
        let (path, until) = (self.layout().temporary(), Instant::now() + limit);
        let file = match leased {
            Some(tenant) => {
                // While it is leased, nobody but its combiner writes to its files. Not within the read: what a read's thread
                // commits is refused, whatever database it is to.
                self.blocking(move |_| begun()).await?;
                tenant.read_long(limit, move |conn| make(conn, &path, until)).await?
            }
            None => self.read_closed(id, limit, move |conn| begun().and_then(|()| make(conn, &path, until))).await?,
        };
        self.digested(file).await
    }

    /// The same of the catalog.
    ///
    /// # Errors
    /// Those of the disk, and of `begun`; [`ErrorKind::Timeout`] after `limit`.
    pub async fn snapshot_catalog<B>(&self, limit: Duration, begun: B) -> Result<Copy>
    where
        B: FnOnce() -> Result<()> + Send + 'static,
    {
        let (path, until) = (self.layout().temporary(), Instant::now() + limit);
        let file = self.blocking(move |store| {
            begun()?;
            store.catalog().read(|conn| Ok(make(conn, &path, until)))?
        });
        let file = file.await?;
        self.digested(file).await
    }

    async fn digested(&self, mut file: File) -> Result<Copy> {
        self.blocking(move |_| {
            let (bytes, sha256) = digest(&mut file).map_err(|e| Error::io("a copy of a database", e))?;
            Ok(Copy { file, bytes, sha256 })
        })
        .await
    }
}

/// Makes a copy in `tmp/`, whose name is taken away before it is filled.
fn make(conn: &Connection, path: &Path, until: Instant) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|e| Error::io(path.display(), e))?;
    files::remove(path)?;
    let _moment = conn.unchecked_transaction()?;
    // A transaction has begun to read with its first statement.
    open::touch(conn)?;
    raw::copy(conn, &file, until)?;
    Ok(file)
}

fn quarantined(id: &TenantId) -> Error {
    let why = format!(
        "{id} is quarantined, and no copy is made of a file that may be damaged: `cubby tenants show {id}` says why, and \
         `cubby tenants resume {id}` tries it again"
    );
    Error::new(ErrorKind::Conflict, why)
}

#[cfg(test)]
mod tests {
    use std::{io::Read, sync::mpsc};

    use rusqlite::Transaction;

    use super::*;
    use crate::{
        StoreOptions,
        catalog::{audit::Author, queries},
        sqlite::{
            deadline::Deadline,
            open::{Locking, Options},
        },
    };

    const LIMIT: Duration = Duration::from_secs(600);

    fn content(mut copy: Copy) -> Vec<u8> {
        let mut content = Vec::new();
        copy.file.read_to_end(&mut content).unwrap();
        assert_eq!(content.len() as u64, copy.bytes);
        content
    }

    async fn snapshot(store: &Store, id: &TenantId) -> Vec<u8> {
        let (begun, times) = mpsc::channel();
        let told = move || {
            begun.send(()).unwrap();
            Ok(())
        };
        let copy = store.snapshot(id, LIMIT, told).await.unwrap();
        assert_eq!(times.iter().count(), 1);
        content(copy)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_snapshot_is_the_file_after_a_checkpoint_in_every_state() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        let (ada, author): (TenantId, _) = ("ada".parse().unwrap(), Author::program("test"));
        let (tenant, _) = store.lease_or_create(&ada).await.unwrap();
        for n in 0..50 {
            let text = format!("{n:03} {}", "long ".repeat(100));
            let insert = move |tx: &Transaction| Ok(tx.execute("INSERT INTO notes VALUES (?1, ?1, 1, 1)", [&text])?);
            tenant.write(insert).await.unwrap();
        }
        let leased = snapshot(&store, &ada).await;
        drop(tenant);
        let active = snapshot(&store, &ada).await;
        store.suspend(&ada, "a test", &author).await.unwrap();
        let file = std::fs::read(store.layout().tenant(&ada)).unwrap();
        let suspended = snapshot(&store, &ada).await;
        store.delete(&ada, &author).await.unwrap();
        let deleted = snapshot(&store, &ada).await;
        assert!([leased, active, suspended, deleted].iter().all(|copy| *copy == file));

        let left = std::fs::read_dir(store.layout().tmp()).unwrap().count();
        assert_eq!(left, 0);
        let failed = store.snapshot(&ada, LIMIT, || Err(Error::internal("not now"))).await;
        assert_eq!(failed.err().unwrap().message(), "not now");
        let unknown = store.snapshot(&"bob".parse().unwrap(), LIMIT, || Ok(())).await;
        assert_eq!(unknown.err().unwrap().kind(), ErrorKind::UnknownTenant);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_snapshot_of_the_catalog_has_who_exists() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        let ada: TenantId = "ada".parse().unwrap();
        drop(store.lease_or_create(&ada).await.unwrap());
        let copy = store.snapshot_catalog(LIMIT, || Ok(())).await.unwrap();
        let path = folder.path().canonicalize().unwrap().join("copy.db");
        std::fs::write(&path, content(copy)).unwrap();
        let options = Options { locking: Locking::Exclusive, ..Options::default() };
        let conn = open::open(&path, &options, &Deadline::none()).unwrap();
        assert_eq!(queries::find(&conn, &ada).unwrap().unwrap().state, State::Active);
    }
}

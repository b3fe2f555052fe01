//! One shard of the copy: a SlateDB in the bucket with the entries and heads of its tenants. Nothing else knows SlateDB.
//!
//! # Invariants
//! 1. **One writer.** Who opens a shard fences who had it before: SlateDB creates the objects of its log under numbers,
//!    and an object that is there is never overwritten.
//! 2. **Durable when answered.** [`Shard::write`] returns when the bucket has the batch, all of it or nothing.
//! 3. **Bounded waiting.** SlateDB tries for as long as the bucket is away; every call here ends after a while. What was
//!    on its way then may arrive later, and does so before anything that is written after it.

mod compaction;
mod fault;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use slatedb::{
    Db, DbIterator, DbReader, DbReaderMode, WriteBatch, WriteHandle,
    config::{CloseOptions, FlushOptions, FlushType},
};
use tokio::{runtime::Handle, sync::Notify, task::JoinHandle, time::timeout};

pub use compaction::Compaction;
pub use fault::Fault;
pub use settings::Tuning;

use super::{
    entry::{Head, Stored},
    format::{Place, entry_range, head_key, head_range, parse_entry_key, parse_head_key, shard_path},
    remote::Remote,
};

/// How long opening may take, once: SlateDB may wait forever for a compactor that lives on.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// How often it is tried.
const OPEN_TRIES: u32 = 2;
/// How long a write waits for the bucket: a few slow requests.
const WRITE_LIMIT: Duration = Duration::from_secs(15);
/// How long a read waits for the bucket.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// How long closing waits for what is not in the tables yet, which the next one to open reads from the log otherwise.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// What is in the log only is read one by one when the shard is opened: after so many flushes, or after this time, it is
/// written to the tables.
const MOST_FLUSHES: u64 = 256;
const LONGEST: Duration = Duration::from_secs(60);

/// How many keys are deleted at once.
const DELETED_AT_ONCE: usize = 1000;

/// A shard that this server writes.
pub struct Shard {
    db: Db,
    /// What was on its way when a write waited too long.
    unsure: Mutex<Option<WriteHandle>>,
    work: Arc<Work>,
    keeper: JoinHandle<()>,
    compaction: Compaction,
    is_closed: bool,
}

/// What was written, and what of it is not in the tables yet.
#[derive(Default)]
struct Work {
    flushes: AtomicU64,
    table_flushes: AtomicU64,
    /// Flushes that are in the log only.
    unkept: AtomicU64,
    is_much: Notify,
}

/// What a shard has done and is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Batches written to the log since it was opened.
    pub flushes: u64,
    /// How often these were written to the tables.
    pub table_flushes: u64,
    /// Tables that were not compacted yet.
    pub young_tables: usize,
    /// Runs of compacted tables.
    pub runs: usize,
}

impl Shard {
    /// Opens a shard, or makes it. Whoever had it before cannot write any more.
    pub async fn open(remote: &Remote, number: u8, generation: u64) -> Result<Self, Fault> {
        Self::open_with(remote, number, generation, &Tuning::default()).await
    }

    /// The same with other times.
    pub async fn open_with(remote: &Remote, number: u8, generation: u64, tuning: &Tuning) -> Result<Self, Fault> {
        let (mut tries, path) = (0, shard_path(number, generation));
        loop {
            tries += 1;
            let (cache, own) = settings::cache();
            let builder = Db::builder(path.clone(), remote.store())
                .with_settings(settings::writer(tuning, remote.is_folder()))
                .with_sst_block_size(settings::BLOCK)
                .with_db_cache(cache, own)
                .with_block_cache_policy(settings::cached());
            let fault = match within(OPEN_LIMIT, builder.build()).await {
                Ok(Ok(db)) => {
                    let compaction = Compaction::new(db.clone(), &path, remote, tuning.look_every);
                    return Ok(Self::new(db, compaction));
                }
                Ok(Err(error)) => Fault::of(error),
                Err(fault) => fault,
            };
            // To try again after a fence would fence the other one in turn.
            if tries == OPEN_TRIES || matches!(fault, Fault::Fenced) {
                return Err(fault);
            }
        }
    }

    fn new(db: Db, compaction: Compaction) -> Self {
        let work = Arc::new(Work::default());
        let keeper = tokio::spawn(keep(db.clone(), work.clone()));
        Self { db, unsure: Mutex::new(None), work, keeper, compaction, is_closed: false }
    }

    /// For reading a shard without fencing anybody. It has what was durable a while ago, and follows what is written.
    ///
    /// A read of a shard that somebody compacts may find an object gone, which is damage as far as it knows: whoever
    /// reads opens the shard anew and reads again before believing it.
    pub async fn open_reader(remote: &Remote, number: u8, generation: u64) -> Result<Source, Fault> {
        let (cache, own) = settings::cache();
        let builder = DbReader::builder(shard_path(number, generation), remote.store())
            .with_options(settings::reader())
            // Without a checkpoint: nothing is written.
            .with_reader_mode(DbReaderMode::FollowLatest)
            .with_db_cache(cache, own);
        let reader = within(OPEN_LIMIT, builder.build()).await?.map_err(Fault::of)?;
        Ok(Source(Inner::Reader(Arc::new(Reading(Arc::new(reader))))))
    }

    /// For reading what is durable. It ends with the shard.
    pub fn source(&self) -> Source {
        Source(Inner::Writer(self.db.clone()))
    }

    /// Whether anything can be written to it. If not, it is to be closed and opened again.
    pub fn is_usable(&self) -> bool {
        self.db.status().close_reason.is_none()
    }

    /// Writes all of `batch`, or nothing: values, or None for keys to be deleted. Returns when the bucket has it.
    ///
    /// After [`Fault::Away`] the batch may be there, or come to be there; to write it again is right.
    pub async fn write(&self, batch: Vec<(String, Option<Bytes>)>) -> Result<(), Fault> {
        let mut writes = WriteBatch::new();
        for (key, value) in batch {
            match value {
                Some(value) => writes.put_bytes(key.into(), value),
                None => writes.delete(key),
            }
        }
        if writes.is_empty() {
            return Ok(());
        }
        let (earlier, mut own) = (self.unsure.lock().take(), None);
        let written = within(WRITE_LIMIT, async {
            // Else each try would be kept in memory as long as the bucket is away.
            if let Some(earlier) = &earlier {
                earlier.await_durable().await?;
            }
            let own = own.insert(self.db.write(writes).await?);
            self.db.flush().await?;
            own.await_durable().await
        })
        .await;
        match written {
            Ok(Ok(())) => {
                self.work.note_flush();
                Ok(())
            }
            Ok(Err(error)) => Err(Fault::of_open(&self.db, error)),
            Err(fault) => {
                *self.unsure.lock() = own.or(earlier);
                Err(fault)
            }
        }
    }

    /// Deletes the entries of a tenant before one. Gives the paths of the objects that they needed.
    pub async fn delete_entries(&self, tenant: &str, (epoch, seq): (u64, u64)) -> Result<Vec<String>, Fault> {
        let last = match (seq.checked_sub(1), epoch.checked_sub(1)) {
            (Some(seq), _) => (epoch, seq),
            (None, Some(epoch)) => (epoch, u64::MAX),
            (None, None) => return Ok(Vec::new()),
        };
        self.delete(tenant, Vec::new(), Some(last)).await
    }

    /// Deletes everything of a tenant, its head first. After an error it is to be called again. Gives the paths of the
    /// objects that the entries needed.
    pub async fn delete_tenant(&self, tenant: &str) -> Result<Vec<String>, Fault> {
        self.delete(tenant, vec![(head_key(tenant), None)], None).await
    }

    async fn delete(
        &self,
        tenant: &str,
        mut batch: Vec<(String, Option<Bytes>)>,
        last: Option<(u64, u64)>,
    ) -> Result<Vec<String>, Fault> {
        let mut entries = self.source().entries(tenant, None, last).await?;
        let mut objects = Vec::new();
        while let Some((epoch, seq, value)) = entries.next().await? {
            let place = Place { tenant, epoch, seq };
            objects.extend(Stored::parse(&place, &value).ok().and_then(|stored| stored.big));
            batch.push((place.key(), None));
            if batch.len() == DELETED_AT_ONCE {
                self.write(std::mem::take(&mut batch)).await?;
            }
        }
        self.write(batch).await?;
        Ok(objects)
    }

    /// For bringing about that what was deleted leaves the bucket. It does not keep the shard open.
    pub fn compaction(&self) -> Compaction {
        self.compaction.clone()
    }

    /// What it has done and is made of.
    pub fn stats(&self) -> Stats {
        let manifest = self.db.manifest();
        Stats {
            flushes: self.work.flushes.load(Ordering::Relaxed),
            table_flushes: self.work.table_flushes.load(Ordering::Relaxed),
            young_tables: manifest.l0().len(),
            runs: manifest.compacted().len(),
        }
    }

    /// Closes it. What was confirmed is durable in any case.
    pub async fn close(mut self) {
        self.is_closed = true;
        self.keeper.abort();
        match within(CLOSE_LIMIT, self.db.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a shard was closed after a failure"),
            Err(_) => tracing::debug!("a shard was closed without an answer of the bucket"),
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.keeper.abort();
        if let Ok(runtime) = Handle::try_current()
            && !self.is_closed
        {
            // Its tasks would go on.
            let db = self.db.clone();
            runtime.spawn(async move { db.close_with_options(CloseOptions::default().with_flush_type(None)).await });
        }
    }
}

impl Work {
    fn note_flush(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        if self.unkept.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_FLUSHES {
            self.is_much.notify_one();
        }
    }
}

/// Writes to the tables what is in the log only, now and then.
async fn keep(db: Db, work: Arc<Work>) {
    loop {
        let _ = timeout(LONGEST, work.is_much.notified()).await;
        if db.status().close_reason.is_some() {
            return;
        }
        if work.unkept.swap(0, Ordering::Relaxed) == 0 {
            continue;
        }
        match db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await {
            Ok(()) => {
                work.table_flushes.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => tracing::debug!(%error, "the tables of a shard were not written; it is tried again"),
        }
    }
}

/// A shard as it is read. Cheap to clone.
#[derive(Clone)]
pub struct Source(Inner);

#[derive(Clone)]
enum Inner {
    Writer(Db),
    Reader(Arc<Reading>),
}

struct Reading(Arc<DbReader>);

impl Drop for Reading {
    fn drop(&mut self) {
        if let Ok(runtime) = Handle::try_current() {
            // Its task would go on.
            let reader = self.0.clone();
            runtime.spawn(async move { reader.close().await });
        }
    }
}

impl Source {
    /// The head of a tenant's chain. None if the shard has nothing of it.
    pub async fn head(&self, tenant: &str) -> Result<Option<Head>, Fault> {
        let (key, options) = (head_key(tenant), settings::read());
        let found = match &self.0 {
            Inner::Writer(db) => within(READ_LIMIT, db.get_with_options(key, &options)).await?,
            Inner::Reader(reader) => within(READ_LIMIT, reader.0.get_with_options(key, &options)).await?,
        };
        let found = found.map_err(|error| self.fault(error))?;
        found.map(|value| Head::decode(&value).map_err(Fault::of_content)).transpose()
    }

    /// The entries of a tenant in order, from one to another, both included.
    pub async fn entries(
        &self,
        tenant: &str,
        from: Option<(u64, u64)>,
        to: Option<(u64, u64)>,
    ) -> Result<Entries, Fault> {
        Ok(Entries { rows: self.scan(entry_range(tenant, from, to)).await?, source: self.clone() })
    }

    /// The heads of up to `most` tenants whose names come after `after`, in the order of their names.
    pub async fn tenants(&self, after: Option<&str>, most: usize) -> Result<Vec<(String, Head)>, Fault> {
        let mut rows = self.scan(head_range(after)).await?;
        let mut found = Vec::new();
        while found.len() < most
            && let Some((key, value)) = self.next(&mut rows).await?
        {
            // What is no head is of nobody.
            if let Some(tenant) = parse_head_key(&key) {
                found.push((tenant.to_owned(), Head::decode(&value).map_err(Fault::of_content)?));
            }
        }
        Ok(found)
    }

    /// None for a range of nothing, which SlateDB does not take.
    async fn scan(&self, range: Range<String>) -> Result<Option<DbIterator>, Fault> {
        if range.is_empty() {
            return Ok(None);
        }
        let options = settings::scan();
        let rows = match &self.0 {
            Inner::Writer(db) => within(READ_LIMIT, db.scan_with_options(range, &options)).await?,
            Inner::Reader(reader) => within(READ_LIMIT, reader.0.scan_with_options(range, &options)).await?,
        };
        rows.map(Some).map_err(|error| self.fault(error))
    }

    async fn next(&self, rows: &mut Option<DbIterator>) -> Result<Option<(Bytes, Bytes)>, Fault> {
        let Some(rows) = rows else { return Ok(None) };
        let row = within(READ_LIMIT, rows.next()).await?.map_err(|error| self.fault(error))?;
        Ok(row.map(|row| (row.key, row.value)))
    }

    fn fault(&self, error: slatedb::Error) -> Fault {
        match &self.0 {
            Inner::Writer(db) => Fault::of_open(db, error),
            Inner::Reader(_) => Fault::of(error),
        }
    }
}

/// Entries of a tenant, in order.
pub struct Entries {
    rows: Option<DbIterator>,
    source: Source,
}

impl Entries {
    /// The epoch, the number and the value of the next one, for [`Stored::parse`].
    pub async fn next(&mut self) -> Result<Option<(u64, u64, Bytes)>, Fault> {
        while let Some((key, value)) = self.source.next(&mut self.rows).await? {
            // What is no entry is of nobody.
            if let Some((_, epoch, seq)) = parse_entry_key(&key) {
                return Ok(Some((epoch, seq, value)));
            }
        }
        Ok(None)
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Fault> {
    timeout(limit, Box::pin(work)).await.map_err(|_| Fault::late(limit))
}

//! Where chains are read from: the bucket alone, or the shards that this server writes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::Mutex, time::sleep};

use crate::{
    error::{Error, ErrorKind, Result},
    replica::{
        entry::Head,
        format::{FORMAT_PATH, Format, Place, SHARDS, parse_shard_path, shard_of, shard_path},
        remote::Remote,
        seal::Seal,
        shard::{self, Fault, Shard},
        shards::Shards,
    },
};

/// Values that are read at once, in bytes.
const PIECE: usize = 8 << 20;

/// How often a read is tried, since what compacts a shard may remove what is being read.
const TRIES: u32 = 3;

/// How long between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// A replica as it is read.
pub struct Source {
    remote: Remote,
    seal: Arc<Seal>,
    shards: Shelf,
}

enum Shelf {
    /// Nobody is fenced.
    Bucket(Vec<Reader>),
    Server(Arc<Shards>),
}

/// A shard that is opened when something is asked of it.
struct Reader {
    number: u8,
    /// The newest; none if the bucket does not have the shard.
    generation: Option<u64>,
    open: Mutex<Option<shard::Source>>,
}

/// An entry: its epoch, its number, and what stands there.
pub type Row = (u64, u64, Bytes);

impl Source {
    /// A replica that may be another server's. Nothing is written.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if there is none; those of the bucket.
    pub async fn open(remote: Remote, seal: Arc<Seal>) -> Result<Self> {
        let Some(text) = remote.get(FORMAT_PATH).await? else {
            return Err(Error::config(format!(
                "there is no replica at {}: look whether the URL has the prefix that the server replicates to",
                remote.url()
            )));
        };
        Format::parse(&text)?;
        let mut newest = vec![None; usize::from(SHARDS)];
        for name in remote.folders("shard").await? {
            let folder = if name.starts_with("shard/") { name } else { format!("shard/{name}") };
            if let Some((number, generation)) = parse_shard_path(&folder) {
                let place: &mut Option<u64> = &mut newest[usize::from(number)];
                *place = (*place).max(Some(generation));
            }
        }
        let reader = |(number, generation)| Reader { number, generation, open: Mutex::default() };
        let readers = (0..).zip(newest).map(reader).collect();
        Ok(Self { remote, seal, shards: Shelf::Bucket(readers) })
    }

    /// The replica that this server writes.
    pub fn of_server(remote: Remote, seal: Arc<Seal>, shards: Arc<Shards>) -> Self {
        Self { remote, seal, shards: Shelf::Server(shards) }
    }

    /// The bucket.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// What opens what is encrypted.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The head of a tenant's chain. None if there is nothing of it.
    pub async fn head(&self, tenant: &str) -> Result<Option<Head>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let found = match self.shard(tenant, tries > 1).await {
                Ok(None) => return Ok(None),
                Ok(Some(shard)) => shard.head(tenant).await,
                Err(fault) => Err(fault),
            };
            match found {
                Err(Fault::Damaged(error)) if tries < TRIES => again(tenant, &error).await,
                found => return Ok(found?),
            }
        }
    }

    /// The first entries of a tenant from one to another, both included: some of them, if there are any.
    pub async fn entries(&self, tenant: &str, from: (u64, u64), to: (u64, u64)) -> Result<Vec<Row>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let found = match self.shard(tenant, tries > 1).await {
                Ok(None) => return Ok(Vec::new()),
                Ok(Some(shard)) => piece(&shard, tenant, from, to).await,
                Err(fault) => Err(fault),
            };
            match found {
                Err(Fault::Damaged(error)) if tries < TRIES => again(tenant, &error).await,
                found => return Ok(found?),
            }
        }
    }

    /// Shows all of them, in order.
    pub async fn each(
        &self,
        tenant: &str,
        from: (u64, u64),
        to: (u64, u64),
        mut seen: impl FnMut(Place<'_>, &Bytes) -> Result<()> + Send,
    ) -> Result<()> {
        let mut next = from;
        while next <= to {
            let rows = self.entries(tenant, next, to).await?;
            let Some((epoch, seq, _)) = rows.last() else { return Ok(()) };
            let last = (*epoch, *seq);
            for (epoch, seq, value) in &rows {
                seen(Place { tenant, epoch: *epoch, seq: *seq }, value)?;
            }
            if last == (u64::MAX, u64::MAX) {
                return Ok(());
            }
            next = after(last);
        }
        Ok(())
    }

    /// The shard of a tenant, opened anew if that is asked for; none if the bucket does not have it.
    async fn shard(&self, tenant: &str, anew: bool) -> Result<Option<shard::Source>, Fault> {
        let readers = match &self.shards {
            Shelf::Server(shards) => {
                let handle = shards.of(tenant).map_err(Fault::Away)?;
                return Ok(Some(handle.get().await?.source()));
            }
            Shelf::Bucket(readers) => readers,
        };
        let Some(reader) = readers.get(usize::from(shard_of(tenant))) else { return Ok(None) };
        let Some(generation) = reader.generation else { return Ok(None) };
        let mut open = reader.open.lock().await;
        if anew {
            *open = None;
        }
        if let Some(open) = &*open {
            return Ok(Some(open.clone()));
        }
        // A generation that was begun and never opened has no manifest.
        let manifests = format!("{}/manifest", shard_path(reader.number, generation));
        if self.remote.list(&manifests).await.map_err(Fault::Away)?.is_empty() {
            return Ok(None);
        }
        let opened = Shard::open_reader(&self.remote, reader.number, generation).await?;
        *open = Some(opened.clone());
        Ok(Some(opened))
    }
}

/// The least place after one.
pub(super) fn after((epoch, seq): (u64, u64)) -> (u64, u64) {
    seq.checked_add(1).map_or((epoch.saturating_add(1), 0), |seq| (epoch, seq))
}

async fn again(tenant: &str, error: &Error) {
    tracing::debug!(tenant, %error, "a shard is opened anew, since what compacts it may have removed what was read");
    sleep(PAUSE).await;
}

async fn piece(shard: &shard::Source, tenant: &str, from: (u64, u64), to: (u64, u64)) -> Result<Vec<Row>, Fault> {
    let mut entries = shard.entries(tenant, Some(from), Some(to)).await?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while bytes < PIECE
        && let Some(row) = entries.next().await?
    {
        bytes += row.2.len();
        rows.push(row);
    }
    Ok(rows)
}

/// Whether a tenant cannot be restored and others may be: the error is of what the bucket has of it, and not of the bucket.
pub(super) fn is_of_one(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::Invalid)
}

//! What of each tenant is in the bucket, as this machine remembers it: `replica.db` in the data folder.
//!
//! It saves reading the bucket, and may be lost: a tenant without a head here gets a new base. It must never be ahead of the
//! bucket or behind the log: heads are written when the bucket has their entries, and the log's segments are released after
//! that. A process that does not replicate removes the file before its first record.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::{
    entry::Head,
    format::{CATALOG, SHARDS},
    queries::{self, BaseRow},
};
use crate::{
    clock::{Millis, millis},
    error::Result,
    log::What,
    sqlite::{flush, open, wal::with_suffix},
};

/// The heads of all chains.
pub struct State {
    conn: Mutex<Connection>,
    unwritten: Mutex<Unwritten>,
    /// Held by who writes: what another one has taken is on the disk when this returns.
    persisting: Mutex<()>,
}

#[derive(Default)]
struct Unwritten {
    heads: HashMap<String, Head>,
    bases: Vec<(String, BaseRow)>,
    /// Being written: still read here.
    writing: HashMap<String, Head>,
}

/// What a tenant is called in the bucket.
pub fn tenant_of(name: &str) -> &str {
    if name.is_empty() { CATALOG } else { name }
}

impl State {
    /// Opens the file, or makes it. What it has of another bucket, by its `identity`, is forgotten. May block.
    pub fn open(path: &Path, identity: &str) -> Result<Self> {
        match Self::open_file(path, identity) {
            Ok(conn) => Ok(Self { conn: Mutex::new(conn), unwritten: Mutex::default(), persisting: Mutex::default() }),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "made anew: every user gets a new base in the bucket");
                flush::remove(path)?;
                let conn = Self::open_file(path, identity)?;
                Ok(Self { conn: Mutex::new(conn), unwritten: Mutex::default(), persisting: Mutex::default() })
            }
        }
    }

    fn open_file(path: &Path, identity: &str) -> Result<Connection> {
        if !path.exists() {
            // It would be rolled back into the new file.
            flush::remove(&with_suffix(path, "-journal"))?;
        }
        let conn = open::own(path)?;
        queries::create(&conn)?;
        if queries::about(&conn, IDENTITY)?.as_deref() != Some(identity) {
            queries::forget_all(&conn)?;
            // Which of them were to be compacted was noted in the file that is gone.
            for shard in 0..SHARDS {
                queries::compact_by(&conn, shard, 0)?;
            }
            queries::set_about(&conn, IDENTITY, identity)?;
        }
        Ok(conn)
    }

    /// Takes note of the last records of databases in a log that an earlier process has left: what of them is not in the
    /// bucket is lost with that log, so these chains end. May block.
    pub fn note_left(&self, left: &BTreeMap<String, What>) -> Result<()> {
        for (name, what) in left {
            let tenant = tenant_of(name);
            let Some(head) = self.head(tenant)? else { continue };
            let is_all = match (*what, head.position) {
                (What::Commit { offset, length, salts, .. }, Some(position)) => {
                    (position.salts, position.end) == (salts, offset + length)
                }
                _ => false,
            };
            if !is_all {
                self.end(tenant, head);
            }
        }
        self.persist().map(drop)
    }

    /// The head of a tenant's chain.
    pub fn head(&self, tenant: &str) -> Result<Option<Head>> {
        {
            let unwritten = self.unwritten.lock();
            if let Some(head) = unwritten.heads.get(tenant).or_else(|| unwritten.writing.get(tenant)) {
                return Ok(Some(head.clone()));
            }
        }
        let found = queries::head(&self.conn.lock(), tenant)?;
        found.map(|bytes| Head::decode(&bytes)).transpose()
    }

    /// Sets the head of a chain whose entries the bucket has.
    pub fn set(&self, tenant: &str, head: Head) {
        self.unwritten.lock().heads.insert(tenant.to_owned(), head);
    }

    /// Ends a chain: the tenant needs a base.
    pub fn end(&self, tenant: &str, mut head: Head) {
        head.ended = true;
        self.set(tenant, head);
    }

    /// Adds a base that the bucket has.
    pub fn add_base(&self, tenant: &str, base: BaseRow) {
        self.unwritten.lock().bases.push((tenant.to_owned(), base));
    }

    /// Writes what was set since the last time, durably; whether there was anything. May block.
    pub fn persist(&self) -> Result<bool> {
        let _turn = self.persisting.lock();
        let bases = {
            let mut unwritten = self.unwritten.lock();
            if unwritten.heads.is_empty() && unwritten.bases.is_empty() {
                return Ok(false);
            }
            unwritten.writing = std::mem::take(&mut unwritten.heads);
            std::mem::take(&mut unwritten.bases)
        };
        let heads: Vec<(String, Vec<u8>)> =
            self.unwritten.lock().writing.iter().map(|(tenant, head)| (tenant.clone(), head.encode())).collect();
        let written: Result<()> = (|| {
            let mut conn = self.conn.lock();
            let tx = conn.transaction()?;
            for (tenant, head) in &heads {
                queries::set_head(&tx, tenant, head)?;
            }
            for (tenant, base) in &bases {
                queries::add_base(&tx, tenant, base)?;
            }
            Ok(tx.commit()?)
        })();
        let mut unwritten = self.unwritten.lock();
        let writing = std::mem::take(&mut unwritten.writing);
        if written.is_err() {
            for (tenant, head) in writing {
                unwritten.heads.entry(tenant).or_insert(head);
            }
            unwritten.bases.extend(bases);
        }
        written.map(|()| true)
    }

    /// Ends a chain whose head in the bucket is another one than here: this folder is older, or was not told of what was
    /// written last. The epoch that follows is later than both. Whether it was so.
    pub fn compare(&self, tenant: &str, theirs: &Head) -> Result<bool> {
        match self.head(tenant)? {
            Some(ours) if (ours.epoch, ours.seq, ours.hash) == (theirs.epoch, theirs.seq, theirs.hash) => {
                return Ok(false);
            }
            Some(ours) => self.end(tenant, Head { epoch: ours.epoch.max(theirs.epoch), ..ours }),
            None => self.end(tenant, theirs.clone()),
        }
        Ok(true)
    }

    /// Which of these tenants need a base: those without a chain that goes on.
    pub fn without_chain(&self, tenants: Vec<String>) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for tenant in tenants {
            if self.head(&tenant)?.is_none_or(|head| head.ended) {
                found.push(tenant);
            }
        }
        Ok(found)
    }

    /// Up to `limit` tenants with a head after `after`, those written so far.
    pub fn heads(&self, after: &str, limit: u32) -> Result<Vec<(String, Head)>> {
        let rows = queries::heads(&self.conn.lock(), after, limit)?;
        rows.into_iter().map(|(tenant, bytes)| Ok((tenant, Head::decode(&bytes)?))).collect()
    }

    /// The bases of a tenant, oldest first.
    pub fn bases(&self, tenant: &str) -> Result<Vec<BaseRow>> {
        self.persist()?;
        Ok(queries::bases(&self.conn.lock(), tenant)?)
    }

    /// Forgets the bases of a tenant before one.
    pub fn remove_bases_before(&self, tenant: &str, base: &BaseRow) -> Result<()> {
        let mut conn = self.conn.lock();
        let tx = conn.transaction()?;
        queries::remove_bases_before(&tx, tenant, base.epoch, base.seq)?;
        Ok(tx.commit()?)
    }

    /// Forgets a tenant. May block.
    pub fn forget(&self, tenant: &str) -> Result<()> {
        let _turn = self.persisting.lock();
        {
            let mut unwritten = self.unwritten.lock();
            unwritten.heads.remove(tenant);
            unwritten.writing.remove(tenant);
            unwritten.bases.retain(|(of, _)| of != tenant);
        }
        let mut conn = self.conn.lock();
        let tx = conn.transaction()?;
        queries::forget(&tx, tenant)?;
        Ok(tx.commit()?)
    }

    /// Takes note that something is deleted in a shard, so that it is compacted after a time, if not before. May block.
    pub fn compact_after(&self, shard: u8, now: Millis, after: Duration) -> Result<()> {
        let at = now.saturating_add(millis(after.min(LONGEST)));
        Ok(queries::compact_by(&self.conn.lock(), shard, at)?)
    }

    /// The shards that are to be compacted now.
    pub fn compactions(&self, now: Millis) -> Result<Vec<u8>> {
        // A time that is further away is of a clock that was set back.
        let most = now.saturating_add(millis(LONGEST));
        Ok(queries::compactions(&self.conn.lock(), now, most)?)
    }

    /// Takes note that the compaction of a shard is begun. Until it is done, the shard is among those that are to be
    /// compacted. May block.
    pub fn begin_compaction(&self, shard: u8) -> Result<()> {
        Ok(queries::begin_compaction(&self.conn.lock(), shard)?)
    }

    /// Takes note that it was done: the shard is to be compacted only if something was deleted since the begin.
    pub fn end_compaction(&self, shard: u8) -> Result<()> {
        Ok(queries::end_compaction(&self.conn.lock(), shard)?)
    }

    /// Ends every chain for which `is_one` is true, by the tenant's name.
    pub fn end_all(&self, is_one: impl Fn(&str) -> bool) -> Result<()> {
        self.persist()?;
        let mut after = String::new();
        loop {
            let heads = self.heads(&after, 1000)?;
            let Some((last, _)) = heads.last() else { return self.persist().map(drop) };
            after.clone_from(last);
            for (tenant, _) in heads {
                if let Some(head) = self.head(&tenant)?.filter(|head| is_one(&tenant) && !head.ended) {
                    self.end(&tenant, head);
                }
            }
        }
    }
}

/// Under which key the bucket is noted.
const IDENTITY: &str = "identity";

/// The longest time until a compaction.
const LONGEST: Duration = Duration::from_secs(86_400);

//! What was read from the log of the tenants of one shard, and is not in the bucket yet: a decision about records, without
//! I/O but for looking up heads.
//!
//! A tenant has a [`Chain`] here while something of it waits. A record of a tenant whose chain has ended changes nothing: the
//! tenant needs a base, which will have it.

use std::collections::{HashMap, HashSet};

use super::{
    chain::{Chain, Item, created, going_on, item},
    entry::{BaseRef, Head},
    format::next_epoch,
    state::{State, tenant_of},
};
use crate::{
    clock::Millis,
    error::Result,
    log::{Done, Seq, record::Change},
};

/// Chains without anything that waits are kept up to this many, since their tenants are likely to be written to again.
const KEPT: usize = 1024;

/// The most images of one tenant that wait for its base, in bytes: with more, another base is made.
const MOST_AWAITING: usize = 32 << 20;

/// What is shipped at once.
pub struct Batch {
    /// Everything of the shard up to this record is in it, or before it.
    pub seq: Seq,
    /// The group of that record.
    pub group: u64,
    /// One for each chain; an ended one before one of the same tenant that has begun since.
    pub items: Vec<Item>,
}

/// Whoever waits for a commit to be in the bucket.
struct Waiter {
    tenant: String,
    seq: Seq,
    since: std::time::Instant,
    done: Done,
}

/// A base that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// The chain's epoch.
    pub epoch: u64,
    /// Entries after this one are applied to the base.
    pub after: u64,
}

/// Of one shard.
#[derive(Default)]
pub struct Pending {
    chains: HashMap<String, Chain>,
    /// Tenants whose chains have something to ship.
    dirty: HashSet<String>,
    ended: Vec<Item>,
    /// Tenants of which records were read and not kept: they need a base.
    missing: HashSet<String>,
    waiters: Vec<Waiter>,
    /// The page images that wait, in bytes.
    bytes: usize,
    /// How far was read: the record, its group, and when that was flushed.
    read: (Seq, u64, Millis),
    /// How far the bucket has everything.
    shipped: (Seq, u64),
    /// When the oldest group was flushed that has something that waits, or is on its way.
    oldest: Option<Millis>,
    in_flight: Option<Millis>,
    /// The tenants of the batch that is on its way.
    flying: Vec<String>,
}

impl Pending {
    /// Takes a record of the database `name`, flushed at `at`. True if the tenant needs a base.
    pub fn record(&mut self, name: &str, change: &Change<'_>, at: Millis, state: &State) -> Result<bool> {
        let tenant = tenant_of(name);
        match change {
            Change::Nothing => Ok(false),
            Change::Barrier => {
                self.end(tenant, "the file was moved, replaced or changed", state)?;
                Ok(true)
            }
            Change::Create(image) => {
                self.end(tenant, "the database was created anew", state)?;
                let epoch = next_epoch(state.head(tenant)?.map(|head| head.epoch), at);
                let Some(chain) = created(image, epoch, at) else { return Ok(true) };
                self.bytes += chain.bytes();
                self.missing.remove(tenant);
                self.chains.insert(tenant.to_owned(), chain);
                self.note_dirty(tenant, at);
                Ok(false)
            }
            Change::Commit { offset, salts, bytes, .. } => self.commit(tenant, (*offset, *salts, bytes), at, state),
        }
    }

    fn commit(
        &mut self,
        tenant: &str,
        (offset, salts, bytes): (u64, u64, &[u8]),
        at: Millis,
        state: &State,
    ) -> Result<bool> {
        if !self.chains.contains_key(tenant) {
            let Some(head) = state.head(tenant)?.filter(|head| !head.ended) else {
                self.missing.insert(tenant.to_owned());
                return Ok(true);
            };
            self.chains.insert(tenant.to_owned(), going_on(head));
        }
        let Some(chain) = self.chains.get_mut(tenant) else { return Ok(false) };
        let (images, mut size) = (&mut chain.images, chain.size_pages);
        let (before, page_size) = (images.len(), chain.page_size);
        chain.at = at;
        let read = chain.frames.read(offset, salts, bytes, &mut |transaction| {
            images.extend(std::mem::take(transaction.pages));
            size = transaction.size_pages;
            // Pages that were cut off.
            let _ = images.split_off(&(size + 1));
        });
        chain.size_pages = size;
        let after = images.len();
        self.bytes = (self.bytes + after * page_size as usize).saturating_sub(before * page_size as usize);
        if read.is_err() {
            self.end(tenant, "a record of the log was missed", state)?;
            return Ok(true);
        }
        if self.chains.get(tenant).is_some_and(|chain| chain.awaits_base && chain.bytes() > MOST_AWAITING) {
            self.end(tenant, "too much was written while its base was made", state)?;
            return Ok(true);
        }
        if self.chains.get(tenant).is_some_and(Chain::is_dirty) {
            self.note_dirty(tenant, at);
        }
        Ok(false)
    }

    fn note_dirty(&mut self, tenant: &str, at: Millis) {
        if !self.dirty.contains(tenant) {
            self.dirty.insert(tenant.to_owned());
        }
        self.oldest.get_or_insert(at);
    }

    /// Everything up to this record was read, of a group that was flushed at `at`. Gives whom to answer.
    #[must_use]
    pub fn read_through(&mut self, seq: Seq, group: u64, at: Millis) -> Vec<Done> {
        self.read = (seq, group, at);
        if self.has_work() || self.in_flight.is_some() {
            return Vec::new();
        }
        self.shipped = (seq, group);
        self.answerable()
    }

    /// The group up to which everything was read.
    pub fn read_group(&self) -> u64 {
        self.read.1
    }

    /// Ends a chain: what waits of it is shipped, and nothing after.
    pub fn end(&mut self, tenant: &str, why: &'static str, state: &State) -> Result<()> {
        self.missing.insert(tenant.to_owned());
        self.dirty.remove(tenant);
        let chain = match self.chains.remove(tenant) {
            Some(chain) => chain,
            None => match state.head(tenant)?.filter(|head| !head.ended) {
                Some(head) => going_on(head),
                None => return Ok(()),
            },
        };
        self.bytes = self.bytes.saturating_sub(chain.bytes());
        state.end(tenant, chain.head.clone());
        if !chain.awaits_base {
            self.ended.push(item(tenant, chain, Some(why)));
        }
        Ok(())
    }

    /// Gives up what waits, and what is on its way: nothing of the log is needed any more, and these tenants need bases. Gives
    /// their names.
    pub fn overflow(&mut self, state: &State) -> Vec<String> {
        let waiting = self.chains.iter().filter(|(_, chain)| !chain.images.is_empty() || chain.frames.is_inside());
        let mut fallen: Vec<String> = waiting.map(|(tenant, _)| tenant.clone()).collect();
        fallen.extend(self.flying.iter().cloned());
        fallen.extend(self.ended.iter().map(|item| item.tenant.clone()));
        for tenant in &fallen {
            if let Some(chain) = self.chains.remove(tenant) {
                self.bytes = self.bytes.saturating_sub(chain.bytes());
                state.end(tenant, chain.head);
            }
            self.dirty.remove(tenant);
            self.missing.insert(tenant.clone());
        }
        self.ended.clear();
        self.oldest = None;
        self.shipped = (self.read.0, self.read.1);
        fallen
    }

    /// Whether something of a tenant was read since it was last shipped as a whole.
    pub fn has_chain(&self, tenant: &str) -> bool {
        self.chains.contains_key(tenant)
    }

    /// Drops the chain of a tenant, of which the bucket has another than is known here.
    pub fn drop_chain(&mut self, tenant: &str) {
        self.forget(tenant);
        self.missing.insert(tenant.to_owned());
    }

    /// Ends every chain, also those of which nothing waits. Gives their names.
    pub fn end_all(&mut self, state: &State) -> Vec<String> {
        // What is on its way ends with an overflow.
        self.flying.extend(self.chains.keys().cloned());
        self.overflow(state)
    }

    /// Begins a base of a tenant: from here on records are kept, and what is before them is in the copy that the caller makes
    /// now. Everything up to the newest group was read.
    pub fn begin_base(&mut self, tenant: &str, now: Millis, state: &State) -> Result<Begun> {
        if let Some(chain) = self.chains.get(tenant)
            && !chain.awaits_base
        {
            return Ok(Begun { epoch: chain.head.epoch, after: chain.head.seq });
        }
        let known = state.head(tenant)?;
        if let Some(head) = known.clone().filter(|head| !head.ended) {
            let begun = Begun { epoch: head.epoch, after: head.seq };
            self.chains.insert(tenant.to_owned(), going_on(head));
            return Ok(begun);
        }
        let awaited = self.chains.remove(tenant).map(|chain| {
            self.bytes = self.bytes.saturating_sub(chain.bytes());
            chain.head.epoch
        });
        let epoch = next_epoch(known.map(|head| head.epoch).max(awaited), now);
        let head = Head { epoch, ..Head::default() };
        self.missing.remove(tenant);
        self.chains.insert(tenant.to_owned(), Chain { awaits_base: true, ..going_on(head) });
        Ok(Begun { epoch, after: 0 })
    }

    /// The base that was begun is in the bucket, and everything that it has was read from the log. False if the chain has
    /// ended since.
    pub fn end_base(
        &mut self,
        tenant: &str,
        begun: Begun,
        base: BaseRef,
        (size_pages, at): (u32, Millis),
        state: &State,
    ) -> Result<bool> {
        if !self.chains.contains_key(tenant)
            && let Some(head) = state.head(tenant)?.filter(|head| !head.ended && head.epoch == begun.epoch)
        {
            // Nothing of it waited, so it was not kept.
            self.chains.insert(tenant.to_owned(), going_on(head));
        }
        let Some(chain) = self.chains.get_mut(tenant).filter(|chain| chain.head.epoch == begun.epoch) else {
            return Ok(false);
        };
        if chain.size_pages == 0 || chain.images.is_empty() && chain.awaits_base {
            chain.size_pages = size_pages;
        }
        chain.at = at.max(chain.at);
        chain.base = Some(base);
        chain.awaits_base = false;
        self.note_dirty(tenant, at);
        Ok(true)
    }

    /// Drops what waits of a tenant whose data is to be erased.
    pub fn forget(&mut self, tenant: &str) {
        if let Some(chain) = self.chains.remove(tenant) {
            self.bytes = self.bytes.saturating_sub(chain.bytes());
        }
        self.dirty.remove(tenant);
        self.missing.remove(tenant);
        self.ended.retain(|item| item.tenant != tenant);
    }

    /// Whether there is something to ship.
    pub fn has_work(&self) -> bool {
        !self.ended.is_empty() || !self.dirty.is_empty()
    }

    /// Whether somebody waits for what is not shipped yet.
    pub fn is_awaited(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Whether more than `most` bytes wait that can be shipped. What awaits its base cannot, and the base waits for the log to
    /// be read.
    pub fn is_full(&self, most: usize) -> bool {
        let awaiting = || self.chains.values().filter(|chain| chain.awaits_base).map(Chain::bytes).sum::<usize>();
        self.bytes > most && self.bytes.saturating_sub(awaiting()) > most
    }

    /// Whether what a tenant commits is in the bucket only with a base that is not there yet.
    pub fn lacks_base(&self, tenant: &str) -> bool {
        self.missing.contains(tenant) || self.chains.get(tenant).is_some_and(|chain| chain.awaits_base)
    }

    /// Whether something of a tenant is on its way.
    pub fn is_flying(&self, tenant: &str) -> bool {
        self.flying.iter().any(|flying| flying == tenant)
    }

    /// The page images that wait, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes all that can be shipped. Only one batch is on its way at a time.
    pub fn take(&mut self) -> Batch {
        let mut items = std::mem::take(&mut self.ended);
        for tenant in self.dirty.drain() {
            let Some(chain) = self.chains.get_mut(&tenant).filter(|chain| chain.is_dirty()) else { continue };
            self.bytes = self.bytes.saturating_sub(chain.bytes());
            items.push(Item {
                tenant,
                head: chain.head.clone(),
                images: std::mem::take(&mut chain.images),
                size_pages: chain.size_pages,
                page_size: chain.page_size,
                is_whole: std::mem::take(&mut chain.is_whole),
                base: chain.base.take(),
                end: None,
                position: chain.frames.position(),
                at: chain.at,
            });
        }
        self.in_flight = Some(self.oldest.take().unwrap_or(self.read.2));
        self.flying = items.iter().map(|item| item.tenant.clone()).collect();
        let (seq, group, _) = self.read;
        Batch { seq, group, items }
    }

    /// The bucket has a batch up to this record. `heads` are the new heads of the chains in it that go on. Gives whom to answer.
    pub fn shipped(&mut self, (seq, group): (Seq, u64), heads: Vec<(String, Head)>, state: &State) -> Vec<Done> {
        for (tenant, head) in heads {
            if let Some(chain) = self.chains.get_mut(&tenant).filter(|chain| chain.head.epoch == head.epoch) {
                chain.head = head.clone();
                state.set(&tenant, head);
            } else if let Some(item) =
                self.ended.iter_mut().find(|item| item.tenant == tenant && item.head.epoch == head.epoch)
            {
                // It has ended meanwhile: its last entries follow these.
                item.head = head;
            }
        }
        self.in_flight = None;
        self.flying.clear();
        let through = if self.has_work() { (seq, group) } else { (self.read.0, self.read.1) };
        self.shipped = self.shipped.max(through);
        if self.chains.len() > KEPT {
            self.chains.retain(|_, chain| chain.is_dirty() || chain.awaits_base || chain.frames.is_inside());
        }
        self.answerable()
    }

    /// Whoever waits for something that the bucket has by now.
    fn answerable(&mut self) -> Vec<Done> {
        if self.waiters.is_empty() {
            return Vec::new();
        }
        let (shipped, missing, chains) = (self.shipped.0, &self.missing, &self.chains);
        let is_there = |waiter: &mut Waiter| {
            waiter.seq <= shipped
                && !missing.contains(&waiter.tenant)
                && chains.get(&waiter.tenant).is_none_or(|chain| !chain.awaits_base && chain.base.is_none())
        };
        self.waiters.extract_if(.., is_there).map(|waiter| waiter.done).collect()
    }

    /// Has `done` called when the bucket has the record. Gives whom to answer now.
    #[must_use]
    pub fn wait(&mut self, name: &str, seq: Seq, done: Done) -> Vec<Done> {
        let since = std::time::Instant::now();
        self.waiters.push(Waiter { tenant: tenant_of(name).to_owned(), seq, since, done });
        if seq <= self.shipped.0 { self.answerable() } else { Vec::new() }
    }

    /// Takes out who waits for longer than `limit`; all of them for a limit of zero.
    pub fn expired(&mut self, limit: std::time::Duration) -> Vec<Done> {
        self.waiters.extract_if(.., |waiter| waiter.since.elapsed() >= limit).map(|waiter| waiter.done).collect()
    }

    /// The group up to which nothing of the log is needed any more.
    pub fn released(&self) -> u64 {
        self.shipped.1
    }

    /// When the oldest commit was made that the bucket does not have yet.
    pub fn oldest(&self) -> Option<Millis> {
        self.in_flight.or(self.oldest)
    }

    /// How many tenants have changes that wait.
    pub fn tenants(&self) -> usize {
        self.dirty.len() + self.ended.len()
    }
}

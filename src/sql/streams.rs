//! The streams of which something is kept between two requests: an open transaction, or stored SQL.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::{
    baton::{Baton, Batons, LIFETIME, Refused},
    state::State,
    texts::Texts,
};
use crate::{
    error::{Error, ErrorKind},
    tenants::{id::TenantId, session::Session},
};

/// How much may be kept.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Streams of one tenant.
    pub of_tenant: usize,
    /// Streams in all.
    pub of_all: usize,
    /// How long a transaction may wait for its next request.
    pub idle: Duration,
}

/// Ended transactions whose end is remembered, to be told when their batons come.
const REMEMBERED: usize = 4096;

/// All streams of a server.
pub struct Streams {
    batons: Batons,
    bounds: Bounds,
    kept: Mutex<Kept>,
    /// The bytes of all stored SQL.
    texts: Arc<AtomicUsize>,
    this: Weak<Self>,
}

#[derive(Default)]
struct Kept {
    waiting: HashMap<u64, Waiting>,
    /// Counted also while a request has the stream.
    of_tenant: HashMap<TenantId, usize>,
    count: usize,
    ended: VecDeque<u64>,
}

struct Waiting {
    stream: Stream,
    /// Ends it when it has waited for too long.
    timer: AbortHandle,
}

/// A place among those that are counted.
struct Slot {
    // Weak: the streams have slots themselves.
    streams: Weak<Streams>,
    tenant: TenantId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(streams) = self.streams.upgrade() else { return };
        let mut kept = streams.kept.lock();
        kept.count -= 1;
        if let Some(count) = kept.of_tenant.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                kept.of_tenant.remove(&self.tenant);
            }
        }
    }
}

/// A stream in the hands of a request.
pub struct Stream {
    /// Its transaction's connection, if one is open.
    pub session: Option<Session>,
    /// What its client can tell.
    pub state: State,
    /// Its stored SQL.
    pub texts: Texts,
    slot: Option<Slot>,
}

/// Who has a stream.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The tenant.
    pub tenant: TenantId,
    /// The caller.
    pub caller: String,
}

/// Why a baton opens no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// See [`Refused`].
    Refused(Refused),
    /// The transaction was rolled back, since nobody continued it.
    RolledBack(Duration),
    /// What was kept of it is no longer there.
    Lost,
}

impl Streams {
    /// None yet.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            batons: Batons::new(),
            bounds,
            kept: Mutex::default(),
            texts: Arc::default(),
            this: this.clone(),
        })
    }

    /// A new stream.
    pub fn open(&self) -> Stream {
        Stream { session: None, state: State::default(), texts: Texts::new(&self.texts), slot: None }
    }

    /// The stream of a baton, which is used up by that.
    ///
    /// # Errors
    /// Why there is none.
    pub fn take(&self, baton: &str, owner: &Owner) -> Result<Stream, Gone> {
        let taken = self.batons.take(baton, owner.tenant.as_str(), &owner.caller, Instant::now());
        let Baton { number, kept, foreign_keys } = taken.map_err(Gone::Refused)?;
        if !kept {
            return Ok(Stream { state: State { foreign_keys, ..State::default() }, ..self.open() });
        }
        let mut kept = self.kept.lock();
        match kept.waiting.remove(&number) {
            Some(Waiting { stream, timer }) => {
                timer.abort();
                Ok(stream)
            }
            None if kept.ended.contains(&number) => Err(Gone::RolledBack(self.bounds.idle)),
            None => Err(Gone::Lost),
        }
    }

    /// Counts a stream, of which something is to be kept from now on.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if there are too many.
    pub fn count(&self, stream: &mut Stream, tenant: &TenantId) -> Result<(), Error> {
        if stream.slot.is_some() {
            return Ok(());
        }
        let mut kept = self.kept.lock();
        let of_tenant = kept.of_tenant.get(tenant).copied().unwrap_or(0);
        let too_many = |whose: &str, most: usize| {
            let why =
                format!("{whose} {most} streams with an open transaction or stored SQL; close some, or try again");
            Error::new(ErrorKind::Busy, why)
        };
        if of_tenant >= self.bounds.of_tenant {
            return Err(too_many("this user has", self.bounds.of_tenant));
        }
        if kept.count >= self.bounds.of_all {
            return Err(too_many("this server has", self.bounds.of_all));
        }
        kept.count += 1;
        *kept.of_tenant.entry(tenant.clone()).or_default() += 1;
        stream.slot = Some(Slot { streams: self.this.clone(), tenant: tenant.clone() });
        Ok(())
    }

    /// Keeps what there is of a stream, and gives the baton to go on with.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if there are too many.
    pub fn park(&self, mut stream: Stream, owner: &Owner) -> Result<String, Error> {
        let number = self.batons.number(Instant::now());
        let kept = stream.session.is_some() || !stream.texts.is_empty();
        let baton = Baton { number, kept, foreign_keys: stream.state.foreign_keys };
        let signed = self.batons.sign(baton, owner.tenant.as_str(), &owner.caller);
        if kept {
            self.count(&mut stream, &owner.tenant)?;
            let wait = if stream.session.is_some() { self.bounds.idle } else { LIFETIME };
            let this = self.this.clone();
            // Held, so that the timer finds the stream.
            let mut kept = self.kept.lock();
            let timer = tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                if let Some(streams) = this.upgrade() {
                    streams.end(number);
                }
            });
            kept.waiting.insert(number, Waiting { stream, timer: timer.abort_handle() });
        }
        Ok(signed)
    }

    fn end(&self, number: u64) {
        let ended = {
            let mut kept = self.kept.lock();
            let ended = kept.waiting.remove(&number);
            if ended.as_ref().is_some_and(|waiting| waiting.stream.session.is_some()) {
                if kept.ended.len() == REMEMBERED {
                    kept.ended.pop_front();
                }
                kept.ended.push_back(number);
            }
            ended
        };
        // Not under the lock, which its slot takes.
        drop(ended);
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for waiting in self.kept.get_mut().waiting.values() {
            waiting.timer.abort();
        }
    }
}

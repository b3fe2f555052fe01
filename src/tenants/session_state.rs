//! Who has the connection of a transaction that is held open: nobody, somebody who runs on it, or it is over.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit},
};

use super::{open::database::SharedUse, tenant::Tenant};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{
        combine::lend::{self, Committed},
        deadline::Cancel,
        pool::Pooled,
        reading, sequence,
    },
};

/// The connection of a transaction.
pub(super) enum Lent {
    Writer(lend::Lent),
    Reader(Pooled),
}

/// A transaction and what it keeps. Dropping it rolls back, and may block.
pub(super) struct Held {
    // Dropped in this order: the connection is given back while the database is in shared mode and leased.
    lent: Lent,
    _shared: SharedUse,
    _permits: Vec<OwnedSemaphorePermit>,
    tenant: Tenant,
}

impl Held {
    pub fn new(lent: Lent, shared: SharedUse, permits: Vec<OwnedSemaphorePermit>, tenant: Tenant) -> Self {
        Self { lent, _shared: shared, _permits: permits, tenant }
    }

    pub fn only_reads(&self) -> bool {
        matches!(self.lent, Lent::Reader(_))
    }

    pub fn tenant(&self) -> Tenant {
        self.tenant.clone()
    }

    /// May block.
    pub fn run<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let result = match &mut self.lent {
            Lent::Writer(lent) => lent.run(|conn| work(conn).map_err(|error| sequence::told(conn, error))),
            Lent::Reader(conn) => reading::within_snapshot(conn, work),
        };
        self.tenant.record_fault(result)
    }

    fn is_open(&self) -> bool {
        match &self.lent {
            Lent::Writer(lent) => lent.is_open(),
            Lent::Reader(conn) => !conn.is_autocommit(),
        }
    }

    /// Commits, and says when that is durable; none if there was nothing to commit. May block.
    pub fn commit(&mut self) -> Result<Option<Committed>> {
        match &mut self.lent {
            Lent::Writer(lent) => lent.commit().map(Some),
            Lent::Reader(_) => Ok(None),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Lent::Reader(conn) = &self.lent
            && let Err(error) = reading::end_snapshot(conn)
        {
            tracing::error!(tenant = %self.tenant.id(), error = %error, "a reader could not end its transaction");
        }
    }
}

/// A transaction that is held open, as its user and whoever ends it see it.
pub(super) struct State {
    place: Mutex<Place>,
    /// Interrupts what runs.
    cancel: Cancel,
    over: Notify,
    runtime: Handle,
}

enum Place {
    Idle(Box<Held>),
    /// Somebody runs on it; why it ends after that, if it does.
    Running(Option<Error>),
    Over(Error),
}

impl State {
    pub fn new(held: Held, cancel: Cancel, runtime: Handle) -> Arc<Self> {
        let place = Mutex::new(Place::Idle(Box::new(held)));
        Arc::new(Self { place, cancel, over: Notify::new(), runtime })
    }

    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Takes the connection to run on it.
    ///
    /// # Errors
    /// Why the transaction has ended.
    pub fn take(&self) -> Result<Box<Held>> {
        let mut place = self.place.lock();
        match std::mem::replace(&mut *place, Place::Running(None)) {
            Place::Idle(held) => Ok(held),
            Place::Running(ends) => {
                *place = Place::Running(ends);
                Err(Error::new(ErrorKind::Conflict, "another request of this transaction is still running"))
            }
            Place::Over(why) => {
                *place = Place::Over(why.clone());
                Err(why)
            }
        }
    }

    /// Puts the connection back after a run. May block if the transaction has ended.
    ///
    /// # Errors
    /// It was ended meanwhile, and why.
    pub fn put_back(&self, held: Box<Held>) -> Result<()> {
        let mut place = self.place.lock();
        if let Place::Running(Some(why)) = &*place {
            let why = why.clone();
            *place = Place::Over(why.clone());
            drop(place);
            self.over.notify_one();
            drop(held);
            return Err(why);
        }
        if held.is_open() {
            *place = Place::Idle(held);
            return Ok(());
        }
        *place = Place::Over(Error::new(ErrorKind::Conflict, "the transaction was rolled back after an error"));
        drop(place);
        self.over.notify_one();
        drop(held);
        Ok(())
    }

    /// The transaction is over, and whoever took the connection drops it.
    pub fn finish(&self) {
        *self.place.lock() = Place::Over(Error::new(ErrorKind::Conflict, "the transaction has ended"));
        self.over.notify_one();
    }

    /// Ends it now, or interrupts what runs and ends it after that. Does not block.
    pub fn end(&self, why: Error) {
        let mut place = self.place.lock();
        match std::mem::replace(&mut *place, Place::Over(why.clone())) {
            Place::Idle(held) => {
                drop(place);
                self.over.notify_one();
                // Dropped there also if that thread never runs.
                drop(self.runtime.spawn_blocking(move || drop(held)));
            }
            Place::Running(ends) => {
                *place = Place::Running(Some(ends.unwrap_or(why)));
                drop(place);
                self.cancel.trigger();
            }
            Place::Over(before) => *place = Place::Over(before),
        }
    }

    pub fn is_open(&self) -> bool {
        !matches!(*self.place.lock(), Place::Over(_))
    }

    /// Returns when it is over.
    pub async fn over(&self) {
        self.over.notified().await;
    }
}

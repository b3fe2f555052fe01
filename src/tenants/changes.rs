//! Listening to a tenant's commits.

use tokio::sync::watch;

use super::{open::feeds::Listening, tenant::Tenant};
use crate::{
    error::Result,
    sqlite::feed::{Heard, Position, recent::Next},
};

pub use crate::sqlite::feed::{End, recent::Why};

/// Who listens to the commits of one tenant. It has no lease: the tenant may be closed and opened again meanwhile.
///
/// ```no_run
/// # async fn example(store: cubby::Store, ada: cubby::TenantId) -> cubby::Result<()> {
/// use cubby::tenants::changes::Change;
///
/// let mut changes = store.lease(&ada).await?.changes(None)?;
/// loop {
///     match changes.next().await {
///         Change::Commit { tables, .. } => println!("changed: {tables:?}"),
///         Change::Reset { .. } => println!("read everything anew"),
///         Change::End(why) => break println!("over: {why:?}"),
///     }
/// }
/// # Ok(()) }
/// ```
pub struct Changes {
    listening: Listening,
    position: Position,
    changed: watch::Receiver<()>,
}

/// What somebody who listens hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A commit, which is durable.
    Commit {
        /// Its number in this feed: one more than that of the event before.
        seq: u64,
        /// The tables that its statements wrote to.
        tables: Vec<String>,
    },
    /// What was known before may be out of date, all of it: what is read from now on is not.
    Reset {
        /// The number that is known now.
        seq: u64,
        /// Why.
        why: Why,
    },
    /// Nothing more comes. Who listens again may find the tenant suspended or gone, and hears a reset if not.
    End(End),
}

impl Tenant {
    /// Listens to the commits of this tenant from now on, or from after the event of this [id](Changes::id). The first
    /// change is a reset, unless everything since that event is known.
    ///
    /// Each table that a commit wrote to is named; one may be named whose rows have not changed, such as that of a
    /// trigger that did not fire. `sqlite_schema` stands for the schema. Incremental blob I/O is not seen.
    ///
    /// While somebody listens, the statements of a write that are cached are prepared anew.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) if too many listen; see
    /// [`StoreOptions::feeds`](crate::StoreOptions::feeds).
    pub fn changes(&self, after: Option<&str>) -> Result<Changes> {
        let listening = self.store.inner.feeds.listen(self.id())?;
        let feed = listening.feed();
        // First, so that what is committed after the beginning is told.
        self.lease.combiner().attach(feed);
        let (position, changed) = (feed.position(after), feed.watch());
        Ok(Changes { listening, position, changed })
    }
}

impl Changes {
    /// The next change; waits for it. After an end, the end again. Can be dropped before it is done without a loss.
    pub async fn next(&mut self) -> Change {
        loop {
            self.changed.mark_unchanged();
            match self.listening.feed().next(&mut self.position) {
                Some(Heard::Event(Next::Commit(seq, tables))) => {
                    return Change::Commit { seq, tables: tables.to_vec() };
                }
                Some(Heard::Event(Next::Reset(seq, why))) => return Change::Reset { seq, why },
                Some(Heard::End(end)) => return Change::End(end),
                // The feed lives as long as this does, so there is a sender.
                None => {
                    let _ = self.changed.changed().await;
                }
            }
        }
    }

    /// The id of the event of this number, by which [`Tenant::changes`] goes on after it.
    pub fn id(&self, seq: u64) -> String {
        self.listening.feed().id(seq)
    }
}

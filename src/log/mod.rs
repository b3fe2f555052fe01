//! The log of a data folder: one write-ahead log for the commits of all its databases.
//!
//! A commit appends to its database's own write-ahead log, without a flush, and the bytes that it appended become a
//! [`record`] here. A thread writes all records that wait as one group and flushes once, which
//! acknowledges all of them. After a crash, [`recover`] writes the records' bytes to the databases' own logs again
//! before anybody is served, and SQLite recovers from those. Decision 0011 weighs this against a flush for each commit.
//!
//! # Rules for who writes to databases
//! The log only knows what the combiner of a database appends. So:
//! 1. A checkpoint copies only commits that are durable here: it waits for the database's last record.
//! 2. Before the files of a database are moved, replaced or removed, or written to by anybody but the combiner, they are
//!    made complete (a checkpoint, or a flush of the write-ahead log), and then a barrier is durable here.
//! 3. After a commit whose record could not be written, the write-ahead log is logged as a whole and emptied. Until
//!    then the database is not written to.
//! 4. What is read is answered when the commits that it may have seen are durable.
//!
//! # Recycling
//! A segment that is full is free again after a `syncfs` of the data folder, which flushes every database's own log, and when
//! the [`Tail`] was read that far, if somebody reads it.

mod boot;
mod database;
mod erase;
mod group;
mod handle;
mod options;
mod plan;
pub mod record;
mod recover;
mod recycler;
mod scan;
mod segment;
mod state;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

pub use boot::Boot;
pub use database::DatabaseLog;
pub use handle::Log;
pub use options::Options;
pub use record::What;
pub use recover::{Recovered, damaged_logs, erase_kept, losses_recorded, recover};
pub use scan::{Entry, newest_of_all, read};
pub use state::{Done, Seq};
pub use tail::{Flushed, Hold, Left, Tail};

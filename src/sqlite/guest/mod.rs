//! SQL that this program did not write, on one of its connections.
//!
//! [`guard()`] makes the connection safe for it: an authorizer judges what is prepared (`authorize`), limits bound what
//! is accepted, a budget bounds the memory ([`memory`](super::memory)), and the time is bounded, too. When it returns,
//! the connection is as before. An authorizer guards preparing only, so what a connection has cached for this program
//! cannot be reached, and what it keeps of guests was judged by the same rules.
//!
//! Transactions are not the guest's: its statements run in one that the caller began. [`text::transaction_verb`] tells
//! which statements the caller interprets.

mod authorize;
mod error;
mod functions;
mod inline;
mod model;
mod prepared;
mod run;
mod settings;
#[cfg(test)]
mod tests;
pub mod text;
mod watch;

pub use self::{
    model::{Column, Description, Done, Kind, Mode, NoRows, Rules, Sink, Sql, SqlError, Statement, Value, ValueRef},
    prepared::Prepared,
    run::{Guest, forget_rowid, guard},
};

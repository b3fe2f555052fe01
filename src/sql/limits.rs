//! What all requests of a group of routes share: who may send them, and what they may take.

use std::{sync::Arc, time::Duration};

use super::streams::{Bounds, Streams};
use crate::{
    config::sql::{SqlConfig, SqlMode},
    error::Error,
    http::{download::Downloads, problem::Problem},
    sqlite::guest::Rules,
};

/// Who may send SQL by a group of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Callers, as the setting says.
    Callers(SqlMode),
    /// The operator: the router lets nobody else in.
    Operator,
}

/// What the routes share.
pub struct Sql {
    /// The limits of all requests.
    pub limits: Limits,
    /// Where streams are kept.
    pub streams: Arc<Streams>,
    /// Whose databases are being sent.
    pub dumps: Arc<Downloads>,
    /// Who may send SQL.
    pub who: Who,
    /// The largest body, in bytes.
    pub body: usize,
}

impl Sql {
    /// Without any stream.
    pub fn new(who: Who, config: &SqlConfig, answer_timeout: Duration) -> Self {
        let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        Self {
            limits: Limits {
                rules: config.rules(),
                transaction: config.sql_transaction,
                answer: config.answer(),
                // The operator's own program takes them as they come, however many.
                pieces: if who == Who::Operator { usize::MAX } else { config.answer() },
                sending: config.sql_time + answer_timeout,
                senders: Arc::default(),
            },
            streams: Streams::new(Bounds {
                of_tenant: config.sql_tenant_streams as usize,
                of_all: config.sql_streams as usize,
                idle: config.sql_idle,
            }),
            dumps: Arc::default(),
            who,
            // A value in base64 or with escapes, and a statement.
            body: size(config.sql_value.0).saturating_mul(2).saturating_add(2 << 20),
        }
    }
}

/// What all requests have.
pub struct Limits {
    /// What statements may do and take.
    pub rules: Rules,
    /// How long the transaction of a stream may take in all.
    pub transaction: Duration,
    /// The largest answer, in bytes.
    pub answer: usize,
    /// The same of one that is sent in pieces.
    pub pieces: usize,
    /// How long a read may take whose answer is sent in pieces.
    pub sending: Duration,
    /// Whose answers are being sent in pieces: each has a thread that waits for its client.
    pub senders: Arc<Downloads>,
}

/// Why a request has no answer; its stream is then gone.
pub enum Failure {
    /// Its transaction has ended by itself, and why.
    Ended(String),
    /// Anything else.
    Problem(Problem),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Problem(error.into())
    }
}

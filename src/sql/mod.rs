//! SQL over HTTP: the protocol of libSQL's clients (Hrana over HTTP, versions 1, 2 and 3 as JSON), on each user's own
//! database.
//!
//! | module | has |
//! |---|---|
//! | [`routes`] | the routes, and who may use them |
//! | `run` | the connection that a request needs: a read's, a job's of the combiner, a transaction's of its own |
//! | `machine`, `running`, `state` | running a request on it, and the transaction as the client sees it |
//! | `streams`, `baton`, `texts` | what is kept between two requests: little, and bounded |
//! | `limits` | who may send SQL, and what requests may take |
//! | `program`, `model`, `value` | what clients send |
//! | `answer` | what they are answered |
//!
//! What SQL may do is decided in [`sqlite::guest`](crate::sqlite::guest).

mod answer;
mod baton;
mod limits;
mod machine;
mod model;
mod program;
mod queries;
pub mod routes;
mod run;
mod running;
mod state;
mod streams;
mod texts;
pub(crate) mod value;

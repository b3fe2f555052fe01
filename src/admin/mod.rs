//! What operators ask of a running server.

pub mod sync;

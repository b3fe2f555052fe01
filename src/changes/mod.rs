//! The change feed: which tables of a user's database were written to, as it happens.

pub mod routes;

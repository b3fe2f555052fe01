//! The HTTP toolkit: what every route shares. Knows no feature.

pub mod admin_key;
pub mod auth;
pub mod body;
pub mod connection;
pub mod cors;
pub mod creations;
pub mod delivery_slots;
pub mod extract;
pub mod health;
pub mod host;
pub mod limits;
pub mod middleware;
pub mod openapi;
pub mod peer;
pub mod problem;
pub mod query;
pub mod segment;
pub mod shares;
pub mod watch;

//! The HTTP toolkit: what every route shares. It knows no feature and no server's state: a state that has a
//! [`door::Door`] can use it.

pub mod admission;
pub mod auth;
pub mod body;
pub mod connection;
pub mod cors;
pub mod door;
pub mod download;
pub mod events;
pub mod extract;
pub mod health;
pub mod host;
pub mod limits;
pub mod middleware;
pub mod openapi;
pub mod operator_key;
pub mod peer;
pub mod problem;
pub mod query;
pub mod readiness;
pub mod segment;
pub mod text;

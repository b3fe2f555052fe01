//! Deliveries of the identity provider: signed, at least once, in any order.
//!
//! [`verify`] checks the signature, [`event`] parses the body, [`decide`] decides what it changes, [`apply`]
//! commits that, [`routes`] answers; [`sign`] is for a test of all this.

pub mod apply;
pub mod decide;
pub mod event;
pub mod routes;
pub mod sign;
pub mod verify;

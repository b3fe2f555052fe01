//! Deliveries of the identity provider: signed, at least once, in any order.
//!
//! [`verify`] checks the signature, [`event`] parses the body, [`decide`] decides what it changes, [`apply`]
//! commits that, [`routes`] answers.

pub mod apply;
pub mod decide;
pub mod event;
pub mod routes;
pub mod verify;

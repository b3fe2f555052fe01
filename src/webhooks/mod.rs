//! What the identity provider tells us: signed deliveries, at least once, in any order.
//!
//! [`verify`] says who sent it, [`event`] what it says, [`apply`] what becomes of it, [`routes`]
//! what is answered.

pub mod apply;
pub mod event;
pub mod routes;
pub mod verify;

//! What the identity provider tells us: signed deliveries, at least once, in any order.
//!
//! [`verify`] says who sent it, [`event`] what it says, [`decide`] what that means, [`apply`] carries
//! it out, [`routes`] answers.

pub mod apply;
pub mod decide;
pub mod event;
pub mod routes;
pub mod verify;

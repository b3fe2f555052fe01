//! The application Cubby ships with: a user's notes, over HTTP.

pub mod model;
pub mod queries;
pub mod routes;
pub mod schema;

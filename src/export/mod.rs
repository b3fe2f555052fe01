//! A user's own database as a file, for "download my data". [`routes`] is the route.

pub mod routes;

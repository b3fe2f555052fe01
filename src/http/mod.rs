//! The HTTP toolkit: what every route shares. Knows no feature.

pub mod body;
pub mod extract;
pub mod health;
pub mod middleware;
pub mod problem;

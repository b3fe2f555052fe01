//! Cubby gives every user of an app a SQLite database of their own.
//!
//! This crate is the `cubby` server and, for Rust developers, the parts it is made of: open a
//! [`Store`] on a data folder, [`lease`](Store::lease) a tenant, [`read`](Tenant::read) and
//! [`write`](Tenant::write) its database, and mount routes of your own. `examples/embed.rs` does
//! it in one screen. To have authentication, limits, errors and the server's deadlines as well, make a
//! [`http::door::Door`] and serve your routes with [`server::serve_routes`]: `examples/own_api.rs`.
//!
//! # The map
//! Imports run downward only; a test reads them.
//! ```text
//! main cli               arguments, commands
//! server router          accept loop, every route on one screen
//! notes webhooks admin   features; never each other
//! app                    the long-lived parts of the server
//! http                   the HTTP toolkit, for any state that has a door
//! reconcile              comparing the catalog with the provider, and mending it
//! tenants                the LRU of open databases, leases, lifecycle: the core
//! identity               session tokens, API keys, the provider
//! catalog                who exists, in what state
//! sqlite error config telemetry clock
//! ```
//!
//! # The life of a request
//! `GET /user_2ab/note_x` → accept loop with a deadline for the header ([`server`]) → request id,
//! span, time limit ([`http::middleware`]) → [`router`] → [`http::extract::Tenant`]: the id parsed
//! once, the caller allowed, the database leased, opened and migrated if need be → the handler in
//! [`notes::routes`] → `tenant.read(|conn| queries::find(conn, id))` → JSON.
//!
//! A handler never sees a raw id or the store. A write query takes a `&Transaction`, so forgetting
//! one does not compile.

pub mod admin;
pub mod app;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod http;
pub mod identity;
pub mod notes;
pub mod reconcile;
pub mod router;
pub mod server;
pub mod sqlite;
pub mod telemetry;
pub mod tenants;
pub mod webhooks;

/// The one in whose terms [`Tenant::read`] and [`Tenant::write`] speak: two versions of it cannot be
/// linked together.
pub use rusqlite;

pub use error::{Error, ErrorKind, Result};
pub use tenants::{id::TenantId, options::StoreOptions, store::Store, tenant::Tenant};

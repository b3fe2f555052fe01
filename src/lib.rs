//! Cubby gives every user of an app a SQLite database of their own.
//!
//! This crate is the `cubby` server and, for Rust developers, the store that it is built on.
//!
//! # Features
//! `server`, on by default, has everything above the store: the HTTP toolkit, identity, webhooks, the reconcile, the
//! operators' routes and the command line. Without it the crate is the store alone.
//!
//! `otel`, off by default, has traces of OpenTelemetry: see [`telemetry::trace`].
//!
//! # Embedding the store
//! ```no_run
//! # async fn example() -> cubby::Result<()> {
//! use cubby::{Schema, Store, StoreOptions, TenantId};
//!
//! let mut options = StoreOptions::new("/var/lib/todo");
//! options.schema = Some(Schema::from_sql(&[(
//!     "V1__todos",
//!     "CREATE TABLE todos (id INTEGER PRIMARY KEY, what TEXT NOT NULL)",
//! )])?);
//! let store = Store::open(options)?;
//!
//! let ada: TenantId = "ada".parse().expect("a legal id");
//! let (tenant, _created) = store.lease_or_create(&ada).await?;
//! tenant.write(|tx| Ok(tx.execute("INSERT INTO todos (what) VALUES ('buy milk')", [])?)).await?;
//! # Ok(()) }
//! ```
//! 1. [`StoreOptions`]: the data folder, the [`Schema`], limits, and what a store changes in its process.
//! 2. [`Store`]: [`open`](Store::open) it once, and share clones of it. It maintains itself in the background.
//! 3. [`Tenant`]: a [lease](Store::lease) on one user's database, to [`read`](Tenant::read) and
//!    [`write`](Tenant::write) it.
//! 4. [`Error`]: its [`kind`](Error::kind) says what the caller can do.
//! 5. [`Store::close`] before the process ends. Nothing that was acknowledged depends on it.
//!
//! Users are administered through the store, too: [`create`](Store::create), [`suspend`](Store::suspend),
//! [`delete`](Store::delete), [`restore`](Store::restore), [`purge`](Store::purge), [`migrate`](Store::migrate).
//! Each change names its [`Author`] for the audit trail; [`list`](Store::list) and [`find`](Store::find) read the
//! catalog. `examples/embed.rs` is a server over a store in one screen.
//!
//! For authentication, limits, errors and the server's deadlines over routes of your own, make a
//! [`http::door::Door`] and serve the routes with [`server::serve_api`]: `examples/own_api.rs`.
//!
//! What is where, what happens to a request, and what must never break is in `docs/ARCHITECTURE.md`. Imports run
//! downward only, in the order of its map; a test reads them.

#[cfg(feature = "server")]
pub mod admin;
#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "replicate")]
pub mod backup;
#[cfg(feature = "server")]
pub mod bulk;
pub mod catalog;
#[cfg(feature = "server")]
pub mod changes;
#[cfg(feature = "server")]
pub mod cli;
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
pub mod error;
#[cfg(feature = "server")]
pub mod export;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod identity;
pub mod log;
#[cfg(feature = "server")]
pub mod notes;
pub mod rate;
#[cfg(feature = "server")]
pub mod reconcile;
#[cfg(feature = "replicate")]
pub mod replica;
#[cfg(feature = "server")]
pub mod rollout;
#[cfg(feature = "server")]
pub mod router;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod sql;
pub mod sqlite;
pub mod telemetry;
pub mod tenants;
#[cfg(feature = "server")]
pub mod webhooks;

/// The rusqlite whose types [`Tenant::read`] and [`Tenant::write`] take: two versions of it cannot be linked together.
pub use rusqlite;

pub use catalog::{
    audit::Author,
    model::{Profile, Row, State},
    quota::Quota,
};
pub use error::{Error, ErrorKind, Result};
pub use sqlite::migrate::Schema;
pub use tenants::{id::TenantId, options::StoreOptions, session::Session, store::Store, tenant::Tenant};

//! Migrating a file to the newest schema, or leaving it as it was.
//!
//! refinery decides which migrations to run and keeps the history table; this module runs them: all pending
//! migrations, the history and `user_version` in **one** transaction, so that a file has the old
//! schema or the new one and never half. If `user_version` equals [`Schema::version`], one pragma replaces
//! refinery's work on the history table.
//!
//! Limits for requests (the quota, the longest statement and value) are lifted during a migration:
//! the operator wrote it, and a tenant whose migration fails is quarantined.

//!
//! Whatever [form](Form) migrations have, refinery gets them as `V<n>__<name>`, and its table is the history that
//! decides. Where they are Drizzle's or Prisma's, what ran is written to the tool's own table as well.

mod apply;
mod authorize;
mod drizzle;
mod folder;
mod form;
mod history;
mod ledger;
mod numbered;
mod order;
mod plain;
mod prisma;
mod schema;
mod text;

pub use self::{
    form::{Form, HISTORY_TABLES},
    history::{Mismatch, Step, history, user_version},
    schema::Schema,
};

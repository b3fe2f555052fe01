//! Trying migrations where nothing can come of it: on older schemas made for this, and on copies.

use super::{
    database::{self, Recipe},
    files,
    id::TenantId,
    path::wal_of,
    store::Store,
    template,
};
use crate::{
    catalog::{model::State, queries},
    error::{Error, ErrorKind, Result},
    sqlite::{
        fill,
        migrate::{Applied, Schema, Step},
        open::Options,
    },
};

/// Tries the migrations of `schema` that are not among `applied` on each older schema, as on a tenant's
/// file: with the same settings and bounds, and with rows in its tables. Gives what may be the fault of rows
/// that were made up. What has run before is not judged again: it cannot be changed any more.
///
/// # Errors
/// [`ErrorKind::Config`] for what would fail for every tenant.
pub(super) fn rehearse(schema: &Schema, options: &Options, applied: &[Step]) -> Result<Vec<String>> {
    let (steps, mut doubts) = (schema.steps(), Vec::new());
    let (Some(newest), false) = (steps.last(), steps == applied) else { return Ok(doubts) };
    let ran_until = applied.last().map_or(0, |step| step.version);
    for step in steps.iter().filter(|step| *step != newest) {
        let is_new = |error: &Error| {
            let culprit = steps.iter().find(|step| error.message().starts_with(&format!("migration {step} failed")));
            culprit.map_or(step.version >= ran_until, |culprit| !applied.contains(culprit))
        };
        let refused = |error: &Error| {
            Error::config(format!("the tenant migrations do not run on a file of version {step}: {}", error.message()))
        };
        let old = schema.up_to(step.version)?;
        // Without the later ones, no file can be of this version.
        let Ok(mut conn) = template::blank(&old, options) else { continue };
        fill::fill(&conn, &template::BOOKKEEPING)?;
        let Some(error) = template::upgrade(&mut conn, schema).err().filter(is_new) else { continue };
        // SQLite says so of what it adds to no table that has rows, whatever is in them.
        if error.message().to_ascii_lowercase().contains("failed: cannot add a ") {
            return Err(refused(&error));
        }
        let mut conn = template::blank(&old, options)?;
        match template::upgrade(&mut conn, schema) {
            Err(error) if is_new(&error) => return Err(refused(&error)),
            _ => doubts.push(format!("from version {step}: {}", error.message())),
        }
    }
    Ok(doubts)
}

impl Store {
    /// Up to `each` of the tenants of each schema that are not at the newest: what a dry run tries.
    pub async fn sample_behind(&self, each: u32) -> Result<Vec<TenantId>> {
        let version = self.schema().version();
        self.catalog().query(move |conn| queries::migrations::sample_behind(conn, version, each)).await
    }

    /// Tries on a copy what [`migrate`](Self::migrate) would do to a tenant's file. Takes room for one copy
    /// in the data folder, and changes nothing.
    ///
    /// # Errors
    /// What the migration would end with.
    pub async fn try_migration(&self, id: &TenantId) -> Result<Option<i32>> {
        let hold = self.inner.slots.hold(id).await;
        self.blocking(move |store| {
            Self::close_held(&hold);
            store.try_on_copy(hold.id())
        })
        .await
    }

    fn try_on_copy(&self, id: &TenantId) -> Result<Option<i32>> {
        let row = self.catalog().read(|conn| queries::find(conn, id))?.ok_or_else(Error::unknown_tenant)?;
        if row.state == State::Deleted {
            return Err(Error::new(ErrorKind::Conflict, format!("{id} is deleted; restore it first")));
        }
        let path = self.layout().tenant(id);
        let copy = self.layout().temporary();
        let options = self.sqlite_options();
        let recipe = Recipe { path: &copy, applying: &|| Ok(()), ..self.recipe(id, &path, &options, true) };
        let tried = copy_of(&path, &copy).and_then(|()| database::open_file(&recipe)).and_then(|opened| {
            let applied = opened.applied;
            opened.close().map(|()| applied)
        });
        let discarded = files::discard(&copy);
        let applied = tried?;
        discarded?;
        Ok(match applied {
            Applied::From(version) => Some(version),
            Applied::Nothing => None,
        })
    }
}

/// Copies a database that nobody has open, with its write-ahead log.
fn copy_of(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    match std::fs::copy(wal_of(from), wal_of(to)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(from.display(), e)),
        _ => {}
    }
    match std::fs::copy(from, to) {
        // What opens it says it better.
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(from.display(), e)),
        _ => Ok(()),
    }
}

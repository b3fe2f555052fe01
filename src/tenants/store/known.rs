//! Whether a data folder and a set of migrations belong together. Looked at before anything is touched:
//! where they do not, every single tenant would be found unfit at its next open.

use std::path::PathBuf;

use super::shipped_schema;
use crate::{
    catalog::{Catalog, queries::migrations},
    error::{Error, Result},
    sqlite::{
        migrate::{self, Mismatch, Schema, Step},
        open,
    },
    tenants::{inspect, path::Layout, template::APPLICATION_ID},
};

/// Files that are asked what has run on them, where the catalog does not know.
const ASKED: u32 = 16;

/// Refuses a schema that does not go on from what has run on the folder's files. Gives what has.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config), with what to do.
pub(super) fn check(catalog: &Catalog, layout: &Layout, schema: &Schema, is_shipped: bool) -> Result<Vec<Step>> {
    let mut applied = catalog.read(migrations::applied)?;
    if applied.is_empty() {
        applied = ask_files(catalog, layout)?;
        catalog.note_applied(&applied)?;
    }
    schema.continues(&applied).map_err(|mismatch| refusal(mismatch, schema, is_shipped))?;
    Ok(applied)
}

/// What has run on the files of a folder whose catalog does not know: it is new, or of a program that did
/// not write it down.
fn ask_files(catalog: &Catalog, layout: &Layout) -> Result<Vec<Step>> {
    let ids = catalog.read(|conn| migrations::of_the_newest_schema(conn, ASKED))?;
    let files = match ids.is_empty() {
        false => ids.iter().map(|id| layout.tenant(id)).collect(),
        true => some_files(layout)?,
    };
    let mut applied: Vec<Step> = Vec::new();
    for file in files {
        // One that cannot be read is its own tenant's matter.
        for step in history_of(&file).unwrap_or_default() {
            if applied.iter().all(|other| other.version != step.version) {
                applied.push(step);
            }
        }
    }
    applied.sort_by_key(|step| step.version);
    Ok(applied)
}

/// Some tenants' files, as they come.
fn some_files(layout: &Layout) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let failed = |e| Error::io(layout.tenants().display(), e);
    for shard in std::fs::read_dir(layout.tenants()).map_err(failed)? {
        for entry in std::fs::read_dir(shard.map_err(failed)?.path()).into_iter().flatten() {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "db") {
                found.push(path);
            }
            if found.len() >= ASKED as usize {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// The history of a file that nobody has open, which is left as it is.
fn history_of(file: &std::path::Path) -> Result<Vec<Step>> {
    if !open::read_header(file, APPLICATION_ID)?.is_wal {
        // An open would make it so.
        return Ok(Vec::new());
    }
    inspect::look(file, migrate::history)
}

fn refusal(mismatch: Mismatch, schema: &Schema, is_shipped: bool) -> Error {
    let these = match (is_shipped, schema.folder()) {
        (true, _) => "the notes schema that ships with this program".to_owned(),
        (false, Some(folder)) => format!("the migrations in {}", folder.display()),
        (false, None) => "the migrations given".to_owned(),
    };
    let next = schema.version() + 1;
    let shipped_first = |step: &Step| shipped_schema().is_ok_and(|shipped| shipped.steps().contains(step));
    Error::config(match mismatch {
        Mismatch::Other(first) if !is_shipped && shipped_first(&first) => format!(
            "this data folder has the notes schema that ships with Cubby (its first migration is {first}), and not \
             {these}: start without --migrations (CUBBY_MIGRATIONS), or give --data (CUBBY_DATA) another data folder. \
             Nothing was changed"
        ),
        Mismatch::Other(first) => format!(
            "this data folder has another schema (its first migration is {first}) than {these}: give --migrations \
             (CUBBY_MIGRATIONS) the folder of migrations that it was made with, or --data (CUBBY_DATA) another data \
             folder. Nothing was changed"
        ),
        Mismatch::Older(newest) => format!(
            "this data folder was used with migrations up to {newest}, and {these} end at version {}: start the \
             program that has {newest}, or a newer one, or give --migrations (CUBBY_MIGRATIONS) the folder that has \
             it. The only way back is a backup from before. Nothing was changed",
            schema.version()
        ),
        Mismatch::Missing(step) => format!(
            "migration {step} has run on users' files of this data folder, and is missing from {these}: put it back. \
             Nothing was changed"
        ),
        Mismatch::Edited(step) => format!(
            "migration {step} of {these} was edited after it had run on users' files: put it back as it was, and \
             write the change as V{next}__….sql. Nothing was changed"
        ),
        Mismatch::Late { late, newest } => format!(
            "migration {late} of {these} has not run on this data folder, and {newest} has, which comes after it: \
             give it a number that none has had, such as V{next}__{}. Nothing was changed",
            late.name
        ),
    })
}

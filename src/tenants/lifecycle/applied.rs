//! Whether a schema continues from the migrations that have run on a data folder. Checked before anything is
//! changed: with another schema, every tenant would fail at its next open.

use std::path::{Path, PathBuf};

use crate::{
    catalog::{Catalog, queries::migrations},
    error::{Error, Result},
    sqlite::{
        header,
        migrate::{self, Form, Mismatch, Schema, Step},
    },
    tenants::{
        disk::{
            inspect,
            path::{Layout, databases},
            template,
        },
        id::TenantId,
        lifecycle::rehearsal::Past,
        options::{StoreOptions, shipped_schema},
    },
};

/// Files whose history is read when the catalog has none.
const SAMPLED: u32 = 16;

/// Refuses a schema that does not continue from what has run on the folder's files. Returns what has run.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config), with what to do.
pub(in crate::tenants) fn check<'a>(
    catalog: &Catalog,
    layout: &'a Layout,
    schema: &Schema,
    options: &StoreOptions,
) -> Result<Past<'a>> {
    let is_shipped = options.schema.is_none();
    let mut applied = catalog.read(migrations::applied)?;
    if applied.is_empty() {
        applied =
            accepted(histories(catalog, layout)?, schema).map_err(|mismatch| refusal(mismatch, schema, is_shipped))?;
        catalog.note_applied(&applied)?;
    } else {
        schema.continues(&applied).map_err(|mismatch| refusal(mismatch, schema, is_shipped))?;
    }
    Past::of(catalog, layout, schema, applied, options)
}

/// The migrations that have run, by the histories that `schema` continues from. Refused if it does not continue
/// from most of them: a few, such as of a file restored from a newer program's backup, concern only their tenants.
fn accepted(histories: Vec<Vec<Step>>, schema: &Schema) -> std::result::Result<Vec<Step>, Mismatch> {
    let (mut applied, mut refused): (Vec<Step>, Vec<Mismatch>) = (Vec::new(), Vec::new());
    let sampled = histories.len();
    for history in histories {
        match schema.continues(&history) {
            Ok(()) => applied.extend(history),
            Err(mismatch) => refused.push(mismatch),
        }
    }
    if refused.len() * 2 > sampled {
        return Err(refused.swap_remove(0));
    }
    if !refused.is_empty() {
        tracing::warn!(
            sampled,
            refused = refused.len(),
            "some users' files have other migrations; they are refused when opened"
        );
    }
    applied.sort_by_key(|step| step.version);
    applied.dedup();
    Ok(applied)
}

/// The histories of some files of a folder whose catalog has none: it is new, or was written by a program that did
/// not record them.
fn histories(catalog: &Catalog, layout: &Layout) -> Result<Vec<Vec<Step>>> {
    let ids = catalog.read(|conn| migrations::some_with_files(conn, SAMPLED))?;
    // A file that cannot be read concerns only its tenant.
    let read = |files: Vec<PathBuf>| -> Vec<Vec<Step>> {
        let histories = files.iter().take(SAMPLED as usize).filter_map(|file| history_of(layout, file).ok());
        histories.filter(|history| !history.is_empty()).collect()
    };
    let mut found = read(ids.iter().map(|id| layout.tenant(id)).collect());
    if found.is_empty() {
        let mut live = Vec::new();
        for shard in layout.shards() {
            live.extend(databases(&shard)?);
            if live.len() >= SAMPLED as usize {
                break;
            }
        }
        found = read(live);
    }
    if found.is_empty() {
        found = read(databases(&layout.trash())?);
    }
    Ok(found)
}

/// The history of a file that nobody has open, without changing it. Empty if the file is not at the path of its
/// tenant.
fn history_of(layout: &Layout, file: &Path) -> Result<Vec<Step>> {
    if !header::read(file, template::APPLICATION_ID)?.is_wal {
        // Opening it would switch it to WAL mode.
        return Ok(Vec::new());
    }
    inspect::read_file(file, |conn| {
        let owner = TenantId::parse(template::meta(conn)?.tenant.as_bytes());
        let paths = owner.ok().map(|id| layout.paths(&id));
        match paths.is_some_and(|paths| paths.live == file || paths.trashed == file) {
            true => migrate::history(conn),
            false => Ok(Vec::new()),
        }
    })
}

fn refusal(mismatch: Mismatch, schema: &Schema, is_shipped: bool) -> Error {
    let these = match (is_shipped, schema.folder()) {
        (true, _) => "the notes schema that ships with this program".to_owned(),
        (false, Some(folder)) => format!("the migrations in {}", folder.display()),
        (false, None) => "the migrations given".to_owned(),
    };
    let (form, version) = (schema.form(), schema.version());
    let next = form.next(version);
    let shipped_first = |step: &Step| shipped_schema().is_ok_and(|shipped| shipped.steps().contains(step));
    Error::config(match mismatch {
        Mismatch::Other(first) if !is_shipped && shipped_first(&first) => format!(
            "this data folder has the notes schema that ships with Cubby (its first migration is {first}), and not \
             {these}: start without --migrations (CUBBY_MIGRATIONS), or give --data (CUBBY_DATA) another data folder. \
             Nothing was changed"
        ),
        Mismatch::Other(first) if !form.is_like(Form::of(&first.name).0) => format!(
            "this data folder was made with migrations in another form, {} (the first is {first}), than {these}, {form}: \
             give --migrations (CUBBY_MIGRATIONS) the folder of migrations that it was made with, or --data (CUBBY_DATA) \
             another data folder. Nothing was changed",
            Form::of(&first.name).0
        ),
        Mismatch::Other(first) => format!(
            "this data folder has another schema (its first migration is {first}) than {these}: give --migrations \
             (CUBBY_MIGRATIONS) the folder of migrations that it was made with, or --data (CUBBY_DATA) another data \
             folder. Nothing was changed"
        ),
        Mismatch::Older(newest) => format!(
            "this data folder was used with migrations up to {newest}, and {these} end at version {version}: start the \
             program that has {newest}, or a newer one, or give --migrations (CUBBY_MIGRATIONS) the folder that has \
             it. The only way back is a backup from before. Nothing was changed"
        ),
        Mismatch::Missing(step) => format!(
            "migration {step} has run on users' files of this data folder, and is missing from {these}: put it back. \
             Nothing was changed"
        ),
        Mismatch::Edited(step) => format!(
            "migration {step} of {these} was edited after it had run on users' files: put it back as it was, and \
             write the change as {next}. Nothing was changed"
        ),
        Mismatch::Late { late, newest } => format!(
            "migration {late} of {these} has not run on this data folder, and {newest} has, which comes after it: {}. \
             Nothing was changed",
            form.put_last(Form::of(&late.name).1, version)
        ),
        Mismatch::Moved(step) => format!(
            "migration {step} of {these} is at another place in their order than when it ran on users' files: put it \
             back there. Nothing was changed"
        ),
    })
}

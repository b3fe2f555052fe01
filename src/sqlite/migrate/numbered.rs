//! Migrations in files that are named as refinery wants them: `V1__name.sql`, also in folders within the folder.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use refinery_core::{MigrationType, find_migration_files};

use super::{form::Form, text};
use crate::error::{Error, Result};

/// Refuses a file of SQL that refinery would leave out, beside those that it takes.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config); the message says how it must be named.
pub(super) fn refuse_strays(folder: &Path) -> Result<()> {
    let root = folder.canonicalize().map_err(|e| Error::io(folder.display(), e))?;
    let taken = find_migration_files(&root, MigrationType::Sql);
    let taken: BTreeSet<PathBuf> = taken.map_err(|e| Error::config(e.to_string()).with_source(e))?.collect();
    let mut folders: BTreeSet<&Path> = taken.iter().filter_map(|file| file.parent()).collect();
    if !folders.is_empty() {
        folders.insert(&root);
    }
    for folder in folders {
        for name in text::names(folder)? {
            let path = folder.join(&name);
            // refinery's pattern also takes a name that begins with `|`, and then panics.
            let is_taken = name.starts_with(['V', 'U']) && taken.contains(&path);
            if text::is_like_sql(&name) && !is_taken && !path.is_dir() {
                let shown = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
                return Err(Form::Numbered.stray(&shown));
            }
        }
    }
    Ok(())
}

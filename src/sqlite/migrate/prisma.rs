//! Migrations as Prisma writes them.

use std::path::Path;

use super::{
    form::{File, Record},
    text::{self, Text},
};
use crate::error::{Error, Result};

/// The file that says for which database the migrations are.
pub(super) const LOCK: &str = "migration_lock.toml";

/// The migrations of a folder, in the order of their names.
pub(super) fn read(folder: &Path) -> Result<Vec<File>> {
    let lock = text::read(folder, LOCK)?.text;
    let provider = lock.lines().find_map(|line| line.trim().strip_prefix("provider")?.trim().strip_prefix('='));
    match provider.map(|value| value.trim().trim_matches('"')) {
        Some("sqlite") => {}
        Some(other) => {
            return Err(Error::config(format!(
                "{LOCK} says that these are for {other:?}: set provider = \"sqlite\" in the schema's datasource, and have \
                 them written anew (prisma migrate dev)"
            )));
        }
        None => return Err(Error::config(format!("{LOCK} does not say provider = \"sqlite\""))),
    }
    let folders = text::names(folder)?.into_iter().filter(|name| folder.join(name).is_dir());
    folders.map(|name| migration(folder, name)).collect()
}

fn migration(folder: &Path, name: String) -> Result<File> {
    let Text { text: sql, hash } = text::read(folder, &format!("{name}/migration.sql"))?;
    Ok(File { record: Record { name: name.clone(), hash, when: 0 }, name, sql })
}

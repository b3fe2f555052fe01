//! Migrations in files that begin with a number.

use std::path::Path;

use super::{
    form::{File, Form, Record},
    text::{self, Text},
};
use crate::error::{Error, Result};

/// Comments behind which other programs look for what undoes a migration.
const UNDOES: [&str; 3] = ["-- migrate:down", "-- +goose down", "-- +migrate down"];

/// The migrations of a folder, in the order of their numbers.
pub(super) fn read(folder: &Path) -> Result<Vec<File>> {
    let mut names = text::names(folder)?;
    names.retain(|name| text::is_like_sql(name));
    if let Some(name) = names.iter().find(|name| !text::is_sql(name)) {
        return Err(Form::Plain.stray(name));
    }
    let mut files: Vec<(u64, File)> = Vec::new();
    for name in &names {
        if let Some(stem) = name.strip_suffix(".down.sql") {
            if names.contains(&format!("{stem}.up.sql")) {
                continue;
            }
            return Err(Error::config(format!(
                "{name} would be run as a migration: give the one that it undoes the name {stem}.up.sql, or remove it"
            )));
        }
        let digits = name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len());
        let number = name[..digits].parse().ok().filter(|_| name[digits..].starts_with(['_', '-']));
        let number = number.ok_or_else(|| {
            Error::config(format!(
                "{name} does not begin with a number as the others do: name it 001_name.sql, or move it out of the \
                 folder"
            ))
        })?;
        files.push((number, file(folder, name)?));
    }
    files.sort_by_key(|(number, _)| *number);
    if let Some([(_, a), (_, b)]) = files.array_windows().find(|[(a, _), (b, _)]| a == b) {
        return Err(Error::config(format!("two migrations have one number: {} and {}", a.name, b.name)));
    }
    Ok(files.into_iter().map(|(_, file)| file).collect())
}

fn file(folder: &Path, file: &str) -> Result<File> {
    let Text { text: sql, hash } = text::read(folder, file)?;
    let undoes = |line: &&str| UNDOES.iter().any(|mark| line.trim().to_ascii_lowercase().starts_with(mark));
    if let Some(line) = sql.lines().find(undoes) {
        return Err(Error::config(format!(
            "{file} is run as a whole, and what is behind {:?} undoes the rest: remove that part",
            line.trim()
        )));
    }
    let name = file.trim_end_matches(".sql").to_owned();
    Ok(File { record: Record { name: name.clone(), hash, when: 0 }, name, sql })
}

//! Migrations as Drizzle writes them, in both of its layouts.
//!
//! `drizzle-kit up` turns the one into the other: `0000_init` with a `when` in the journal becomes a folder of that
//! time, `20250102030405_init`. The history has the folder's name in both, so that this changes nothing for files.

use std::path::Path;

use serde::Deserialize;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

use super::{
    form::{File, Form, Record},
    text::{self, Text},
};
use crate::error::{Error, Result};

/// Between two statements. Drizzle runs what is between two of these as one, with a semicolon or without.
const BREAKPOINT: &str = "--> statement-breakpoint";

#[derive(Deserialize)]
struct Journal {
    dialect: Option<String>,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    when: i64,
    tag: String,
}

#[derive(Deserialize)]
struct Snapshot {
    dialect: Option<String>,
}

/// The path of the journal in a folder.
pub(super) const JOURNAL: &str = "meta/_journal.json";

/// The migrations of a journal, in its order, which is the one that Drizzle runs them in.
pub(super) fn journal(folder: &Path) -> Result<Vec<File>> {
    let journal: Journal = parse(&folder.join(JOURNAL), JOURNAL)?;
    check_dialect(journal.dialect.as_deref(), JOURNAL)?;
    let listed = |name: &str| journal.entries.iter().any(|entry| name.strip_suffix(".sql") == Some(&entry.tag));
    let left_out = text::names(folder)?.into_iter().find(|name| text::is_like_sql(name) && !listed(name));
    if let Some(name) = left_out {
        return Err(Error::config(format!(
            "{name} is not in {JOURNAL}, so Drizzle would not run it: have it written anew (drizzle-kit generate), or \
             remove it"
        )));
    }
    journal.entries.iter().map(|entry| listed_file(folder, entry)).collect()
}

fn listed_file(folder: &Path, entry: &Entry) -> Result<File> {
    let Entry { when, tag } = entry;
    if tag.contains(['/', '\\']) {
        return Err(Error::config(format!("{JOURNAL}: {tag:?} is not the name of a file")));
    }
    let made = folder_time(*when).ok_or_else(|| Error::config(format!("{JOURNAL}: {tag} has no time: {when}")))?;
    let rest = tag.split_once('_').map_or("", |(_, rest)| rest);
    Ok(file(format!("{made}_{rest}"), tag, text::read(folder, &format!("{tag}.sql"))?, *when))
}

/// The migrations of folders that have a `migration.sql`.
pub(super) fn folders(folder: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for name in text::names(folder)? {
        let (sql, snapshot) = (format!("{name}/migration.sql"), format!("{name}/snapshot.json"));
        let has_snapshot = folder.join(&snapshot).is_file();
        if !has_snapshot && !folder.join(&sql).is_file() {
            refuse_misnamed(folder, &name)?;
            continue;
        }
        if has_snapshot {
            let found: Snapshot = parse(&folder.join(&snapshot), &snapshot)?;
            check_dialect(found.dialect.as_deref(), &snapshot)?;
        }
        let when = name.get(..14).and_then(folder_millis).ok_or_else(|| {
            Error::config(format!("{name} does not begin with a time, as Drizzle's folders do: 20250102030405_name"))
        })?;
        files.push(file(name.clone(), &name, text::read(folder, &sql)?, when));
    }
    Ok(files)
}

/// Refuses SQL in a folder that is named as one of a migration, if it is not in `migration.sql`.
fn refuse_misnamed(folder: &Path, name: &str) -> Result<()> {
    let own = folder.join(name);
    if name.get(..14).and_then(folder_millis).is_none() || !own.is_dir() {
        return Ok(());
    }
    match text::names(&own)?.iter().find(|file| text::is_like_sql(file)) {
        Some(file) => Err(Form::DrizzleFolders.stray(&format!("{name}/{file}"))),
        None => Ok(()),
    }
}

fn file(name: String, own: &str, Text { text, hash }: Text, when: i64) -> File {
    let sql = text.replace(BREAKPOINT, &format!(";{BREAKPOINT}"));
    File { name, record: Record { name: own.to_owned(), hash, when }, sql }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, name: &str) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path.display(), e))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::config(format!("{name} is not as Drizzle writes it: {e}")).with_source(e))
}

fn check_dialect(dialect: Option<&str>, of: &str) -> Result<()> {
    match dialect {
        None | Some("sqlite" | "turso") => Ok(()),
        Some(other) => Err(Error::config(format!(
            "{of} says that these are for {other:?}: generate them with dialect \"sqlite\" in drizzle.config.ts"
        ))),
    }
}

/// The time at the beginning of a folder's name, for Unix milliseconds.
fn folder_time(millis: i64) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp(millis.div_euclid(1000)).ok()?;
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    Some(format!("{year:04}{:02}{day:02}{hour:02}{minute:02}{second:02}", u8::from(month)))
}

/// The Unix milliseconds of `20250102030405`.
fn folder_millis(digits: &str) -> Option<i64> {
    if digits.len() != 14 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| digits.get(from..to)?.parse::<u8>().ok();
    let year = digits.get(..4)?.parse().ok()?;
    let date = Date::from_calendar_date(year, Month::try_from(part(4, 6)?).ok()?, part(6, 8)?).ok()?;
    let time = Time::from_hms(part(8, 10)?, part(10, 12)?, part(12, 14)?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp() * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_and_a_folders_name_say_the_same() {
        assert_eq!(folder_time(1_735_787_045_678).as_deref(), Some("20250102030405"));
        assert_eq!(folder_millis("20250102030405"), Some(1_735_787_045_000));
        for not_a_time in ["2025010203040", "20251302030405", "2025010203040x", "init_the_table", "+0250102030405"] {
            assert_eq!(folder_millis(not_a_time), None, "{not_a_time}");
        }
    }
}

//! The forms in which people have migrations.

use std::fmt;

use crate::error::Error;

/// The form of a folder of migrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `V1__name.sql`: the number is the version.
    Numbered,
    /// `001_name.sql`: the place in the order of the numbers is the version, as in all forms below.
    Plain,
    /// Drizzle's: `meta/_journal.json` lists `0000_name.sql`.
    Drizzle,
    /// Drizzle's since its version 1: `20250102030405_name/migration.sql` beside a `snapshot.json`.
    DrizzleFolders,
    /// Prisma's: `20250102030405_name/migration.sql`, and `migration_lock.toml`.
    Prisma,
}

/// A migration as its tool writes it down in a database.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// The tool's name for it, such as `0000_init`: that of the file or folder.
    pub name: String,
    /// SHA-256 of the file, in hexadecimal.
    pub hash: String,
    /// When it was made, as Drizzle has it: Unix milliseconds. 0 in other forms.
    pub when: i64,
}

/// A migration of a folder.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Its name in the history, without the mark: see [`Form::written`].
    pub name: String,
    /// How its tool writes it down.
    pub record: Record,
    /// What is run.
    pub sql: String,
}

/// The tables in which the tools look for what has run.
pub(super) const DRIZZLE_TABLE: &str = "__drizzle_migrations";
pub(super) const PRISMA_TABLE: &str = "_prisma_migrations";

/// The tables in which files keep what ran on them, whatever the form.
pub const HISTORY_TABLES: [&str; 3] = ["refinery_schema_history", DRIZZLE_TABLE, PRISMA_TABLE];

impl Form {
    /// The table in which the tool of this form looks for what has run.
    pub fn table(self) -> Option<&'static str> {
        match self {
            Self::Numbered | Self::Plain => None,
            Self::Drizzle | Self::DrizzleFolders => Some(DRIZZLE_TABLE),
            Self::Prisma => Some(PRISMA_TABLE),
        }
    }

    /// What the history writes before a migration's name, so that no other form takes a file over in which a
    /// migration has the same name.
    fn mark(self) -> &'static str {
        match self {
            Self::Numbered => "",
            Self::Plain => "plain__",
            Self::Drizzle | Self::DrizzleFolders => "drizzle__",
            Self::Prisma => "prisma__",
        }
    }

    /// A migration's name in the history, which has letters, digits and underscores alone.
    pub(super) fn written(self, name: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        self.mark().chars().chain(name.chars().map(plain)).collect()
    }

    /// The form of a migration in the history, and its name without the mark.
    pub fn of(written: &str) -> (Self, &str) {
        let marked = [Self::Plain, Self::Drizzle, Self::Prisma]
            .into_iter()
            .find_map(|form| written.strip_prefix(form.mark()).map(|name| (form, name)));
        marked.unwrap_or((Self::Numbered, written))
    }

    /// Whether both are one tool's.
    pub fn is_like(self, other: Self) -> bool {
        self.mark() == other.mark()
    }

    /// What the next migration is called, after `version` of them.
    pub fn next(self, version: i32) -> String {
        match self {
            Self::Numbered => format!("V{}__….sql", version + 1),
            Self::Plain => "a file with a higher number than all".to_owned(),
            Self::Drizzle | Self::DrizzleFolders => "a new migration (drizzle-kit generate)".to_owned(),
            Self::Prisma => "a new migration (prisma migrate dev)".to_owned(),
        }
    }

    /// Why a file of SQL is refused that would not be run, because its name is not of this form.
    pub(super) fn stray(self, name: &str) -> Error {
        let wanted = match self {
            // It has all parts, and some other sign among them.
            Self::Numbered if is_almost_numbered(name.rsplit('/').next().unwrap_or(name)) => {
                "V<number>__<name>.sql, with letters, digits and _ alone in <name>"
            }
            Self::Numbered => "V<number>__<name>.sql",
            Self::Plain | Self::Drizzle => "001_name.sql",
            Self::DrizzleFolders | Self::Prisma => "20250102030405_name/migration.sql",
        };
        Error::config(format!("{name} is not named as the others are: name it {wanted}, or move it out of the folder"))
    }

    /// How a migration is put behind those that have run, after `version` of them. `name` is without the mark.
    pub fn put_last(self, name: &str, version: i32) -> String {
        match self {
            Self::Numbered => format!("give it a number that none has had, such as V{}__{name}", version + 1),
            Self::Plain => "give it a number that is higher than all others".to_owned(),
            Self::Drizzle => "remove it and its entry in meta/_journal.json, and have it written anew (drizzle-kit \
                              generate)"
                .to_owned(),
            Self::DrizzleFolders => "remove its folder, and have it written anew (drizzle-kit generate)".to_owned(),
            Self::Prisma => "give its folder's name a later time than all others".to_owned(),
        }
    }
}

/// Whether a name has the parts of `V1__name.sql`.
fn is_almost_numbered(name: &str) -> bool {
    let parts = name.strip_prefix('V').and_then(|rest| rest.strip_suffix(".sql")?.split_once("__"));
    parts.is_some_and(|(number, rest)| !rest.is_empty() && number.parse::<u32>().is_ok())
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Numbered => "V1__name.sql",
            Self::Plain => "001_name.sql",
            Self::Drizzle => "Drizzle's (meta/_journal.json)",
            Self::DrizzleFolders => "Drizzle's (folders with snapshot.json)",
            Self::Prisma => "Prisma's (migration_lock.toml)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_name_says_its_form() {
        for form in [Form::Plain, Form::Drizzle, Form::Prisma] {
            assert_eq!(Form::of(&form.written("0000_add-it")), (form, "0000_add_it"));
        }
        assert_eq!(Form::of(&Form::Numbered.written("notes")), (Form::Numbered, "notes"));
        assert_ne!(Form::Drizzle.written("0000_init"), Form::Plain.written("0000_init"));
    }
}

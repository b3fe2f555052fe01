//! What an export asks for.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::part::{Part, Saved};
use crate::{
    cli::{
        shared::unknown,
        target::{Target, segment},
    },
    error::{ErrorKind, Result},
    tenants::id::TenantId,
};

/// The list of the files that are whole.
pub const LIST: &str = "cubby-export.ndjson";

/// What a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A SQLite file
    Sqlite,
    /// The rows of one table, a JSON object a line; blobs in base64
    Ndjson,
    /// Statements that make the database, or one table, anew
    Sql,
    /// The rows of one table as CSV (RFC 4180), with the names in the first line; blobs in base64
    Csv,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Ndjson => "ndjson",
            Self::Sql => "sql",
            Self::Csv => "csv",
        }
    }

    /// The ending of a file's name.
    fn ending(self) -> &'static str {
        if self == Self::Sqlite { "db" } else { self.name() }
    }
}

/// What is written of a database.
#[derive(Debug, Args)]
pub struct What {
    /// What is written
    #[arg(long, default_value = "sqlite", value_name = "FORMAT")]
    format: Format,

    /// Only this table; may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
}

impl What {
    /// The name of a user's file among others'. No two users have one name, nor one user for two tables, even where case
    /// does not count. What an id may not have sets its parts apart: behind `~` is which of its letters are capitals, and
    /// behind `,` the table.
    pub fn file_of(&self, id: &TenantId) -> String {
        // Not in a file's name on every system.
        let mut name = id.as_str().replace(':', "%3A").replace('|', "%7C");
        let letters = id.as_str().chars().filter(char::is_ascii_alphabetic);
        let capitals: String = letters.map(|letter| if letter.is_ascii_uppercase() { '1' } else { '0' }).collect();
        if capitals.contains('1') {
            name.push('~');
            for four in capitals.as_bytes().chunks(4) {
                let digit = four.iter().fold(0, |digit, bit| digit * 2 + u32::from(bit - b'0'));
                name.extend(char::from_digit(digit, 16));
            }
        }
        if let Some(table) = &self.table {
            name.extend([",", &segment(table)]);
        }
        let name = format!("{name}.{}", self.format.ending());
        // The list's own, which a user's may be, too.
        if name == LIST { format!("~{name}") } else { name }
    }
}

/// Asks for a user's database and writes it to a file without its name beside `to`.
pub async fn save(target: &Target, id: &TenantId, what: &What, to: &Path) -> Result<Saved> {
    let table = what.table.as_deref().map_or(String::new(), |table| format!("&table={}", segment(table)));
    let format = what.format.name();
    let path = format!("/api/admin/tenants/{}/export?format={format}{table}", segment(id.as_str()));
    let answer = target.download(&path).await.map_err(|error| match error.kind() {
        ErrorKind::UnknownTenant => unknown(id),
        _ => error,
    })?;
    Part::beside(to)?.receive(answer, target).await
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_users_or_tables_have_one_name_where_case_does_not_count() {
        let ids =
            ["ab", "aB", "Ab", "AB", "abcde", "abcdE", "a:b", "a|b", "a.b", "ab.notes", "cubby-export", "Cubby-export"];
        let mut names = HashSet::from([LIST.to_owned()]);
        for table in [None, Some("notes"), Some("6"), Some("a,b"), Some("../x")] {
            let what = What { format: Format::Ndjson, table: table.map(str::to_owned) };
            for id in ids {
                let name = what.file_of(&id.parse().unwrap());
                assert!(!name.contains('/') && names.insert(name.to_lowercase()), "{id} {table:?}: {name}");
            }
        }
        let what = What { format: Format::Sqlite, table: None };
        assert_eq!(what.file_of(&"user_2abCD".parse().unwrap()), "user_2abCD~03.db");
        assert_eq!(what.file_of(&"ada".parse().unwrap()), "ada.db");
    }
}

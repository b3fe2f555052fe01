//! What an export asks for.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::part::{Part, Saved};
use crate::{
    cli::target::{Target, segment},
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

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
    /// The name of a user's file among others'.
    pub fn file_of(&self, id: &TenantId) -> String {
        let ending = self.format.ending();
        match &self.table {
            Some(table) => format!("{id}.{}.{ending}", segment(table)),
            None => format!("{id}.{ending}"),
        }
    }
}

/// Asks for a user's database and writes it to a file without its name beside `to`.
pub async fn save(target: &Target, id: &TenantId, what: &What, to: &Path) -> Result<Saved> {
    let table = what.table.as_deref().map_or(String::new(), |table| format!("&table={}", segment(table)));
    let format = what.format.name();
    let path = format!("/api/admin/tenants/{}/export?format={format}{table}", segment(id.as_str()));
    let answer = target.download(&path).await.map_err(|error| match error.kind() {
        ErrorKind::UnknownTenant => {
            Error::new(ErrorKind::UnknownTenant, format!("{id} is unknown; `cubby tenants list` shows who is"))
        }
        _ => error,
    })?;
    Part::beside(to)?.receive(answer, target).await
}

//! What has run, as the tool that wrote the migrations keeps it: run against a user's file, it finds nothing to do.
//!
//! The tables are those that drizzle-orm's migrators and Prisma's schema engine make themselves for SQLite, with the
//! same values. Cubby's own history is another table, and decides; this one is also read for migrations that the
//! tool has run on this file itself.

use rusqlite::{Connection, OptionalExtension, params};

use super::form::{Form, Record};

/// Drizzle's table. Its `id` stays NULL: SERIAL is no type of SQLite's.
const DRIZZLE: &str =
    "CREATE TABLE main.__drizzle_migrations (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at numeric)";

/// The same since Drizzle's version 1, which adds the two columns to an older one.
const DRIZZLE_FOLDERS: &str = "CREATE TABLE main.__drizzle_migrations (id INTEGER PRIMARY KEY, hash text NOT NULL, created_at \
                               numeric, name text, applied_at TEXT)";

const PRISMA: &str = "CREATE TABLE main._prisma_migrations (id TEXT PRIMARY KEY NOT NULL, checksum TEXT NOT NULL, finished_at \
                      DATETIME, migration_name TEXT NOT NULL, logs TEXT, rolled_back_at DATETIME, started_at DATETIME NOT \
                      NULL DEFAULT current_timestamp, applied_steps_count INTEGER UNSIGNED NOT NULL DEFAULT 0)";

/// Prisma's ids are random UUIDs; times are Unix milliseconds. `?3` keeps the order in one run.
const PRISMA_INSERT: &str = "INSERT INTO main._prisma_migrations (id, checksum, migration_name, started_at, finished_at, \
                             applied_steps_count) SELECT lower(printf('%s-%s-4%s-%s%s-%s', hex(randomblob(4)), \
                             hex(randomblob(2)), substr(hex(randomblob(2)), 2), substr('89AB', 1 + (random() & 3), 1), \
                             substr(hex(randomblob(2)), 2), hex(randomblob(6)))), ?1, ?2, now + ?3, now + ?3, 1 FROM \
                             (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)";

/// A tool's table in one file.
pub(super) struct Ledger<'c> {
    conn: &'c Connection,
    form: Form,
    columns: Vec<String>,
}

impl<'c> Ledger<'c> {
    /// That of a form, if its tool has one.
    pub fn of(form: Form, conn: &'c Connection) -> rusqlite::Result<Option<Self>> {
        let Some(table) = form.table() else { return Ok(None) };
        let columns = conn
            .prepare("SELECT name FROM pragma_table_info(?1, 'main')")?
            .query_map([table], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Some(Self { conn, form, columns }))
    }

    /// Whether the tool has it that a migration, just as it is, has run.
    pub fn has(&self, record: &Record) -> rusqlite::Result<bool> {
        if self.columns.is_empty() {
            return Ok(false);
        }
        let Record { name, hash, when } = record;
        let found = match self.form {
            Form::Prisma => self.conn.query_row(
                "SELECT 1 FROM main._prisma_migrations WHERE migration_name = ?1 AND checksum = ?2 AND finished_at IS \
                 NOT NULL AND rolled_back_at IS NULL",
                [name, hash],
                |_| Ok(()),
            ),
            // A journal's times have milliseconds, and those of folders' names have not.
            _ => self.conn.query_row(
                "SELECT 1 FROM main.__drizzle_migrations WHERE hash = ?1 AND CAST(created_at AS INTEGER) / 1000 = ?2",
                params![hash, when.div_euclid(1000)],
                |_| Ok(()),
            ),
        };
        Ok(found.optional()?.is_some())
    }

    /// Adds migrations that have run, without those that are there.
    pub fn add(&mut self, records: &[Record]) -> rusqlite::Result<()> {
        if self.columns.is_empty() {
            self.conn.execute_batch(match self.form {
                Form::Prisma => PRISMA,
                Form::DrizzleFolders => DRIZZLE_FOLDERS,
                _ => DRIZZLE,
            })?;
        }
        let named =
            self.form == Form::DrizzleFolders && (self.columns.is_empty() || self.columns.iter().any(|c| c == "name"));
        for (record, place) in records.iter().zip(1_i64..) {
            let Record { name, hash, when } = record;
            if self.has(record)? {
                continue;
            }
            match self.form {
                Form::Prisma => self.conn.execute(PRISMA_INSERT, params![hash, name, place])?,
                _ if named => self.conn.execute(
                    "INSERT INTO main.__drizzle_migrations (hash, created_at, name, applied_at) VALUES (?1, ?2, ?3, \
                     strftime('%Y-%m-%dT%H:%M:%fZ'))",
                    params![hash, when, name],
                )?,
                _ => self.conn.execute(
                    "INSERT INTO main.__drizzle_migrations (hash, created_at) VALUES (?1, ?2)",
                    params![hash, when],
                )?,
            };
        }
        Ok(())
    }
}

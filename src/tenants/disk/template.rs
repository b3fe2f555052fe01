//! The template of a new tenant's file, and the row in each file that says whose it is.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use rusqlite::{Connection, MAIN_DB, params};

use crate::{
    clock::Millis,
    error::{Error, ErrorKind, Result},
    sqlite::{
        migrate::{HISTORY_TABLES, Schema, user_version},
        open::{self, Options},
    },
    tenants::id::TenantId,
};

/// Marks a file as a Cubby tenant (`application_id`, <https://sqlite.org/fileformat2.html>): "CuBt".
pub const APPLICATION_ID: i32 = 0x4375_4274;

/// A migrated, empty database in memory, which is copied for each new tenant: half the cost of running the
/// migrations on each file.
pub struct Template {
    conn: Mutex<Connection>,
    tables: Vec<String>,
    schema: Schema,
    options: Options,
}

/// Offsets of the file format's write and read version; 2 is WAL. A database in memory cannot be in WAL mode, and
/// switching the file later would cost another commit.
const FORMAT_VERSIONS: std::ops::RangeInclusive<usize> = 18..=19;
const WAL: u8 = 2;

impl Template {
    /// Runs every migration of `schema` on an empty database, with the settings and bounds of `options`.
    pub fn build(schema: &Schema, options: &Options) -> Result<Self> {
        let conn = blank(schema, options).map_err(|e| {
            Error::config(format!("the tenant migrations do not run on an empty database: {}", e.message()))
        })?;
        open::compact(&conn)?;
        let tables = conn
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Self { conn: Mutex::new(conn), tables, schema: schema.clone(), options: options.clone() })
    }

    /// Whether this schema has a table.
    pub fn has_table(&self, name: &str) -> bool {
        self.tables.iter().any(|table| table == name)
    }

    /// The bytes of a new file for `id`.
    pub fn image(&self, id: &TenantId, now: Millis) -> Result<Vec<u8>> {
        let conn = self.conn.lock();
        conn.prepare_cached("UPDATE cubby_meta SET tenant = ?1, created = ?2")?.execute(params![id.as_str(), now])?;
        let mut image = conn.serialize(MAIN_DB)?.to_vec();
        drop(conn);
        image
            .get_mut(FORMAT_VERSIONS)
            .ok_or_else(|| Error::internal("the template is shorter than a database header"))?
            .fill(WAL);
        Ok(image)
    }

    /// Whether an open file has the schema and the rows of a new one and no others, apart from the bookkeeping: rows that
    /// the migrations insert, and those with which a virtual table begins. A file of an older schema is compared with a
    /// new one of that. In doubt it does not: for rows that come out otherwise each time that the migrations run.
    pub fn is_untouched(&self, file: &Connection) -> Result<bool> {
        let version = user_version(file)?;
        if version == self.schema.version() {
            return self.is_like(file);
        }
        match self.schema.up_to(version) {
            Ok(older) if older.version() == version => Self::build(&older, &self.options)?.is_like(file),
            _ => Ok(false),
        }
    }

    fn is_like(&self, file: &Connection) -> Result<bool> {
        let new = self.conn.lock();
        if objects(file)? != objects(&new)? {
            return Ok(false);
        }
        for table in stored(file)?.iter().filter(|table| !BOOKKEEPING.contains(&table.as_str())) {
            if !have_same_rows(file, &new, table)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What a schema is made of, apart from the bookkeeping and what SQLite makes by itself: kind, name, table, statement.
fn objects(conn: &Connection) -> Result<BTreeSet<[String; 4]>> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE \
               'sqlite\\_%' ESCAPE '\\'";
    let read = |row: &rusqlite::Row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]);
    let mut objects: BTreeSet<[String; 4]> =
        conn.prepare(sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
    objects.retain(|[_, _, table, _]| !BOOKKEEPING.contains(&table.as_str()));
    Ok(objects)
}

/// The tables that have rows in the file itself, those of virtual tables included.
fn stored(conn: &Connection) -> Result<BTreeSet<String>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\\_%' \
               ESCAPE '\\'";
    let names = conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(names)
}

fn is_empty(conn: &Connection, table: &str) -> Result<bool> {
    let quoted = table.replace('"', "\"\"");
    Ok(conn.query_row(&format!("SELECT NOT EXISTS (SELECT 1 FROM \"{quoted}\")"), [], |row| row.get(0))?)
}

/// Whether a table has the same rows in two databases. Reads no further than to the first that differs.
fn have_same_rows(file: &Connection, new: &Connection, table: &str) -> Result<bool> {
    let sql = format!("SELECT * FROM \"{}\" NOT INDEXED", table.replace('"', "\"\""));
    let (mut file, mut new) = (file.prepare(&sql)?, new.prepare(&sql)?);
    let columns = file.column_count();
    let same_columns = columns == new.column_count();
    let (mut theirs, mut ours) = (file.query([])?, new.query([])?);
    loop {
        match (theirs.next()?, ours.next()?) {
            (None, None) => return Ok(true),
            (Some(their), Some(our)) if same_columns => {
                for n in 0..columns {
                    if their.get_ref(n)? != our.get_ref(n)? {
                        return Ok(false);
                    }
                }
            }
            _ => return Ok(false),
        }
    }
}

/// A tenant's database in memory, without a tenant, and with only the rows that the migrations insert.
pub(in crate::tenants) fn blank(schema: &Schema, options: &Options) -> Result<Connection> {
    let mut conn = open::in_memory_like(options)?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.execute_batch(
        // One row: whose file this is. The catalog can be rebuilt from it.
        "CREATE TABLE cubby_meta (one INTEGER PRIMARY KEY CHECK (one = 1), tenant TEXT NOT NULL, created INTEGER \
         NOT NULL, schema_digest INTEGER NOT NULL) STRICT; INSERT INTO cubby_meta VALUES (1, '', 0, 0)",
    )?;
    upgrade(&mut conn, schema)?;
    Ok(conn)
}

/// Migrates an open file, or a database in memory. Returns the version that it had, or none if that was the newest.
pub(in crate::tenants) fn upgrade(conn: &mut Connection, schema: &Schema) -> Result<Option<i32>> {
    upgrade_with(conn, schema, || Ok(()))
}

/// Like [`upgrade`], and calls `before_commit` when the migrations have run.
pub(in crate::tenants) fn upgrade_with(
    conn: &mut Connection,
    schema: &Schema,
    before_commit: impl FnOnce() -> Result<()>,
) -> Result<Option<i32>> {
    schema.apply(conn, |tx| {
        tx.execute("UPDATE cubby_meta SET schema_digest = ?1", [schema.digest()])?;
        // A fault of the catalog, and not of the file.
        before_commit().map_err(|error| {
            let message = format!("that its migrations run could not be recorded: {}", error.message());
            Error::new(ErrorKind::Unavailable, message).with_source(error)
        })
    })
}

/// Tables that files have beside those of their schema.
pub const BOOKKEEPING: [&str; 4] = {
    let [history, drizzle, prisma] = HISTORY_TABLES;
    ["cubby_meta", history, drizzle, prisma]
};

/// The row in each file that says whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The id of the tenant it was made for.
    pub tenant: String,
    /// When it was made.
    pub created: Millis,
    /// [`Schema::digest`] of the migrations last run on it.
    pub schema_digest: i64,
}

/// Reads [`Meta`] from an open file.
pub fn meta(conn: &Connection) -> Result<Meta> {
    Ok(conn.query_row("SELECT tenant, created, schema_digest FROM cubby_meta", [], |row| {
        Ok(Meta { tenant: row.get(0)?, created: row.get(1)?, schema_digest: row.get(2)? })
    })?)
}

/// Makes an open file belong to another tenant.
pub fn rename(conn: &Connection, id: &TenantId) -> Result<()> {
    match conn.execute("UPDATE cubby_meta SET tenant = ?1", [id.as_str()])? {
        1 => Ok(()),
        _ => Err(Error::internal("the file does not say which tenant it belongs to")),
    }
}

/// Whether no table of an open file has a row, apart from the bookkeeping. Always `false` for a schema whose migrations
/// insert rows or make an index for full-text search.
pub fn has_no_rows(conn: &Connection) -> Result<bool> {
    let tables: Vec<String> = conn
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for table in tables.iter().filter(|table| !BOOKKEEPING.contains(&table.as_str())) {
        if !is_empty(conn, table)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenants::options::shipped_schema;

    #[test]
    fn an_error_of_the_catalog_is_not_a_fault_of_the_file() {
        let schema = shipped_schema().unwrap();
        let mut conn = blank(&schema.up_to(1).unwrap(), &Options::default()).unwrap();
        for kind in [ErrorKind::Damaged, ErrorKind::Quarantined, ErrorKind::Internal] {
            let error = upgrade_with(&mut conn, &schema, || Err(Error::new(kind, "the catalog"))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.message().contains("the catalog"), "{error}");
        }
        upgrade(&mut conn, &schema).unwrap();
    }
}

//! Taking the rows of a file that somebody else made into a fresh database. Nothing of that file is trusted: this runs in a
//! process of its own, whose [`Order`] and [`Answer`] are all that goes in and out.
//!
//! What is taken are rows of tables that the fresh database has. Triggers, views, indexes and further tables of the file
//! are made only if their names are allowed. No trigger runs; an index for full-text search that triggers would have kept is
//! built at the end. A virtual table's own tables are taken only if the file makes it as the fresh database does.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension, types::ToSqlOutput};
use serde::{Deserialize, Serialize};

use super::{
    export::columns,
    header,
    migrate::{self, HISTORY_TABLES, Step},
    open,
    rows::{quoted, rowid_beside},
};
use crate::error::{Error, ErrorKind};

/// The page cache of the database that is filled, in KiB.
const CACHE: u32 = 8 << 10;

/// Names that a refusal tells.
const TOLD: usize = 20;

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The file that somebody else made.
    pub file: PathBuf,
    /// The fresh database, to be filled; none if the file is only to be looked at.
    pub into: Option<PathBuf>,
    /// Names of triggers, views, indexes and tables that are taken although the fresh database does not have them.
    pub allow: Vec<String>,
    /// Tables that are not taken: the program's own.
    pub own: Vec<String>,
    /// The largest the fresh database may grow, in bytes; 0 for no bound.
    pub max_bytes: u64,
    /// The longest string, blob or row, in bytes.
    pub max_value_bytes: u64,
    /// How long it may take, in seconds.
    pub seconds: u32,
}

/// A migration that ran on the file, as the file says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ran {
    /// Its version.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// Its checksum.
    pub checksum: u64,
}

impl From<Ran> for Step {
    fn from(Ran { version, name, checksum }: Ran) -> Self {
        Self { version, name, checksum, file: None }
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The file is whole, and says that these migrations ran on it.
    Inspected(Vec<Ran>),
    /// Its rows are taken.
    Copied {
        /// Rows.
        rows: u64,
        /// What was made since it is allowed.
        made: Vec<String>,
    },
    /// It cannot be taken, and why.
    Refused(String),
    /// The disk is full, or the fresh database has reached its bound.
    Full,
}

/// Does it.
pub fn perform(order: &Order) -> Answer {
    let done = match &order.into {
        None => inspect(order),
        Some(into) => copy(order, into),
    };
    done.unwrap_or_else(|failure| match failure {
        Failure::Refused(why) => Answer::Refused(why),
        Failure::Error(error) if error.kind() == ErrorKind::DiskFull => Answer::Full,
        Failure::Error(error) => Answer::Refused(format!("the file cannot be read: {error}")),
    })
}

enum Failure {
    Refused(String),
    Error(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Error(error.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

type Result<T> = std::result::Result<T, Failure>;

fn refused<T>(why: impl Into<String>) -> Result<T> {
    Err(Failure::Refused(why.into()))
}

fn inspect(order: &Order) -> Result<Answer> {
    // An empty file is an empty database, to SQLite.
    if header::application_id(&order.file)?.is_none() {
        return refused("it is no SQLite database");
    }
    if header::is_in_wal_mode(&order.file)? {
        return refused(
            "it is in WAL mode, and may lack the commits that are in a write-ahead log beside the original; close whatever \
             has that open, run `sqlite3 FILE 'PRAGMA journal_mode=DELETE'` on it, and import that",
        );
    }
    let conn = open::foreign(&order.file, order.max_value_bytes)?;
    check(&conn, "the file is damaged")?;
    let history = HISTORY_TABLES[0];
    let ran = match kinds(&conn)?.get(history).map(String::as_str) {
        None => Vec::new(),
        Some("table") => migrate::history(&conn)?,
        Some(kind) => return refused(format!("{history} is a {kind}, and no table")),
    };
    let ran = ran.into_iter().map(|Step { version, name, checksum, .. }| Ran { version, name, checksum });
    Ok(Answer::Inspected(ran.collect()))
}

fn check(conn: &Connection, what: &str) -> Result<()> {
    let found: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { refused(format!("{what}: {found}")) }
}

/// The name of a table's row numbers; none if it has none, or columns have all the names.
fn rowid(conn: &Connection, table: &str) -> Result<Option<&'static str>> {
    let sql = "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
    if conn.query_row(sql, [table], |row| row.get(0))? {
        return Ok(None);
    }
    let taken = columns(conn, table, false)?;
    Ok(rowid_beside(&taken))
}

/// The names of tables and views, in small letters, and which kind of table each is.
fn kinds(conn: &Connection) -> Result<HashMap<String, String>> {
    let sql = "SELECT name, type FROM pragma_table_list WHERE schema = 'main'";
    let mut statement = conn.prepare(sql)?;
    let found = statement.query_map([], |row| Ok((row.get::<_, String>(0)?.to_ascii_lowercase(), row.get(1)?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// A row of the schema that is not SQLite's own.
struct Object {
    kind: String,
    name: String,
    sql: String,
}

impl Object {
    /// Its kind and its name, which SQLite compares without regard to case.
    fn key(&self) -> (String, String) {
        (self.kind.clone(), self.name.to_ascii_lowercase())
    }
}

fn objects(conn: &Connection) -> Result<Vec<Object>> {
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
               ORDER BY rowid";
    let mut statement = conn.prepare(sql)?;
    let found = statement.query_map([], |row| Ok(Object { kind: row.get(0)?, name: row.get(1)?, sql: row.get(2)? }))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn copy(order: &Order, into: &std::path::Path) -> Result<Answer> {
    let from = open::foreign(&order.file, order.max_value_bytes)?;
    let to = open::filling(into, order.max_bytes, order.max_value_bytes, CACHE)?;
    to.execute_batch("BEGIN")?;
    let allowed = unknown(order, &from, &to)?;
    let (tables, others): (Vec<_>, Vec<_>) = allowed.iter().partition(|object| object.kind == "table");
    tables.into_iter().try_for_each(|object| make(&to, object))?;
    let rows = copy_tables(order, &from, &to)?;
    others.into_iter().try_for_each(|object| make(&to, object))?;
    let mut foreign_keys = to.prepare("SELECT \"table\" FROM pragma_foreign_key_check LIMIT 1")?;
    let broken = foreign_keys.query_map([], |row| row.get::<_, String>(0))?.next().transpose()?;
    drop(foreign_keys);
    if let Some(table) = broken {
        return refused(format!("a row of table {table:?} refers to one that is not there"));
    }
    to.execute_batch("COMMIT")?;
    to.close().map_err(|(_, error)| error)?;
    // Opened anew: a virtual table may keep in memory what its own tables had before.
    let to = open::filling(into, order.max_bytes, order.max_value_bytes, CACHE)?;
    build_indexes(&from, &to)?;
    check(&to, "what was taken is not in order")?;
    to.close().map_err(|(_, error)| error)?;
    Ok(Answer::Copied { rows, made: allowed.into_iter().map(|object| object.name).collect() })
}

/// What the fresh database does not have, all of it allowed, in the order in which it was made.
fn unknown(order: &Order, from: &Connection, to: &Connection) -> Result<Vec<Object>> {
    let known: HashSet<_> = objects(to)?.iter().map(Object::key).collect();
    let (theirs, ours) = (kinds(from)?, kinds(to)?);
    let (mut allowed, mut others) = (Vec::new(), Vec::new());
    for object in objects(from)? {
        let name = object.name.to_ascii_lowercase();
        // A virtual table's own tables come with it.
        let is_shadow = object.kind == "table" && theirs.get(&name).is_some_and(|kind| kind == "shadow");
        if known.contains(&object.key()) || is_shadow || is_own(order, &name) {
            continue;
        }
        if ours.contains_key(&name) {
            return refused(format!("{:?} is a {} in the file, and not in the schema", object.name, object.kind));
        }
        match order.allow.iter().any(|allowed| allowed.eq_ignore_ascii_case(&object.name)) {
            true => allowed.push(object),
            false => others.push(format!("{} {:?}", object.kind, object.name)),
        }
    }
    if others.is_empty() {
        return Ok(allowed);
    }
    let more = if others.len() > TOLD { format!(", and {} more", others.len() - TOLD) } else { String::new() };
    others.truncate(TOLD);
    refused(format!(
        "the schema does not know {}{more}; allow by name what is to be taken, or remove it from the file",
        others.join(", ")
    ))
}

/// The tables that the file makes as the fresh database does, by their names in small letters.
fn alike(from: &Connection, to: &Connection) -> Result<HashSet<String>> {
    let makers = |conn: &Connection| -> Result<HashSet<(String, String)>> {
        let tables = objects(conn)?.into_iter().filter(|object| object.kind == "table");
        Ok(tables.map(|table| (table.name.to_ascii_lowercase(), maker(&table.sql))).collect())
    };
    Ok((&makers(from)? & &makers(to)?).into_iter().map(|(name, _)| name).collect())
}

/// A statement in small letters outside of quotes, without blanks that mean nothing; a virtual table's from `USING` on.
fn maker(sql: &str) -> String {
    let (mut text, mut quote, mut apart) = (String::new(), None, false);
    for letter in sql.chars() {
        if quote.is_none() && letter.is_ascii_whitespace() {
            apart = true;
            continue;
        }
        if std::mem::take(&mut apart) && !"(),=".contains(letter) && !text.ends_with(['(', ')', ',', '=']) {
            text.push(' ');
        }
        text.push(if quote.is_none() { letter.to_ascii_lowercase() } else { letter });
        quote = match (quote, letter) {
            (None, '\'' | '"' | '`') => Some(letter),
            (None, '[') => Some(']'),
            (Some(end), _) if end == letter => None,
            (quote, _) => quote,
        };
    }
    text.split_off(text.find(" using ").unwrap_or(0))
}

/// The virtual table that a table in which one keeps its content belongs to.
fn owner(shadow: &str) -> &str {
    shadow.rsplit_once('_').map_or(shadow, |(owner, _)| owner)
}

/// Whether a virtual table has rows of its own that can be read. An index for full-text search has none if its text is
/// in another table, or nowhere.
fn keeps_rows(conn: &Connection, kinds: &HashMap<String, String>, name: &str) -> Result<bool> {
    if !hidden_columns(conn, name)?.iter().any(|hidden| hidden.eq_ignore_ascii_case(name)) {
        return Ok(kinds.iter().any(|(other, kind)| kind == "shadow" && owner(other) == name));
    }
    // It has a column for each whose text is kept, which may be some of them alone (`contentless_unindexed`).
    let kept = columns(conn, &format!("{name}_content"), false)?;
    let texts = kept.iter().filter(|column| column.starts_with('c')).count();
    Ok(texts > 0 && texts >= columns(conn, name, true)?.len())
}

fn made_otherwise<T>(index: &str) -> Result<T> {
    let why = "in another way than the schema, and does not have its text: drop it in the file, and fill it afterwards";
    refused(format!("the file makes the index {index:?} {why}"))
}

/// Builds the indexes for full-text search whose text is in another table (`content=`), if the file does not have them
/// as the schema makes them. One that is made so stays as it is: it may leave rows out on purpose.
fn build_indexes(from: &Connection, to: &Connection) -> Result<()> {
    let (theirs, ours, alike) = (kinds(from)?, kinds(to)?, alike(from, to)?);
    for name in ours.iter().filter(|(_, kind)| *kind == "virtual").map(|(name, _)| name) {
        let hidden = hidden_columns(to, name)?;
        let has = |column: &str| hidden.iter().any(|hidden| hidden.eq_ignore_ascii_case(column));
        // Commands are given by a column of the table's name.
        if !has(name) || alike.contains(name) || keeps_rows(to, &ours, name)? {
            continue;
        }
        let table = quoted(name);
        let read = to.query_row(&format!("SELECT rowid FROM {table} LIMIT 1"), [], |_| Ok(())).optional();
        let rebuild = || to.execute(&format!("INSERT INTO {table} ({table}) VALUES ('rebuild')"), []);
        let has_text = match read.map(|_| rebuild()) {
            // Its text is in no table that there is, or nowhere (`content=''`).
            Err(_) => false,
            Ok(Err(error)) if error.sqlite_error_code() == Some(ErrorCode::Unknown) => false,
            Ok(done) => index_is_sound(name, done).map(|()| true)?,
        };
        if !has_text && theirs.get(name).is_some_and(|kind| kind == "virtual") {
            return made_otherwise(name);
        }
        // What SQLite checks of a whole database does not compare an index of FTS5 with text elsewhere.
        if has_text && has("rank") {
            let sql = format!("INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)");
            index_is_sound(name, to.execute(&sql, []))?;
        }
    }
    Ok(())
}

fn index_is_sound(name: &str, done: rusqlite::Result<usize>) -> Result<()> {
    match done {
        Ok(_) => Ok(()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Err(error.into()),
        Err(error) => refused(format!("the index {name:?} cannot be built from the rows of the file: {error}")),
    }
}

fn hidden_columns(conn: &Connection, table: &str) -> Result<Vec<String>> {
    let mut statement = conn.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 1")?;
    let found = statement.query_map([table], |row| row.get(0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn is_own(order: &Order, name: &str) -> bool {
    order.own.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// Makes what is allowed.
fn make(to: &Connection, object: &Object) -> Result<()> {
    let made = match object.sql.get(.."CREATE ".len()) {
        Some(verb) if verb.eq_ignore_ascii_case("CREATE ") => to.execute(&object.sql, []).map(drop),
        _ => return refused(format!("{:?} is made by no CREATE", object.name)),
    };
    if let Err(error) = made {
        return match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Err(error.into()),
            _ => refused(format!("the {} {:?} cannot be made: {error}", object.kind, object.name)),
        };
    }
    match objects(to)?.iter().any(|there| there.key() == object.key()) {
        true => Ok(()),
        false => refused(format!("what the file says of the {} {:?} makes something else", object.kind, object.name)),
    }
}

/// Takes the rows of all tables; says how many, without those in which virtual tables keep their content.
fn copy_tables(order: &Order, from: &Connection, to: &Connection) -> Result<u64> {
    let (theirs, ours, alike) = (kinds(from)?, kinds(to)?, alike(from, to)?);
    let kind_of = |name: &str| ours.get(name).map(String::as_str);
    let (mut rows, mut tables) = (0, 0);
    for (name, kind) in theirs.iter().filter(|(name, kind)| *kind != "view" && !name.starts_with("sqlite_")) {
        if is_own(order, name) {
            continue;
        }
        tables += 1;
        match (kind.as_str(), kind_of(name)) {
            ("table", Some("table")) => rows += copy_table(from, to, name)?,
            // It is taken with its own tables, or built at the end.
            ("virtual", Some("virtual")) if alike.contains(name) || !keeps_rows(to, &ours, name)? => {}
            ("virtual", Some("virtual")) if !keeps_rows(from, &theirs, name)? => return made_otherwise(name),
            // Its own tables are filled by its rows.
            ("shadow", _) if !alike.contains(owner(name)) && kind_of(owner(name)) == Some("virtual") => {}
            ("virtual", Some("virtual")) | ("shadow", Some("shadow")) => drop(copy_table(from, to, name)?),
            (_, Some(ours)) => return refused(format!("{name:?} is a {kind} in the file, and a {ours} in the schema")),
            (_, None) => return refused(format!("the schema does not know the table {name:?}")),
        }
    }
    if tables == 0 {
        return refused("it has none of the schema's tables");
    }
    if theirs.contains_key("sqlite_sequence") && ours.contains_key("sqlite_sequence") {
        keep_used_numbers(order, from, to)?;
    }
    Ok(rows)
}

/// Has numbers that AUTOINCREMENT gave in the file not given again.
fn keep_used_numbers(order: &Order, from: &Connection, to: &Connection) -> Result<()> {
    let used = from
        .prepare("SELECT name, seq FROM sqlite_sequence WHERE typeof(name) = 'text' AND typeof(seq) = 'integer'")?
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    // SQLite looks for the name there as the table has it, with regard to case.
    let counted = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE AND sql LIKE \
                   '%AUTOINCREMENT%'";
    for (name, number) in used.iter().filter(|(name, _)| !is_own(order, name)) {
        let Some(table) = to.query_row(counted, [name], |row| row.get::<_, String>(0)).optional()? else { continue };
        if to.execute("UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1", (&table, number))? == 0 {
            to.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", (&table, number))?;
        }
    }
    Ok(())
}

/// Takes the rows of a table instead of those that the migrations inserted. A column that the file does not have gets its
/// default.
fn copy_table(from: &Connection, to: &Connection, table: &str) -> Result<u64> {
    let (theirs, ours) = (columns(from, table, true)?, columns(to, table, true)?);
    let is_ours = |name: &&String| ours.iter().any(|own| own.eq_ignore_ascii_case(name));
    if let Some(other) = theirs.iter().find(|name| !is_ours(name)) {
        return refused(format!("the schema does not know the column {other:?} of table {table:?}"));
    }
    let (mut reads, mut writes) = (theirs.iter().map(|name| quoted(name)).collect::<Vec<_>>(), Vec::new());
    writes.clone_from(&reads);
    // Before the columns, so that one that is the row's number in the fresh database decides.
    if let (Some(their), Some(our)) = (rowid(from, table)?, rowid(to, table)?) {
        reads.insert(0, their.to_owned());
        writes.insert(0, our.to_owned());
    }
    let places = vec!["?"; writes.len()].join(", ");
    let (table_name, fields) = (quoted(table), reads.len());
    to.execute(&format!("DELETE FROM {table_name}"), [])?;
    let mut read = from.prepare(&format!("SELECT {} FROM {table_name} NOT INDEXED", reads.join(", ")))?;
    let mut write = to.prepare(&format!("INSERT INTO {table_name} ({}) VALUES ({places})", writes.join(", ")))?;
    let (mut rows, mut count) = (read.query([])?, 0);
    while let Some(row) = rows.next()? {
        for n in 0..fields {
            write.raw_bind_parameter(n + 1, ToSqlOutput::Borrowed(row.get_ref(n)?))?;
        }
        if let Err(error) = write.raw_execute() {
            return match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => Err(error.into()),
                _ => refused(format!("a row of table {table:?} does not fit the schema: {error}")),
            };
        }
        count += 1;
    }
    Ok(count)
}

//! All SQL on notes. Reads take a [`Connection`]; writes take a [`Transaction`], so one outside a
//! transaction does not compile.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, ffi, params};

use super::model::{Note, NoteId, PAGE_BYTES, Page};
use crate::clock::Millis;

type Sql<T> = rusqlite::Result<T>;

/// `{"note":…}` of one note.
pub fn find(conn: &Connection, id: &NoteId) -> Sql<Option<Vec<u8>>> {
    conn.prepare_cached("SELECT id, text, created, updated FROM notes WHERE id = ?1")?
        .query_row([id.as_str()], |row| Ok(note(row)?.to_body()))
        .optional()
}

/// `{"notes":[…]}` of one page, with `next_cursor` if there is more.
pub fn list(conn: &Connection, page: &Page) -> Sql<Vec<u8>> {
    // A bound that every id passes, so that there is one statement an order.
    let (sql, edge) = match page.newest_first {
        false => ("SELECT id, text, created, updated FROM notes WHERE id > ?1 ORDER BY id LIMIT ?2", ""),
        true => ("SELECT id, text, created, updated FROM notes WHERE id < ?1 ORDER BY id DESC LIMIT ?2", "o"),
    };
    let after = page.cursor.as_ref().map_or(edge, NoteId::as_str);
    let mut statement = conn.prepare_cached(sql)?;
    // One more than asked for tells whether there is more.
    let mut rows = statement.query(params![after, i64::try_from(page.limit).unwrap_or(i64::MAX) + 1])?;
    let mut json = Vec::with_capacity(128 + 256 * page.limit.min(32));
    json.extend_from_slice(b"{\"notes\":[");
    let (mut count, mut last) = (0, String::new());
    while let Some(row) = rows.next()? {
        if count == page.limit || json.len() > PAGE_BYTES {
            json.extend_from_slice(b"],\"next_cursor\":\"");
            json.extend_from_slice(last.as_bytes());
            json.extend_from_slice(b"\"}");
            return Ok(json);
        }
        let note = note(row)?;
        if count > 0 {
            json.push(b',');
        }
        note.write_json(&mut json);
        count += 1;
        last.clear();
        last.push_str(note.id);
    }
    json.extend_from_slice(b"]}");
    Ok(json)
}

/// Adds a note and returns its id, which sorts after all others, also those made while the clock was ahead:
/// a client that reads on from a cursor must see the new note.
pub fn insert(tx: &Transaction, text: &str, now: Millis) -> Sql<NoteId> {
    let id = NoteId::generate(now);
    // One statement, since this is the usual case: the check reads the page that the insert goes to. `{` sorts
    // after `z`.
    let inserted = tx
        .prepare_cached(
            "INSERT INTO notes (id, text, created, updated) SELECT ?1, ?2, ?3, ?3 WHERE NOT EXISTS (SELECT 1 FROM notes \
             WHERE id >= ?1 AND id < 'note_{')",
        )?
        .execute(params![id.as_str(), text, now])?;
    if inserted == 1 { Ok(id) } else { insert_after_newest(tx, text, now) }
}

/// The same where a note has an id of the future, or one that this program did not make.
fn insert_after_newest(tx: &Transaction, text: &str, now: Millis) -> Sql<NoteId> {
    let id = NoteId::generate(now);
    let newest: Option<String> = tx
        .prepare_cached(
            "SELECT id FROM notes WHERE id >= ?1 AND id < 'note_{' AND length(id) = 21 AND substr(id, 6) NOT GLOB \
             '*[^a-z]*' ORDER BY id DESC LIMIT 1",
        )?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    let mut next = match newest {
        Some(newest) => NoteId::parse(&newest).and_then(|id| id.successor()),
        None => Some(id),
    };
    let mut statement = tx.prepare_cached("INSERT INTO notes (id, text, created, updated) VALUES (?1, ?2, ?3, ?3)")?;
    loop {
        // None if the newest id is the last one possible.
        let id = next.take().unwrap_or_else(|| NoteId::generate(now));
        match statement.execute(params![id.as_str(), text, now]) {
            Ok(_) => return Ok(id),
            // The id is taken: try another. Other constraints are errors.
            Err(e) if e.sqlite_error().is_some_and(|e| e.extended_code == ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Changes a note's text; gives `{"note":…}` as it is now.
pub fn update(tx: &Transaction, id: &NoteId, text: &str, now: Millis) -> Sql<Option<Vec<u8>>> {
    tx.prepare_cached(
        "UPDATE notes SET text = ?2, updated = max(?3, created) WHERE id = ?1 RETURNING id, text, created, updated",
    )?
    .query_row(params![id.as_str(), text, now], |row| Ok(note(row)?.to_body()))
    .optional()
}

/// Removes a note; gives `{"note":…}` as it was.
pub fn delete(tx: &Transaction, id: &NoteId) -> Sql<Option<Vec<u8>>> {
    tx.prepare_cached("DELETE FROM notes WHERE id = ?1 RETURNING id, text, created, updated")?
        .query_row([id.as_str()], |row| Ok(note(row)?.to_body()))
        .optional()
}

/// What an `Idempotency-Key` was used for.
pub struct Recalled {
    /// SHA-256 of the request.
    pub request: Vec<u8>,
    /// The note it made.
    pub note: String,
    /// When.
    pub created: Millis,
}

/// How long an `Idempotency-Key` is remembered: 24 hours, in milliseconds.
pub const REMEMBERED: Millis = 24 * 3_600_000;

/// What a key was used for, if that is not too long ago.
pub fn recall(tx: &Transaction, key: &str, now: Millis) -> Sql<Option<Recalled>> {
    tx.prepare_cached("SELECT request, note, created FROM idempotency_keys WHERE key = ?1 AND created > ?2")?
        .query_row(params![key, now - REMEMBERED], |row| {
            Ok(Recalled { request: row.get(0)?, note: row.get(1)?, created: row.get(2)? })
        })
        .optional()
}

/// Remembers what a key made, and forgets a few that are too old: each insert removes more than it
/// adds, so the table stays as small as a day's requests without a sweep.
pub fn remember(tx: &Transaction, key: &str, request: &[u8], note: &NoteId, now: Millis) -> Sql<()> {
    tx.prepare_cached(
        "DELETE FROM idempotency_keys WHERE key IN (SELECT key FROM idempotency_keys WHERE created <= ?1 ORDER BY \
         created LIMIT 4)",
    )?
    .execute([now - REMEMBERED])?;
    tx.prepare_cached("INSERT OR REPLACE INTO idempotency_keys (key, request, note, created) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![key, request, note.as_str(), now])?;
    Ok(())
}

fn note<'r>(row: &'r Row) -> Sql<Note<'r>> {
    // The table is STRICT and its text came from Rust strings: another type, or text that is not UTF-8, is
    // damage.
    let text = |column| row.get_ref(column)?.as_str().map_err(|_| damaged());
    let time = |column| row.get_ref(column)?.as_i64().map_err(|_| damaged());
    Ok(Note { id: text(0)?, text: text(1)?, created: time(2)?, updated: time(3)? })
}

fn damaged() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some("a note is not what was written".into()))
}

//! An exact copy of a database that is open, made while others write to it.
//!
//! The file is read as it is, and then the pages of the transactions that the write-ahead log has. While a connection reads,
//! nothing is copied into the file that is newer than what it reads, and what older commits change in the file meanwhile the
//! write-ahead log has, too: together they are the database as the last commit left it.
//!
//! All is read through the connection's own files: to close another descriptor of them would drop SQLite's locks.

use std::{cell::Cell, collections::BTreeMap, ffi::c_int, fs::File, os::unix::fs::FileExt, time::Instant};

use rusqlite::{Connection, ffi};

use super::frames::{FRAME_HEADER, HEADER, Position};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// Looks at the clock between two statements.
const LOOKS: u32 = 8;

/// It is long enough for SQLite to look at the connection's deadline.
const STATEMENT: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) SELECT max(i) FROM n";

/// Copies the database to an empty file, byte for byte as its own file is after a checkpoint. `conn` has begun to read, in a
/// transaction; what was committed since then is in the copy, too. Returns the length.
///
/// # Errors
/// [`ErrorKind::Timeout`] at `until`, or when the connection's deadline is over; those of reading and writing.
pub fn copy(conn: &Connection, into: &File, until: Instant) -> Result<u64> {
    let source = Source::new(conn, until)?;
    loop {
        let found = source.survey()?;
        if let Some(bytes) = source.write(&found, into)? {
            return Ok(bytes);
        }
        // Its write-ahead log began anew, for which all that it had was in the file. It was not read as one.
        source.look()?;
    }
}

/// An open database.
struct Source<'c> {
    conn: &'c Connection,
    until: Instant,
    looks: Cell<u32>,
    file: Handle<'c>,
    /// None if the database has no write-ahead log.
    log: Option<Handle<'c>>,
    page_size: u32,
    /// Its size when `conn` began to read.
    pages: u32,
}

/// What a write-ahead log has.
struct Found {
    header: Option<[u8; HEADER]>,
    /// Where the last image of each page stands.
    images: BTreeMap<u32, u64>,
    /// The database's size after the last commit, if there is one.
    pages: Option<u32>,
}

impl<'c> Source<'c> {
    fn new(conn: &'c Connection, until: Instant) -> Result<Self> {
        // SAFETY: the handle is live for the length of the call.
        let state = unsafe { ffi::sqlite3_txn_state(conn.handle(), c"main".as_ptr()) };
        if state != ffi::SQLITE_TXN_READ {
            return Err(Error::internal("a database is copied within a transaction that has read and not written"));
        }
        let file = Handle::of(conn, ffi::SQLITE_FCNTL_FILE_POINTER)?;
        Ok(Self {
            conn,
            until,
            looks: Cell::new(0),
            file: file.ok_or_else(|| Error::internal("a database in memory has no file to be copied"))?,
            log: Handle::of(conn, ffi::SQLITE_FCNTL_JOURNAL_POINTER)?,
            page_size: conn.query_row("PRAGMA page_size", [], |row| row.get(0))?,
            pages: conn.query_row("PRAGMA page_count", [], |row| row.get(0))?,
        })
    }

    /// Stops the copy when its time is over, or when somebody wants the connection to stop.
    fn look(&self) -> Result<()> {
        if Instant::now() >= self.until {
            return Err(Error::new(ErrorKind::Timeout, "the copy took too long and was stopped; try again later"));
        }
        let looks = self.looks.replace(self.looks.get().wrapping_add(1));
        if looks.is_multiple_of(LOOKS) {
            self.conn.prepare_cached(STATEMENT)?.query_row([], |_| Ok(()))?;
        }
        Ok(())
    }

    /// Reads through the write-ahead log, up to its last commit.
    fn survey(&self) -> Result<Found> {
        let mut found = Found { header: self.header()?, images: BTreeMap::new(), pages: None };
        // What has no header that SQLite would read on after has no frames.
        let begun = found.header.as_ref().and_then(Position::after_header);
        let (Some(log), Some(mut at)) = (&self.log, begun) else { return Ok(found) };
        if at.page_size != self.page_size {
            let why = "the write-ahead log has pages of another size than its database; restore it from a backup";
            return Err(Error::new(ErrorKind::Damaged, why));
        }
        let (frame, length) = (at.frame_length(), log.length()?);
        let most = (PIECE / frame).max(1) * frame;
        let mut piece = vec![0; most];
        let mut since = Vec::new();
        loop {
            self.look()?;
            let left = usize::try_from(length.saturating_sub(at.end)).unwrap_or(usize::MAX);
            let bytes = &mut piece[..left.min(most) / frame * frame];
            // What is not there any more is read as zeros, which are no frame.
            log.read(bytes, at.end)?;
            for bytes in bytes.chunks_exact(frame) {
                let Some((after, head)) = at.after_frame(bytes) else { return Ok(found) };
                since.push((head.page, at.end + FRAME_HEADER as u64));
                if head.size_pages > 0 {
                    found.images.extend(since.drain(..));
                    found.pages = Some(head.size_pages);
                }
                at = after;
            }
            if bytes.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Writes the copy, and returns its length; none if the write-ahead log is not the one that was found any more.
    fn write(&self, found: &Found, into: &File) -> Result<Option<u64>> {
        let failed = |e| Error::io("a copy of a database", e);
        let pages = found.pages.unwrap_or(self.pages);
        let length = u64::from(pages) * u64::from(self.page_size);
        // Without what an earlier attempt has written.
        into.set_len(0).map_err(failed)?;
        let there = length.min(self.file.length()?);
        let (mut at, mut piece) = (0, vec![0; PIECE]);
        while at < there {
            self.look()?;
            let bytes = &mut piece[..usize::try_from(there - at).unwrap_or(PIECE).min(PIECE)];
            self.file.read(bytes, at)?;
            into.write_all_at(bytes, at).map_err(failed)?;
            at += bytes.len() as u64;
        }
        into.set_len(length).map_err(failed)?;
        if let Some(log) = &self.log {
            let image = &mut piece[..self.page_size as usize];
            for (n, (page, offset)) in found.images.iter().take_while(|(page, _)| **page <= pages).enumerate() {
                if n % 64 == 0 {
                    self.look()?;
                }
                log.read(image, *offset)?;
                into.write_all_at(image, u64::from(page - 1) * u64::from(self.page_size)).map_err(failed)?;
            }
        }
        Ok((self.header()? == found.header).then_some(length))
    }

    /// The header of the write-ahead log, which changes when it begins anew; none if that is empty.
    fn header(&self) -> Result<Option<[u8; HEADER]>> {
        let mut header = [0; HEADER];
        let whole = self.log.as_ref().map_or(Ok(false), |log| log.read(&mut header, 0))?;
        Ok(whole.then_some(header))
    }
}

/// A file that SQLite has open.
struct Handle<'c> {
    file: *mut ffi::sqlite3_file,
    methods: &'c ffi::sqlite3_io_methods,
}

impl<'c> Handle<'c> {
    /// The file that this operation names; none if it is not open.
    fn of(conn: &'c Connection, operation: c_int) -> Result<Option<Self>> {
        let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
        // SAFETY: the handle is live for the length of the call, which stores a pointer to a file that lives as long as the
        // connection's transaction (<https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>). A file that is not open has
        // no methods; those of one that is are constants.
        let (code, methods) = unsafe {
            let pointer = std::ptr::from_mut(&mut file).cast();
            let code = ffi::sqlite3_file_control(conn.handle(), c"main".as_ptr(), operation, pointer);
            (code, file.as_ref().and_then(|file| file.pMethods.as_ref()))
        };
        done(code)?;
        Ok(methods.map(|methods| Self { file, methods }))
    }

    fn length(&self) -> Result<u64> {
        let mut length = 0;
        let size = self.methods.xFileSize.ok_or_else(|| Error::internal("a file without a length"))?;
        // SAFETY: the file is open while the connection reads, and `length` takes the answer.
        done(unsafe { size(self.file, &raw mut length) })?;
        Ok(u64::try_from(length).unwrap_or_default())
    }

    /// Fills `into`, with zeros where the file has ended; then `false`.
    fn read(&self, into: &mut [u8], offset: u64) -> Result<bool> {
        if into.is_empty() {
            return Ok(true);
        }
        let (length, offset) = (c_int::try_from(into.len()), i64::try_from(offset));
        let (Some(read), Ok(length), Ok(offset)) = (self.methods.xRead, length, offset) else {
            return Err(Error::internal("a part of a file that cannot be read"));
        };
        // SAFETY: the file is open while the connection reads, and `into` has `length` bytes.
        match unsafe { read(self.file, into.as_mut_ptr().cast(), length, offset) } {
            ffi::SQLITE_IOERR_SHORT_READ => Ok(false),
            code => done(code).map(|()| true),
        }
    }
}

fn done(code: c_int) -> Result<()> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()),
    }
}

#[cfg(test)]
mod tests;

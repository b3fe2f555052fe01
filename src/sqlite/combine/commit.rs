//! Commits: a batch's transaction, its record in the log, and its answers.

use std::{cell::Cell, path::Path, sync::atomic::Ordering, time::Duration};

use rusqlite::Connection;

use super::{
    Combiner, Writer,
    batch::{Batch, CommitOutcome, Writes},
    job::{Answer, Answers},
};
use crate::{
    error::{Error, Result},
    log::{Boot, DatabaseLog, Done, record::Change},
    sqlite::{
        failure::outcome_unknown,
        flush,
        touched::{Touched, Written},
        wal::{self, WalPart},
    },
    telemetry::measures,
};

thread_local! {
    /// What a commit appended is read into this, and it is kept for the next commit unless it is longer than [`KEPT`].
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}
const KEPT: usize = 1 << 20;

/// The most bytes of a write-ahead log that are one record.
const LONGEST_RECORD: u64 = 4 << 20;

/// How much of one commit may wait for the log. A short write on an async thread is far from it.
const MOST_WAITING: u64 = 4 * LONGEST_RECORD;

impl Combiner {
    /// Runs writes in one commit, and answers them when the log has it.
    pub(super) fn run_writes(&self, writer: &mut Writer, writes: Writes, statement: Duration) {
        let log = || self.log.as_ref().map_or(Ok(()), |log| log.log().check());
        let ready = self.check().and_then(|()| log()).and_then(|()| self.empty_distrusted_wal(writer));
        let without_flush = self.begins_without_flush(writer);
        let outcome = match ready.and_then(|()| self.connection(writer)) {
            Ok(conn) => {
                match commit(
                    &Batch {
                        conn,
                        deadline: &self.deadline,
                        committing: &self.committing,
                        statement,
                        feed: &self.feed,
                    },
                    writes,
                    without_flush,
                ) {
                    // The rollback failed: no other transaction can begin.
                    CommitOutcome::Nothing(rest) if !conn.is_autocommit() => {
                        CommitOutcome::Broken(outcome_unknown(), rest)
                    }
                    failed @ CommitOutcome::Failed(_) if !conn.is_autocommit() => failed.and_broken(outcome_unknown()),
                    outcome => outcome,
                }
            }
            Err(error) => {
                writes.into_iter().for_each(|write| write.fail(error.clone()));
                return;
            }
        };
        match outcome {
            CommitOutcome::Committed(pages, touched, answers, committing) => {
                let flushed = pages.is_some() && (!without_flush || self.has_flushed_header(writer));
                self.committed(writer, pages, touched, answers, flushed);
                drop(committing);
            }
            // An error may tell what the write has read.
            CommitOutcome::Failed(answers) => self.when_answerable(Box::new(move |error| answers.send(error.as_ref()))),
            CommitOutcome::Nothing(rest) => self.queue.put_back(rest),
            CommitOutcome::Broken(error, rest) => {
                self.queue.put_back(rest);
                self.break_connection(writer, &error);
                self.tell_unknown();
            }
        }
    }

    /// Whether the next commit begins a WAL that needs no flush. SQLite flushes the header of one that begins, so that it
    /// does not take older frames for its own; that of a new database never had any. One that was emptied may have them
    /// still on the disk.
    pub(super) fn begins_without_flush(&self, writer: &Writer) -> bool {
        writer.wal.is_empty() && self.is_new()
    }

    /// Whether the header of a WAL that has just begun without a flush is on the disk as soon as the redo does not make the
    /// file any more: the flush of the file system before that brings it there, unless that has begun meanwhile.
    fn has_flushed_header(&self, writer: &Writer) -> bool {
        let path = writer.conn.as_ref().and_then(Connection::path).map(|path| wal::wal_of(Path::new(path)));
        self.is_new() || path.is_some_and(|path| flush::if_there(&path).is_ok())
    }

    fn is_new(&self) -> bool {
        self.log.as_ref().is_some_and(DatabaseLog::is_new)
    }

    /// Tells who listens that something may have been written.
    pub(super) fn tell_unknown(&self) {
        if let Some(feed) = self.feed.get() {
            feed.committed(None);
        }
    }

    /// Logs a commit that left the WAL at `pages`; its writes are answered, and who listens hears of it, when the log has
    /// it. `touched` is none if nobody listened when the transaction began. `flushes_header`: if it began the WAL, SQLite
    /// flushed the header.
    pub(super) fn committed(
        &self,
        writer: &mut Writer,
        pages: Option<u32>,
        touched: Option<Touched>,
        answers: Answers,
        flushes_header: bool,
    ) {
        #[cfg(feature = "otel")]
        let answers = if self.log.is_some() && pages.is_some() { answers.flushing() } else { answers };
        let check = self.check.clone();
        let was_empty = writer.wal.pages() == 0;
        if pages.is_some() {
            measures::COMMIT_WRITES.record((answers.writes.len() - answers.failed.len()) as u64);
        }
        // Looked up after the commit: who listens from then on reads it.
        let feed = pages.and_then(|_| self.feed.get());
        // If the files were replaced meanwhile, the commit is in files without a name.
        let answer = move |error: Option<Error>| {
            let error = error.or_else(|| check.and_then(|check| check().err()));
            if let Some(feed) = feed {
                match touched.filter(|_| error.is_none()).map(Touched::written) {
                    Some(Written::Tables(tables)) => feed.committed(Some(tables)),
                    Some(Written::Nothing) => {}
                    Some(Written::Unknown) | None => feed.committed(None),
                }
            }
            answers.send(error.as_ref());
        };
        if let Some(pages) = pages {
            writer.wal.committed(pages);
        }
        let (Some(log), Some(pages)) = (&self.log, pages) else {
            // What it saw, and answers, must be durable.
            return self.when_answerable(Box::new(answer));
        };
        let logged = writer.logged;
        let mut done: Option<Done> = {
            let failed = self.log_failed.clone();
            Some(Box::new(move |result: Result<()>| {
                failed.fetch_or(result.is_err(), Ordering::AcqRel);
                answer(result.err());
            }))
        };
        writer.previous = self.last();
        let appended = self.connection(writer).and_then(|conn| {
            let mut part = wal::appended(conn, logged, pages)?;
            if flushes_header && part.begins_after(logged, was_empty) && wal::confirm(conn).is_ok() {
                part.began = Boot::current();
            }
            self.append(log, &part, |into, at| wal::read(conn, into, at), &mut done)?;
            Ok(part.logged())
        });
        match appended {
            Ok(logged) => writer.logged = logged,
            Err(error) => {
                if let Some(done) = done {
                    done(Err(outcome_unknown().with_source(error.clone())));
                }
                self.break_connection(writer, &error);
            }
        }
    }

    /// Adds a part of the write-ahead log to the log, as several records if it is long. `done` is taken with the last.
    /// May block if it is long.
    pub(super) fn append(
        &self,
        log: &DatabaseLog,
        part: &WalPart,
        mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
        done: &mut Option<Done>,
    ) -> Result<()> {
        let (mut at, mut since) = (part.offset, 0);
        loop {
            let end = part.end.min(at + LONGEST_RECORD);
            let mut buffer = READ.take();
            let length = usize::try_from(end - at).unwrap_or_default();
            if buffer.len() < length {
                buffer.resize(length, 0);
            }
            let bytes = &mut buffer[..length];
            read(bytes, at)?;
            // What begins at 0 stands by itself: a write-ahead log restarts when all before it is in the database file.
            let continues = if at == 0 { 0 } else { self.last() };
            let last = end == part.end;
            let began = part.began.filter(|_| at == 0);
            let change = Change::Commit { offset: at, salts: part.salts, began, bytes: (&*bytes).into() };
            let seq = log.append(change, continues, if last { done.take() } else { None });
            if buffer.len() <= KEPT {
                READ.set(buffer);
            }
            self.last.store(seq, Ordering::Release);
            if last {
                return Ok(());
            }
            // Not much of it is in memory at once. If one fails, so do those that continue it.
            since += end - at;
            if since >= MOST_WAITING {
                let _ = log.log().wait_blocking(seq);
                since = 0;
            }
            at = end;
        }
    }

    /// Sends the answer of a write that changed nothing when those that it may have seen are answered.
    fn when_answerable(&self, answer: Answer) {
        match &self.log {
            None => answer(None),
            Some(log) => log.answer(self.last(), Box::new(move |result| answer(result.err()))),
        }
    }

    /// Sends an answer when every commit so far is durable.
    pub(super) fn when_durable(&self, answer: Answer) {
        match &self.log {
            None => answer(None),
            Some(log) if log.log().is_durable(self.last()) => answer(None),
            Some(log) => log.log().after(self.last(), Box::new(move |result| answer(result.err()))),
        }
    }
}

/// Runs a batch; with `without_flush`, SQLite flushes nothing.
fn commit<'g>(batch: &Batch<'_, 'g>, writes: Writes, without_flush: bool) -> CommitOutcome<'g> {
    if !without_flush {
        return batch.run(writes);
    }
    let conn = batch.conn;
    let set = |value: &str| conn.execute_batch(&format!("PRAGMA synchronous={value}")).map_err(Error::from);
    if let Err(error) = set("OFF") {
        writes.into_iter().for_each(|write| write.fail(error.clone()));
        return CommitOutcome::Broken(error, Vec::new());
    }
    let outcome = batch.run(writes);
    match set("NORMAL") {
        Ok(()) => outcome,
        // A checkpoint on this connection would not be flushed.
        Err(error) => outcome.and_broken(error),
    }
}

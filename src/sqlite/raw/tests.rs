use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;
use crate::sqlite::{
    deadline::{Cancel, Deadline},
    open::{self, Locking, Options},
    reading, wal,
};

struct Folder {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Folder {
    /// With a database that has these pages and a table.
    fn new(page_size: u32) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().canonicalize().unwrap().join("one.db");
        let made = open::scratch(&path, 64).unwrap();
        let table = "CREATE TABLE t (id INTEGER PRIMARY KEY, x); CREATE TABLE sums (rows)";
        made.execute_batch(&format!("PRAGMA page_size={page_size}; {table}; INSERT INTO sums VALUES (0)")).unwrap();
        Self { folder, path }
    }

    fn open(&self, locking: Locking) -> Connection {
        let options = Options { locking, logged: true, ..Options::default() };
        let conn = open::open(&self.path, &options, &Deadline::none()).unwrap();
        // Larger transactions write some of their pages before they end.
        conn.execute_batch("PRAGMA cache_size=10").unwrap();
        conn
    }

    /// A copy by a connection that begins to read, before `then` runs.
    fn copy(&self, conn: &Connection, then: impl FnOnce()) -> Vec<u8> {
        reading::begin_snapshot(conn).unwrap();
        then();
        let copied = self.copy_in_transaction(conn, far()).unwrap();
        reading::end_snapshot(conn).unwrap();
        copied
    }

    fn copy_in_transaction(&self, conn: &Connection, until: Instant) -> Result<Vec<u8>> {
        let file = tempfile::tempfile_in(self.folder.path()).unwrap();
        let bytes = copy(conn, &file, until)?;
        Ok(content(&file, bytes))
    }

    /// The file after a checkpoint, for which all are closed but this connection.
    fn checkpointed(&self, conn: Connection) -> Vec<u8> {
        open::close(conn).unwrap();
        std::fs::read(&self.path).unwrap()
    }
}

fn content(file: &File, bytes: u64) -> Vec<u8> {
    assert_eq!(file.metadata().unwrap().len(), bytes);
    let mut content = vec![0; usize::try_from(bytes).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

fn insert(conn: &Connection, rows: u32) {
    conn.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t (x) SELECT randomblob(900) FROM n;
         UPDATE sums SET rows = rows + {rows};
         COMMIT"
    ))
    .unwrap();
}

fn roll_back(conn: &Connection) {
    conn.execute_batch("BEGIN IMMEDIATE; UPDATE t SET x = randomblob(1000); DELETE FROM sums; ROLLBACK").unwrap();
}

/// Whether a copy is of one moment.
fn assert_whole(path: &Path) {
    let options = Options { locking: Locking::Exclusive, ..Options::default() };
    let conn = open::open(path, &options, &Deadline::none()).unwrap();
    let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let counts = "SELECT count(*), (SELECT rows FROM sums) FROM t";
    let (rows, sum): (i64, i64) = conn.query_row(counts, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!((sound.as_str(), rows), ("ok", sum));
}

#[test]
fn a_copy_is_the_file_after_a_checkpoint() {
    for page_size in [512, 4096, 65_536] {
        for locking in [Locking::Exclusive, Locking::Shared] {
            let folder = Folder::new(page_size);
            let conn = folder.open(locking);
            // An empty write-ahead log; one that has all; one whose pages the file has already.
            let empty = folder.copy(&conn, || {});
            insert(&conn, 700);
            roll_back(&conn);
            insert(&conn, 5);
            roll_back(&conn);
            let full = folder.copy(&conn, || {});
            wal::checkpoint_passive(&conn).unwrap();
            assert!(folder.copy(&conn, || {}) == full);
            // It begins anew, with older frames behind what it has.
            insert(&conn, 1);
            conn.execute_batch("DELETE FROM t WHERE id < 300; UPDATE sums SET rows = (SELECT count(*) FROM t)")
                .unwrap();
            let stale = folder.copy(&conn, || {});
            assert!(empty.len() < full.len() && stale != full);
            assert!(folder.checkpointed(conn) == stale);
            std::fs::write(&folder.path, &full).unwrap();
            assert_whole(&folder.path);
        }
    }
}

#[test]
fn a_copy_has_what_is_committed_after_its_connection_began_to_read() {
    for checkpointed in [false, true] {
        let folder = Folder::new(4096);
        let (writer, reader) = (folder.open(Locking::Shared), folder.open(Locking::Shared));
        insert(&writer, 300);
        if checkpointed {
            // The reader needs nothing of the write-ahead log, which begins anew.
            wal::checkpoint_passive(&writer).unwrap();
        }
        let copied = folder.copy(&reader, || {
            insert(&writer, 200);
            insert(&writer, 1);
            wal::checkpoint_passive(&writer).unwrap();
            insert(&writer, 2);
            roll_back(&writer);
        });
        open::abandon(reader);
        assert!(folder.checkpointed(writer) == copied);
    }
}

#[test]
fn a_write_ahead_log_that_begins_anew_meanwhile_is_read_again() {
    let folder = Folder::new(4096);
    let (writer, reader) = (folder.open(Locking::Shared), folder.open(Locking::Shared));
    insert(&writer, 300);
    insert(&writer, 1);
    wal::checkpoint_passive(&writer).unwrap();
    reading::begin_snapshot(&reader).unwrap();
    let source = Source::new(&reader, far()).unwrap();
    let file = tempfile::tempfile_in(folder.folder.path()).unwrap();
    let found = source.survey().unwrap();
    insert(&writer, 40);
    assert_eq!(source.write(&found, &file).unwrap(), None);
    let found = source.survey().unwrap();
    let bytes = source.write(&found, &file).unwrap().unwrap();
    reading::end_snapshot(&reader).unwrap();
    open::abandon(reader);
    assert!(folder.checkpointed(writer) == content(&file, bytes));
}

#[test]
fn copies_made_while_another_connection_commits_are_of_one_moment() {
    let folder = Folder::new(1024);
    let (writer, reader) = (folder.open(Locking::Shared), folder.open(Locking::Shared));
    std::thread::scope(|scope| {
        let commits = scope.spawn(move || {
            for n in 0..300 {
                insert(&writer, n % 70 + 1);
                match n % 20 {
                    7 => roll_back(&writer),
                    // It may be that a reader needs what is there.
                    13 => drop(wal::checkpoint_passive(&writer)),
                    _ => {}
                }
            }
            writer
        });
        let mut copies = 0;
        while copies < 3 || !commits.is_finished() {
            let path = folder.path.with_extension(format!("{copies}"));
            std::fs::write(&path, folder.copy(&reader, || {})).unwrap();
            assert_whole(&path);
            std::fs::remove_file(&path).unwrap();
            copies += 1;
        }
        open::abandon(commits.join().unwrap());
    });
}

#[test]
fn a_file_that_is_longer_than_its_database_is_copied_as_long_as_that_is() {
    let folder = Folder::new(4096);
    let conn = folder.open(Locking::Exclusive);
    insert(&conn, 20);
    let mut content = folder.checkpointed(conn);
    let length = content.len();
    content.extend([7; 10_000]);
    std::fs::write(&folder.path, &content).unwrap();
    let copied = folder.copy(&folder.open(Locking::Exclusive), || {});
    assert!(copied == content[..length]);
}

#[test]
fn a_database_without_a_write_ahead_log_is_its_file() {
    let folder = Folder::new(4096);
    let conn = open::scratch(&folder.path, 64).unwrap();
    conn.execute_batch("CREATE TABLE other (x)").unwrap();
    let copied = folder.copy(&conn, || {});
    drop(conn);
    assert!(std::fs::read(&folder.path).unwrap() == copied);
}

#[test]
fn a_copy_ends_when_its_time_is_over_or_somebody_needs_the_connection() {
    let folder = Folder::new(4096);
    let conn = folder.open(Locking::Exclusive);
    let kind = |until| folder.copy_in_transaction(&conn, until).unwrap_err().kind();
    assert_eq!(kind(far()), ErrorKind::Internal, "it has not begun to read");
    reading::begin_snapshot(&conn).unwrap();
    assert_eq!(kind(Instant::now()), ErrorKind::Timeout);
    let cancel = Cancel::default();
    Deadline::until(&cancel).watch(&conn).unwrap();
    folder.copy_in_transaction(&conn, far()).unwrap();
    cancel.trigger();
    assert_eq!(kind(far()), ErrorKind::Timeout);
}

use std::{os::unix::fs::FileExt, path::PathBuf};

use proptest::prelude::*;
use rusqlite::{Connection, limits::Limit};

use super::*;
use crate::sqlite::{
    deadline::Deadline,
    open::{self, Locking, Options},
    raw,
    wal::{self, Logged},
};

/// Pages in the cache of a database: larger transactions write some of theirs before they end.
const CACHE: u32 = 10;

/// A piece of a write-ahead log: its offset, the salts, the bytes.
type Piece = (u64, u64, Vec<u8>);

struct Database {
    _folder: tempfile::TempDir,
    path: PathBuf,
    conn: Connection,
    logged: Logged,
}

impl Database {
    fn new(page_size: u32) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().canonicalize().unwrap().join("one.db");
        let made = open::scratch(&path, 64).unwrap();
        made.execute_batch(&format!("PRAGMA page_size={page_size}; CREATE TABLE t (id INTEGER PRIMARY KEY, x)"))
            .unwrap();
        drop(made);
        let options = Options { locking: Locking::Exclusive, logged: true, ..Options::default() };
        let conn = open::open(&path, &options, &Deadline::none()).unwrap();
        conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1).unwrap();
        conn.execute_batch(&format!("PRAGMA cache_size={CACHE}")).unwrap();
        wal::checkpoint(&conn).unwrap();
        Self { _folder: folder, path, conn, logged: Logged::default() }
    }

    /// What this appends to the write-ahead log, if it commits something.
    fn commit(&mut self, sql: &str) -> Option<Piece> {
        let pages = wal::pages_after(|| self.conn.execute_batch(sql)).unwrap()?;
        let part = wal::appended(&self.conn, self.logged, pages).unwrap();
        let mut bytes = vec![0; usize::try_from(part.end - part.offset).unwrap()];
        wal::read(&self.conn, &mut bytes, part.offset).unwrap();
        self.logged = part.logged();
        Some((part.offset, part.salts, bytes))
    }

    /// The next commit begins the write-ahead log anew, and what stands there is behind it.
    fn checkpoint(&self) {
        wal::checkpoint_passive(&self.conn).unwrap();
    }

    /// The whole file of the write-ahead log.
    fn whole(&self) -> Option<Piece> {
        let bytes = std::fs::read(wal::wal_of(&self.path)).unwrap();
        (bytes.len() >= HEADER).then(|| (0, salts_at(&bytes, 16), bytes))
    }

    /// The same, and its write-ahead log goes on.
    fn content_so_far(&self) -> Vec<u8> {
        let copy = tempfile::tempfile().unwrap();
        let _moment = self.conn.unchecked_transaction().unwrap();
        open::touch(&self.conn).unwrap();
        let far = std::time::Instant::now() + std::time::Duration::from_secs(600);
        let mut content = vec![0; usize::try_from(raw::copy(&self.conn, &copy, far).unwrap()).unwrap()];
        copy.read_exact_at(&mut content, 0).unwrap();
        content
    }

    /// The database, with all that was committed.
    fn content(&self) -> Vec<u8> {
        wal::checkpoint(&self.conn).unwrap();
        std::fs::read(&self.path).unwrap()
    }
}

fn insert(rows: u32, bytes: u32) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t (x) SELECT randomblob({bytes}) FROM n"
    )
}

fn rolled_back(rows: u32) -> String {
    format!("BEGIN; {}; ROLLBACK", insert(rows, 3000))
}

/// What is made of a database by its transactions.
struct Copied {
    frames: Frames,
    bytes: Vec<u8>,
    transactions: usize,
}

impl Copied {
    fn of(database: &Database) -> Self {
        Self { frames: Frames::new(), bytes: database.content(), transactions: 0 }
    }

    fn read(&mut self, (offset, salts, bytes): &Piece, split: usize) -> Result<(), Gap> {
        let mut at = *offset;
        for piece in bytes.chunks(split) {
            let (copy, count) = (&mut self.bytes, &mut self.transactions);
            self.frames.read(at, *salts, piece, &mut |read: Transaction<'_>| {
                let size = read.position.page_size as usize;
                copy.resize(size * read.size_pages as usize, 0);
                for (page, image) in std::mem::take(read.pages) {
                    let start = (page as usize - 1) * size;
                    copy[start..start + size].copy_from_slice(&image);
                }
                *count += 1;
            })?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn assert_is(&self, database: &Database) {
        let content = database.content();
        assert_eq!(self.bytes.len(), content.len());
        assert!(self.bytes == content, "the copy is not the database");
    }
}

#[test]
fn what_commits_append_makes_the_same_database() {
    for (page_size, split) in [(4096, usize::MAX), (4096, 7), (4096, 5000), (512, 536), (65_536, 100_000), (1024, 32)] {
        let mut database = Database::new(page_size);
        let mut copied = Copied::of(&database);
        let statements = [
            insert(3, 10),
            insert(400, 900),
            rolled_back(300),
            "CREATE TABLE other (a TEXT, b); CREATE INDEX i ON other (a)".to_owned(),
            "BEGIN; INSERT INTO other SELECT hex(randomblob(300)), id FROM t; SAVEPOINT s; DELETE FROM t; \
             ROLLBACK TO s; UPDATE t SET x = randomblob(500) WHERE id % 3 = 0; COMMIT"
                .to_owned(),
            "DELETE FROM t WHERE id % 2 = 0".to_owned(),
            String::new(),
            insert(2, 100_000),
            "VACUUM".to_owned(),
            "DROP TABLE other".to_owned(),
            String::new(),
            insert(1, 1),
            rolled_back(100),
            "ALTER TABLE t ADD COLUMN y DEFAULT 7".to_owned(),
        ];
        let mut commits = 0;
        for sql in &statements {
            match sql.as_str() {
                "" => database.checkpoint(),
                sql => {
                    let piece = database.commit(sql);
                    commits += usize::from(piece.is_some());
                    piece.into_iter().for_each(|piece| copied.read(&piece, split).unwrap());
                }
            }
            assert!(!copied.frames.is_inside());
        }
        // Two statements of one are two transactions.
        assert_eq!((commits, copied.transactions), (10, 11));
        copied.assert_is(&database);
    }
}

#[test]
fn a_transaction_is_given_when_its_last_frame_has_come() {
    let mut database = Database::new(4096);
    let mut copied = Copied::of(&database);
    let (offset, salts, bytes) = database.commit(&insert(20, 2000)).unwrap();
    let (first, second) = bytes.split_at(bytes.len() - 1);
    copied.read(&(offset, salts, first.to_vec()), 10_000).unwrap();
    assert_eq!((copied.transactions, copied.frames.position(), copied.frames.is_inside()), (0, None, true));
    copied.read(&(first.len() as u64, salts, second.to_vec()), 1).unwrap();
    assert_eq!((copied.transactions, copied.frames.is_inside()), (1, false));
    let position = copied.frames.position().unwrap();
    assert_eq!((position.salts, position.end, position.page_size), (salts, bytes.len() as u64, 4096));
    // Others go on from there.
    copied.frames = Frames::at(position);
    copied.read(&database.commit(&insert(5, 2000)).unwrap(), 999).unwrap();
    copied.assert_is(&database);
}

#[test]
fn a_whole_file_is_read_up_to_its_last_commit_and_gives_what_was_not_given() {
    let mut database = Database::new(4096);
    database.commit(&insert(200, 2000)).unwrap();
    database.checkpoint();
    let before = std::fs::read(&database.path).unwrap();
    let copied = || Copied { frames: Frames::new(), bytes: before.clone(), transactions: 0 };
    let (mut all, mut some) = (copied(), copied());
    // Behind these are frames of the log before, and of a transaction that was rolled back.
    some.read(&database.commit(&insert(2, 10)).unwrap(), 9999).unwrap();
    database.commit(&insert(20, 3000)).unwrap();
    database.conn.execute_batch(&rolled_back(50)).unwrap();
    let whole = database.whole().unwrap();
    for split in [usize::MAX, 4096, 77] {
        let mut other = copied();
        other.read(&whole, split).unwrap();
        assert_eq!(other.transactions, 2);
        all = Copied { transactions: 0, ..other };
        all.read(&whole, split).unwrap();
        assert_eq!(all.transactions, 0, "both were given before");
    }
    some.read(&whole, 10_000).unwrap();
    assert_eq!(some.transactions, 2);
    // What SQLite writes next is written over what is behind the last commit.
    let next = database.commit(&insert(3, 100)).unwrap();
    for copied in [&mut all, &mut some] {
        assert_eq!(copied.frames.position().unwrap().end, next.0);
        copied.read(&next, 1234).unwrap();
    }
    all.assert_is(&database);
    some.assert_is(&database);
}

#[test]
fn what_does_not_continue_is_refused_until_a_beginning_comes() {
    let mut database = Database::new(4096);
    let pieces = [3, 4, 5].map(|rows| database.commit(&insert(rows, 2000)).unwrap());
    let whole = database.whole().unwrap();
    let [first, second, third] = &pieces;
    let read = |pieces: &[&Piece]| {
        let mut copied = Copied { frames: Frames::new(), bytes: Vec::new(), transactions: 0 };
        let mut last = Ok(());
        for piece in pieces {
            last = copied.read(piece, usize::MAX);
        }
        (last, copied.transactions)
    };
    let changed = |(offset, salts, bytes): &Piece, at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        (*offset, *salts, bytes)
    };
    assert_eq!(read(&[first, second, third]), (Ok(()), 3));
    assert_eq!(read(&[second]), (Err(Gap), 0));
    assert_eq!(read(&[first, third]), (Err(Gap), 1));
    assert_eq!(read(&[first, third, second]), (Err(Gap), 1), "not before a beginning");
    assert_eq!(read(&[first, third, &whole]), (Ok(()), 3));
    assert_eq!(read(&[first, &(second.0, second.1 ^ 1, second.2.clone())]), (Err(Gap), 1));
    // Frames of another write-ahead log.
    for at in [8, 15] {
        assert_eq!(read(&[first, &changed(second, at)]), (Err(Gap), 1));
    }
    // Also where what is not valid may come: what says of itself that it was committed is missed.
    for at in [4, 25, HEADER + 100, first.2.len() - 1, first.2.len() + 30] {
        let (result, transactions) = read(&[&changed(&whole, at)]);
        assert_eq!((result, transactions), (Err(Gap), usize::from(at > first.2.len())), "{at}");
    }
    // What was given is not there any more, or is another one.
    let short = (0, whole.1, [&first.2[..], &[0; 9000]].concat());
    assert_eq!(read(&[first, second, &short]), (Err(Gap), 2));
    let mut other = Database::new(4096);
    let elsewhere = other.commit(&insert(3, 2000)).unwrap();
    assert_eq!(read(&[first, &(0, whole.1, elsewhere.2.clone())]), (Err(Gap), 1));
    assert_eq!(read(&[first, &elsewhere]), (Ok(()), 2), "a write-ahead log may begin at any time");
}

#[test]
fn who_joins_goes_on_from_any_commit() {
    let mut database = Database::new(4096);
    database.commit(&insert(10, 2000)).unwrap();
    database.checkpoint();
    for begins_anew in [true, false] {
        let before = database.content_so_far();
        let missed = database.commit(&insert(7, 3000)).unwrap();
        let (offset, salts, bytes) = &missed;
        assert_eq!(*offset == 0, begins_anew);
        let mut copied = Copied { frames: Frames::joining(4096), bytes: before, transactions: 0 };
        // The end of one whose beginning was not seen.
        copied.read(&(offset + 4096, *salts, bytes[4096..].to_vec()), usize::MAX).unwrap();
        assert_eq!((copied.transactions, copied.frames.position()), (0, None));
        copied.bytes = database.content_so_far();
        for rows in [3, 40] {
            copied.read(&database.commit(&insert(rows, 1000)).unwrap(), 3000).unwrap();
        }
        assert_eq!(copied.transactions, 2);
        assert!(copied.bytes == database.content_so_far());
        let late = (offset + 4096, *salts, bytes[4096..].to_vec());
        assert_eq!(copied.read(&late, usize::MAX), Err(Gap), "only the first may be anywhere");
    }
}

#[test]
fn checksums_of_big_endian_words_are_read() {
    let mut database = Database::new(4096);
    let mut copied = Copied::of(&database);
    let (offset, salts, mut bytes) = database.commit(&insert(9, 2000)).unwrap();
    let write = |bytes: &mut [u8], sum: [u32; 2]| {
        let sum = sum.map(u32::to_be_bytes).concat();
        bytes.copy_from_slice(&sum);
    };
    bytes[3] |= 1;
    let mut sum = checksum(true, [0, 0], &bytes[..24]);
    write(&mut bytes[24..HEADER], sum);
    for frame in bytes[HEADER..].chunks_mut(FRAME_HEADER + 4096) {
        sum = checksum(true, checksum(true, sum, &frame[..8]), &frame[FRAME_HEADER..]);
        write(&mut frame[16..FRAME_HEADER], sum);
    }
    copied.read(&(offset, salts, bytes), 4000).unwrap();
    assert!(copied.frames.position().unwrap().big_endian);
    copied.assert_is(&database);
    // <https://sqlite.org/fileformat2.html#checksum_algorithm>
    assert_eq!(checksum(true, [1, 2], &[0, 0, 0, 3, 0, 0, 0, 4]), [6, 12]);
    assert_eq!(checksum(false, [1, 2], &[3, 0, 0, 0, 4, 0, 0, 0]), [6, 12]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_commits_make_the_same_database(
        steps in proptest::collection::vec((0_u8..9, 1_u32..60, 1_u32..4000), 1..25), split in 1_usize..20_000,
    ) {
        let mut database = Database::new(1024);
        let mut copied = Copied::of(&database);
        for (kind, count, size) in steps {
            let sql = match kind {
                0..=2 => insert(count, size),
                3 => format!("UPDATE t SET x = randomblob({size}) WHERE id % 7 < {}", count % 7),
                4 => format!("DELETE FROM t WHERE id % 5 = {}", count % 5),
                5 => rolled_back(count),
                6 => "VACUUM".to_owned(),
                7 => {
                    database.checkpoint();
                    continue;
                }
                _ => {
                    // As after a fault: the whole is read, and the next begins anew.
                    if let Some(whole) = database.whole() {
                        copied.read(&whole, usize::MAX).unwrap();
                        wal::checkpoint(&database.conn).unwrap();
                        database.logged = Logged::default();
                    }
                    continue;
                }
            };
            if let Some(piece) = database.commit(&sql) {
                copied.read(&piece, split).unwrap();
            }
        }
        copied.assert_is(&database);
    }
}

//! Opening a file for one connection alone, without a walk of all the files that are open.
//!
//! A POSIX lock belongs to the process, so SQLite keeps a list of all files that the process has open and
//! walks it at each open, twice, under one mutex: with 7,400 databases open that was two thirds of what a
//! cold request cost. On Linux a lock can belong to an open file description instead. So the file is opened
//! through SQLite's VFS that takes no locks and has no list, and its descriptor is locked here, on the bytes
//! that SQLite itself would lock (<https://sqlite.org/lockingv3.html>): whoever else opens the file, the
//! `sqlite3` shell among them, is told that it is locked, as ever. See decision 0007.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::error::Result;

/// Opens an existing file, with no other connection beside this one in any process. A file or file system
/// that can only be read is opened without a lock.
pub fn open(path: &Path, flags: OpenFlags) -> Result<Connection> {
    #[cfg(target_os = "linux")]
    if let Some(conn) = imp::open(path, flags)? {
        return Ok(conn);
    }
    with_sqlites_locks(path, flags)
}

/// For other systems, and for kernels that only pass for Linux's.
fn with_sqlites_locks(path: &Path, flags: OpenFlags) -> Result<Connection> {
    #[expect(clippy::disallowed_methods, reason = "this is a part of the one place")]
    let conn = Connection::open_with_flags(path, flags)?;
    if !conn.is_readonly(rusqlite::MAIN_DB)? {
        return Ok(conn);
    }
    // SQLite took what it could get: a descriptor for reading, on which no exclusive lock can be had.
    // Without locks, which the lock on the data folder makes good for, reads go on.
    let flags = flags.difference(OpenFlags::SQLITE_OPEN_READ_WRITE) | OpenFlags::SQLITE_OPEN_READ_ONLY;
    #[expect(clippy::disallowed_methods, reason = "this is a part of the one place")]
    Ok(Connection::open_with_flags_and_vfs(path, flags, c"unix-none")?)
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{
        cell::Cell,
        ffi::{CStr, c_char, c_int},
        os::fd::RawFd,
        path::Path,
        sync::OnceLock,
        time::{Duration, Instant},
    };

    use rusqlite::{Connection, MAIN_DB, OpenFlags, ffi};

    use crate::{
        error::{Error, Result},
        sqlite::open::BUSY_TIMEOUT,
    };

    const WITHOUT_LOCKS: &CStr = c"unix-none";

    /// Where SQLite's locks are, from `PENDING_BYTE` on, and how many bytes they cover with the shared ones
    /// (<https://sqlite.org/fileformat2.html#the_lock_byte_page>).
    const LOCK_BYTES: (i64, i64) = (0x4000_0000, 512);

    #[expect(clippy::cast_possible_truncation, reason = "1: the header's integers are wider than the field")]
    const FOR_WRITING: libc::c_short = libc::F_WRLCK as libc::c_short;
    #[expect(clippy::cast_possible_truncation, reason = "0, likewise")]
    const FROM_THE_START: libc::c_short = libc::SEEK_SET as libc::c_short;

    /// Between two tries at a lock that somebody else has.
    const PAUSE: Duration = Duration::from_millis(5);

    /// None if this kernel has no such locks.
    pub fn open(path: &Path, flags: OpenFlags) -> Result<Option<Connection>> {
        watch_opens()?;
        LAST_OPENED.set(None);
        #[expect(clippy::disallowed_methods, reason = "this is a part of the one place")]
        let conn = Connection::open_with_flags_and_vfs(path, flags, WITHOUT_LOCKS)?;
        // SQLite took what it could get, and a descriptor for reading cannot have this lock. The lock on
        // the data folder has to do.
        if !conn.is_readonly(MAIN_DB)? {
            let descriptor = LAST_OPENED.take().ok_or_else(|| Error::internal("SQLite opened no file"))?;
            if !lock(descriptor, BUSY_TIMEOUT)? {
                return Ok(None);
            }
        }
        Ok(Some(conn))
    }

    /// Locks what `descriptor` refers to until that is closed. `false` if this kernel cannot.
    fn lock(descriptor: RawFd, wait: Duration) -> Result<bool> {
        let until = Instant::now() + wait;
        loop {
            // SAFETY: `flock` is plain data, for which zeros are valid.
            let mut wanted: libc::flock = unsafe { std::mem::zeroed() };
            (wanted.l_type, wanted.l_whence) = (FOR_WRITING, FROM_THE_START);
            (wanted.l_start, wanted.l_len) = LOCK_BYTES;
            // SAFETY: F_OFD_SETLK reads one `flock`; a descriptor that is not open is an error and no more.
            if unsafe { libc::fcntl(descriptor, libc::F_OFD_SETLK, &raw const wanted) } == 0 {
                return Ok(true);
            }
            let error = std::io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EINVAL | libc::ENOSYS) => return Ok(false),
                Some(libc::EAGAIN | libc::EACCES) if Instant::now() < until => std::thread::sleep(PAUSE),
                Some(libc::EAGAIN | libc::EACCES) => {
                    let busy = ffi::Error::new(ffi::SQLITE_BUSY);
                    return Err(rusqlite::Error::SqliteFailure(busy, Some("database is locked".to_owned())).into());
                }
                _ => return Err(Error::io("locking a database file", error)),
            }
        }
    }

    thread_local! {
        /// The file this thread opened last through SQLite for reading and writing. Before
        /// `sqlite3_open_v2` returns that is a connection's main file and no other: logs and journals come
        /// later, and what else is opened meanwhile (`/dev/urandom`, once) is for reading.
        static LAST_OPENED: Cell<Option<RawFd>> = const { Cell::new(None) };
    }

    /// As SQLite's VFS calls `open`: with three arguments, always.
    type Open = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;

    /// What SQLite opened files with before.
    static OPEN: OnceLock<Open> = OnceLock::new();

    unsafe extern "C" fn open_and_note(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
        let Some(open) = OPEN.get() else { return -1 };
        // SAFETY: the arguments are SQLite's own, passed on to the function they were meant for.
        let descriptor = unsafe { open(path, flags, mode) };
        if descriptor >= 0 && flags & libc::O_ACCMODE == libc::O_RDWR {
            LAST_OPENED.set(Some(descriptor));
        }
        descriptor
    }

    /// Makes SQLite's VFSes tell which descriptor a file got: it has no call that asks for it. Which system
    /// calls they use is theirs to let one choose (<https://sqlite.org/c3ref/vfs.html>, `xSetSystemCall`).
    fn watch_opens() -> Result<()> {
        static DONE: once_cell::sync::OnceCell<()> = once_cell::sync::OnceCell::new();
        let missing = || Error::internal("this SQLite does not have the VFS unix-none");
        DONE.get_or_try_init(|| {
            // SAFETY: `sqlite3_vfs_find` gives null or a VFS that lives as long as the process; its methods
            // are called as declared. What "open" is now has the signature `Open`, says SQLite's os_unix.c,
            // and is called by nobody before `OPEN` is set.
            unsafe {
                ffi::sqlite3_initialize();
                let vfs = ffi::sqlite3_vfs_find(WITHOUT_LOCKS.as_ptr());
                let methods = vfs.as_ref().ok_or_else(missing)?;
                let get = methods.xGetSystemCall.ok_or_else(missing)?;
                let set = methods.xSetSystemCall.ok_or_else(missing)?;
                let before = get(vfs, c"open".as_ptr()).ok_or_else(missing)?;
                OPEN.get_or_init(|| std::mem::transmute::<unsafe extern "C" fn(), Open>(before));
                let noting = std::mem::transmute::<Open, unsafe extern "C" fn()>(open_and_note);
                match set(vfs, c"open".as_ptr(), Some(noting)) {
                    ffi::SQLITE_OK => Ok(()),
                    code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()),
                }
            }
        })
        .copied()
    }

    #[cfg(test)]
    #[expect(clippy::disallowed_methods, reason = "somebody else, who opens files in their own way")]
    mod tests {
        use std::os::fd::AsRawFd;

        use super::*;
        use crate::{error::ErrorKind, sqlite::flush};

        fn database() -> (tempfile::TempDir, std::path::PathBuf) {
            let folder = tempfile::TempDir::new().unwrap();
            let path = folder.path().canonicalize().unwrap().join("one.db");
            flush::write_new(&path, &[]).unwrap();
            (folder, path)
        }

        fn read(conn: &Connection) -> rusqlite::Result<i64> {
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        }

        #[test]
        fn a_file_that_is_open_alone_is_locked_for_everybody_else_until_it_is_closed() {
            let (_folder, path) = database();
            let alone = open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap().expect("Linux has such locks");
            alone.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; CREATE TABLE t (x)").unwrap();
            let other = Connection::open(&path).unwrap();
            other.busy_timeout(Duration::ZERO).unwrap();
            let refused = read(&other).unwrap_err();
            assert_eq!(refused.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
            // Closing another descriptor of the file gives a POSIX lock away, and not this one.
            drop(std::fs::File::open(&path).unwrap());
            read(&other).unwrap_err();
            drop(alone);
            assert_eq!(read(&other).unwrap(), 1);
        }

        #[test]
        fn without_such_locks_sqlites_own_keep_everybody_else_out() {
            let (_folder, path) = database();
            let alone = super::super::with_sqlites_locks(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
            alone.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; CREATE TABLE t (x)").unwrap();
            let other = Connection::open(&path).unwrap();
            other.busy_timeout(Duration::ZERO).unwrap();
            read(&other).unwrap_err();
        }

        #[test]
        fn a_file_that_somebody_uses_is_not_opened_beside_them() {
            let (_folder, path) = database();
            let other = Connection::open(&path).unwrap();
            other.execute_batch("CREATE TABLE t (x); BEGIN").unwrap();
            read(&other).unwrap();
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let refused = lock(file.as_raw_fd(), Duration::ZERO).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Busy);
            other.execute_batch("COMMIT").unwrap();
            assert!(lock(file.as_raw_fd(), Duration::ZERO).unwrap());
        }
    }
}

//! Opening a file for a single connection, at a cost that does not grow with the number of open files.
//!
//! A POSIX lock belongs to the process, so SQLite keeps a list of all files that the process has open and
//! walks it twice at each open, under one mutex: with 7,400 databases open that was two thirds of the cost of a
//! cold request. On Linux a lock can belong to an open file description instead. So the file is opened
//! through SQLite's VFS without locks, which has no list, and its descriptor is locked here, on the bytes
//! that SQLite itself would lock (<https://sqlite.org/lockingv3.html>): another program that opens the file, such
//! as the `sqlite3` shell, still finds it locked. See decision 0007.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use super::process::Globals;
use crate::error::Result;

/// Opens an existing file for this connection alone, waiting up to `wait` for another process's lock. A file or
/// file system that is read-only is opened without a lock.
pub(super) fn open(path: &Path, flags: OpenFlags, wait: Duration, globals: Globals) -> Result<Connection> {
    #[cfg(target_os = "linux")]
    if globals == Globals::Adjust
        && let Some(conn) = imp::open(path, flags, wait)?
    {
        return Ok(conn);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (wait, globals);
    open_with_sqlite_locks(path, flags)
}

/// For other systems, for kernels without locks of a descriptor, and where SQLite's globals are kept.
fn open_with_sqlite_locks(path: &Path, flags: OpenFlags) -> Result<Connection> {
    #[expect(clippy::disallowed_methods, reason = "called by sqlite::open alone")]
    let conn = Connection::open_with_flags(path, flags)?;
    if !conn.is_readonly(rusqlite::MAIN_DB)? {
        return Ok(conn);
    }
    // SQLite fell back to a read-only descriptor, on which no exclusive lock can be taken. Without locks reads go
    // on; the lock on the data folder keeps other servers out.
    let flags = flags.difference(OpenFlags::SQLITE_OPEN_READ_WRITE) | OpenFlags::SQLITE_OPEN_READ_ONLY;
    #[expect(clippy::disallowed_methods, reason = "called by sqlite::open alone")]
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

    use crate::error::{Error, Result};

    const VFS_WITHOUT_LOCKS: &CStr = c"unix-none";

    /// Where SQLite's locks are, from `PENDING_BYTE` on, and how many bytes they cover with the shared ones
    /// (<https://sqlite.org/fileformat2.html#the_lock_byte_page>).
    const LOCK_BYTES: (i64, i64) = (0x4000_0000, 512);

    #[expect(clippy::cast_possible_truncation, reason = "1: the header's integers are wider than the field")]
    const FOR_WRITING: libc::c_short = libc::F_WRLCK as libc::c_short;
    #[expect(clippy::cast_possible_truncation, reason = "0, likewise")]
    const FROM_THE_START: libc::c_short = libc::SEEK_SET as libc::c_short;

    /// Between two attempts at a lock that another process has.
    const PAUSE: Duration = Duration::from_millis(5);

    /// None if this kernel has no locks of a descriptor.
    pub fn open(path: &Path, flags: OpenFlags, wait: Duration) -> Result<Option<Connection>> {
        replace_open()?;
        LAST_OPENED.set(None);
        #[expect(clippy::disallowed_methods, reason = "called by sqlite::open alone")]
        let conn = Connection::open_with_flags_and_vfs(path, flags, VFS_WITHOUT_LOCKS)?;
        // A read-only descriptor cannot have this lock. The lock on the data folder has to do.
        if !conn.is_readonly(MAIN_DB)? {
            let descriptor = LAST_OPENED.take().ok_or_else(|| Error::internal("SQLite opened no file"))?;
            if !lock(descriptor, wait)? {
                return Ok(None);
            }
        }
        Ok(Some(conn))
    }

    /// Locks the file description of `descriptor` until it is closed. `false` if this kernel cannot.
    fn lock(descriptor: RawFd, wait: Duration) -> Result<bool> {
        let until = Instant::now() + wait;
        loop {
            // SAFETY: `flock` is plain data, for which zeros are valid.
            let mut wanted: libc::flock = unsafe { std::mem::zeroed() };
            (wanted.l_type, wanted.l_whence) = (FOR_WRITING, FROM_THE_START);
            (wanted.l_start, wanted.l_len) = LOCK_BYTES;
            // SAFETY: F_OFD_SETLK reads one `flock`; a descriptor that is not open is an error.
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
        /// The file that this thread opened last through SQLite for reading and writing. When
        /// `sqlite3_open_v2` returns that is the connection's main file: SQLite opens logs and journals later,
        /// and other files (`/dev/urandom`, once) for reading only.
        static LAST_OPENED: Cell<Option<RawFd>> = const { Cell::new(None) };
    }

    /// SQLite's VFS calls `open` with three arguments, always.
    type Open = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;

    /// The `open` that SQLite used before.
    static OPEN: OnceLock<Open> = OnceLock::new();

    unsafe extern "C" fn open_and_record(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
        let Some(open) = OPEN.get() else { return -1 };
        // SAFETY: the arguments are SQLite's own, passed on to the function they were meant for.
        let descriptor = unsafe { open(path, flags, mode) };
        if descriptor >= 0 && flags & libc::O_ACCMODE == libc::O_RDWR {
            LAST_OPENED.set(Some(descriptor));
        }
        descriptor
    }

    /// Replaces the `open` of SQLite's VFSes by one that records the descriptor: SQLite has no call that returns it,
    /// and lets the system calls be replaced (<https://sqlite.org/c3ref/vfs.html>, `xSetSystemCall`).
    fn replace_open() -> Result<()> {
        static DONE: once_cell::sync::OnceCell<()> = once_cell::sync::OnceCell::new();
        let missing = || Error::internal("this SQLite does not have the VFS unix-none");
        DONE.get_or_try_init(|| {
            // SAFETY: `sqlite3_vfs_find` returns null or a VFS that lives as long as the process; its methods
            // are called as declared. Its "open" has the signature `Open` (SQLite's os_unix.c), and the
            // replacement is installed after `OPEN` is set.
            unsafe {
                ffi::sqlite3_initialize();
                let vfs = ffi::sqlite3_vfs_find(VFS_WITHOUT_LOCKS.as_ptr());
                let methods = vfs.as_ref().ok_or_else(missing)?;
                let get = methods.xGetSystemCall.ok_or_else(missing)?;
                let set = methods.xSetSystemCall.ok_or_else(missing)?;
                let before = get(vfs, c"open".as_ptr()).ok_or_else(missing)?;
                OPEN.get_or_init(|| std::mem::transmute::<unsafe extern "C" fn(), Open>(before));
                let replacement = std::mem::transmute::<Open, unsafe extern "C" fn()>(open_and_record);
                match set(vfs, c"open".as_ptr(), Some(replacement)) {
                    ffi::SQLITE_OK => Ok(()),
                    code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()),
                }
            }
        })
        .copied()
    }

    #[cfg(test)]
    #[expect(clippy::disallowed_methods, reason = "another program, which opens files as it likes")]
    mod tests {
        use std::os::fd::AsRawFd;

        use super::*;
        use crate::{
            error::ErrorKind,
            sqlite::{
                flush,
                process::{self, Globals},
            },
        };

        const WAIT: Duration = Duration::from_secs(5);

        fn database() -> (tempfile::TempDir, std::path::PathBuf) {
            // As every other test: what is decided for the process comes first.
            process::globals().unwrap();
            let folder = tempfile::TempDir::new().unwrap();
            let path = folder.path().canonicalize().unwrap().join("one.db");
            flush::write_new(&path, &[]).unwrap();
            (folder, path)
        }

        fn read(conn: &Connection) -> rusqlite::Result<i64> {
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        }

        #[test]
        fn an_exclusive_file_is_locked_for_other_programs_until_it_is_closed() {
            for globals in [Globals::Adjust, Globals::Keep] {
                let (_folder, path) = database();
                let exclusive = super::super::open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE, WAIT, globals).unwrap();
                exclusive
                    .execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; CREATE TABLE t (x)")
                    .unwrap();
                let other = Connection::open(&path).unwrap();
                other.busy_timeout(Duration::ZERO).unwrap();
                let refused = read(&other).unwrap_err();
                assert_eq!(refused.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
                if globals == Globals::Adjust {
                    // Closing another descriptor of the file drops a POSIX lock, and not this one.
                    drop(std::fs::File::open(&path).unwrap());
                    read(&other).unwrap_err();
                }
                drop(exclusive);
                assert_eq!(read(&other).unwrap(), 1);
            }
        }

        #[test]
        fn a_file_in_use_cannot_be_locked() {
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

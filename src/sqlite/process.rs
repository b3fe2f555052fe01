//! What SQLite shares in a whole process, and whether this crate may change it.

use std::sync::OnceLock;

use rusqlite::ffi;

use super::memory;
use crate::error::{Error, Result};

/// The oldest SQLite that may be linked: 3.51.3 fixed a WAL-reset race that could corrupt a
/// database, present since 3.7.0 (<https://sqlite.org/wal.html>).
const OLDEST_SQLITE: i32 = 3_051_003;

/// Whether SQLite's process-wide settings are changed. It is decided once a process, by [`init`] or else by the
/// first database that is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Globals {
    /// Three things are changed, for all users of SQLite in the process:
    /// - an allocator that counts is put under SQLite's own (`SQLITE_CONFIG_MALLOC`), so that a statement of a
    ///   [guest](super::guest) has a budget of memory;
    /// - memory statistics are off (`SQLITE_CONFIG_MEMSTATUS`), which saves a mutex at each allocation;
    /// - on Linux, the `open` of the VFSes of the `unix` family (`xSetSystemCall`) also records the descriptor
    ///   that it returns. So a file that one connection has for itself is locked by its descriptor, and opening
    ///   it does not cost more the more files are open (decision 0007).
    #[default]
    Adjust,
    /// Nothing is changed. SQLite locks the files itself: beside 7,400 open databases a cold request costs 600 to
    /// 860 µs instead of 230 to 260. Statements of [guests](super::guest) have no budget of memory, so SQL
    /// over HTTP does not start.
    Keep,
}

static GLOBALS: OnceLock<Globals> = OnceLock::new();

/// Decides whether SQLite's process-wide settings are changed. For a process in which others use SQLite, too:
/// call it before the first database is opened, since SQLite refuses global settings after that.
///
/// ```standalone_crate
/// # use cubby::rusqlite::ffi;
/// use cubby::sqlite::{open, process::{self, Globals}};
///
/// # unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 1) };
/// process::init(Globals::Keep)?;
/// let conn = open::in_memory()?;
/// # assert!(unsafe { ffi::sqlite3_memory_used() } > 0);
/// // It was decided above.
/// assert!(process::init(Globals::Adjust).is_err());
/// # drop(conn);
/// # Ok::<_, cubby::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) if it was decided otherwise before, or if the linked SQLite has a
/// known corruption bug.
pub fn init(globals: Globals) -> Result<()> {
    let decided = decide(globals)?;
    if decided == globals {
        return Ok(());
    }
    let was = if decided == Globals::Adjust { "changed" } else { "left alone" };
    Err(Error::config(format!("SQLite's process-wide settings were {was} already, and that cannot be taken back")))
}

/// What was decided; the default if nothing was.
pub(super) fn globals() -> Result<Globals> {
    decide(Globals::default())
}

fn decide(globals: Globals) -> Result<Globals> {
    let decided = *GLOBALS.get_or_init(|| {
        if globals == Globals::Adjust {
            // SAFETY: `OnceLock` keeps other threads out, and this crate opens no connection before; where another
            // user of SQLite did, SQLite refuses the call and changes nothing. The variadic argument of MEMSTATUS
            // is one int.
            unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0) };
            memory::install();
        }
        globals
    });
    if rusqlite::version_number() >= OLDEST_SQLITE {
        return Ok(decided);
    }
    Err(Error::config(format!(
        "linked with SQLite {}, which can corrupt a database when its write-ahead log is reset; 3.51.3 or later is \
         needed. Build with the bundled one.",
        rusqlite::version()
    )))
}

//! A budget of SQLite's memory for the calling thread.
//!
//! A statement of a kilobyte can take gigabytes before its first row, while SQLite prepares it: no deadline and no
//! interrupt is looked at then. SQLite's own heap limit is for the whole process, so that one caller's statement would
//! fail another's. Here an allocator under SQLite's counts what a thread takes while `limited` runs on it, and has
//! nothing to give over the budget: SQLite then reports `SQLITE_NOMEM`, as it does when memory is out.
//!
//! Outside of `limited` it costs a look at a thread-local for each allocation.

use std::{
    cell::Cell,
    ffi::{c_int, c_void},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::ffi::{self, sqlite3_mem_methods};

/// What this thread may still take.
#[derive(Clone, Copy)]
struct Budget {
    /// In bytes; freed memory that was taken before the budget began counts, too.
    left: i64,
    exceeded: bool,
}

thread_local! {
    static BUDGET: Cell<Option<Budget>> = const { Cell::new(None) };
}

/// SQLite's own allocator, which this one asks.
static INNER: OnceLock<Inner> = OnceLock::new();

/// Whether SQLite took this allocator.
static LIMITED: AtomicBool = AtomicBool::new(false);

struct Inner {
    malloc: unsafe extern "C" fn(c_int) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    realloc: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
    size: unsafe extern "C" fn(*mut c_void) -> c_int,
}

/// Puts the allocator under SQLite. To be called before any other use of SQLite in the process; else SQLite refuses,
/// and there are no budgets.
pub(super) fn install() {
    // SAFETY: an all-zero `sqlite3_mem_methods` is valid, its functions are optional; GETMALLOC and MALLOC take a pointer
    // to one, which SQLite fills or copies (<https://sqlite.org/c3ref/c_config_covering_index_scan.html>).
    unsafe {
        let mut methods: sqlite3_mem_methods = std::mem::zeroed();
        if ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods) != ffi::SQLITE_OK {
            return;
        }
        let (Some(malloc), Some(free), Some(realloc), Some(size)) =
            (methods.xMalloc, methods.xFree, methods.xRealloc, methods.xSize)
        else {
            return;
        };
        if INNER.set(Inner { malloc, free, realloc, size }).is_ok() {
            methods.xMalloc = Some(allocate);
            methods.xFree = Some(release);
            methods.xRealloc = Some(reallocate);
            let code = ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods);
            LIMITED.store(code == ffi::SQLITE_OK, Ordering::Release);
        }
    }
}

/// Runs `work`, in which SQLite may take `bytes` of memory on this thread beyond what it has. The budget of an outer call
/// is not counted meanwhile.
pub(super) fn limited<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let left = i64::try_from(bytes).unwrap_or(i64::MAX);
    with_budget(Some(Budget { left, exceeded: false }), work)
}

/// Runs `work` without the budget of an outer call.
pub(super) fn unlimited<T>(work: impl FnOnce() -> T) -> T {
    with_budget(None, work)
}

fn with_budget<T>(budget: Option<Budget>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Budget>);
    impl Drop for Restore {
        fn drop(&mut self) {
            BUDGET.set(self.0);
        }
    }
    let _restore = Restore(BUDGET.replace(budget));
    work()
}

/// What is left of the budget of this thread, in bytes; none if it has none.
pub(super) fn left() -> Option<i64> {
    BUDGET.get().map(|budget| budget.left)
}

/// Whether SQLite asked for more than the budget since this was last asked.
pub(super) fn take_exceeded() -> bool {
    let budget = BUDGET.get();
    BUDGET.set(budget.map(|budget| Budget { exceeded: false, ..budget }));
    budget.is_some_and(|budget| budget.exceeded)
}

/// The same, and it is still so when asked again.
pub(super) fn has_exceeded() -> bool {
    BUDGET.get().is_some_and(|budget| budget.exceeded)
}

/// Whether there are budgets in this process: not with [`Globals::Keep`](super::process::Globals::Keep), nor if others
/// have used SQLite before.
pub fn is_limited() -> bool {
    LIMITED.load(Ordering::Acquire)
}

/// Takes `bytes` from the budget, if there are as many.
fn take(budget: Budget, bytes: i64) -> bool {
    let left = budget.left.saturating_sub(bytes);
    let fits = bytes <= 0 || left >= 0;
    BUDGET.set(Some(if fits { Budget { left, ..budget } } else { Budget { exceeded: true, ..budget } }));
    fits
}

unsafe extern "C" fn allocate(bytes: c_int) -> *mut c_void {
    let Some(inner) = INNER.get() else { return std::ptr::null_mut() };
    let Some(budget) = BUDGET.get() else {
        // SAFETY: as SQLite called this one.
        return unsafe { (inner.malloc)(bytes) };
    };
    if i64::from(bytes) > budget.left {
        BUDGET.set(Some(Budget { exceeded: true, ..budget }));
        return std::ptr::null_mut();
    }
    // SAFETY: as SQLite called this one; its own `xSize` of what it gave.
    unsafe {
        let memory = (inner.malloc)(bytes);
        if !memory.is_null() {
            // Its real size, which is what is given back.
            BUDGET.set(Some(Budget { left: budget.left - i64::from((inner.size)(memory)), ..budget }));
        }
        memory
    }
}

unsafe extern "C" fn release(memory: *mut c_void) {
    let Some(inner) = INNER.get() else { return };
    if memory.is_null() {
        return;
    }
    // SAFETY: as SQLite called this one: `memory` was given by this allocator.
    unsafe {
        if let Some(budget) = BUDGET.get() {
            take(budget, -i64::from((inner.size)(memory)));
        }
        (inner.free)(memory);
    }
}

unsafe extern "C" fn reallocate(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(inner) = INNER.get() else { return std::ptr::null_mut() };
    // SAFETY: as SQLite called this one: `memory` was given by this allocator and is not null.
    unsafe {
        let Some(budget) = BUDGET.get() else { return (inner.realloc)(memory, bytes) };
        let more = i64::from(bytes) - i64::from((inner.size)(memory));
        if !take(budget, more) {
            return std::ptr::null_mut();
        }
        let moved = (inner.realloc)(memory, bytes);
        if moved.is_null() {
            BUDGET.set(Some(budget));
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open;

    #[test]
    fn a_thread_without_a_budget_is_not_limited_by_another() {
        let conn = open::in_memory().unwrap();
        assert!(is_limited());
        let length = |conn: &rusqlite::Connection| {
            conn.query_row("SELECT length(zeroblob(5000000)||'')", [], |r| r.get::<_, i64>(0))
        };
        limited(1 << 20, || {
            let error = length(&conn).unwrap_err();
            assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::OutOfMemory));
            assert!(take_exceeded() && !take_exceeded());
            std::thread::scope(|scope| {
                scope.spawn(|| length(&open::in_memory().unwrap()).unwrap());
            });
        });
        length(&conn).unwrap();
    }

    #[test]
    fn what_is_given_back_may_be_taken_again() {
        let conn = open::in_memory().unwrap();
        limited(2 << 20, || {
            for _ in 0..100 {
                conn.query_row("SELECT length(randomblob(500000))", [], |_| Ok(())).unwrap();
            }
        });
    }
}

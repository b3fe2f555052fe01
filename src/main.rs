//! The `cubby` binary; see [`cubby::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    keep_freed_memory();
    cubby::cli::main()
}

/// Opening and closing a database allocates and frees some hundred kilobytes. By default glibc returns them
/// to the kernel each time, which costs a cold request several system calls and page faults. Memory that is
/// freed in one arena is not available in another, so there are two arenas a core: that takes two thirds of
/// the memory, and a single arena made threads wait for a tenth of a cold request. (mimalloc keeps freed
/// memory too, at three times the memory with a thousand databases open.)
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const TRIM_THRESHOLD: libc::c_int = 8 << 20;
        const TOP_PAD: libc::c_int = 1 << 20;
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let arenas = libc::c_int::try_from(2 * cores).unwrap_or(4);
        // SAFETY: mallopt takes two plain ints and is called before any other thread exists, as glibc
        // requires. If it fails, nothing changes.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
            libc::mallopt(libc::M_TOP_PAD, TOP_PAD);
            libc::mallopt(libc::M_ARENA_MAX, arenas);
        }
    }
}

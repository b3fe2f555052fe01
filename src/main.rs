//! The `cubby` binary; see [`cubby::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    keep_freed_memory_at_hand();
    cubby::cli::main()
}

/// Opening and closing a database takes and frees some hundred kilobytes. By default glibc gives
/// them back to the kernel each time, which costs a cold request several system calls and page
/// faults. And with an arena for each of many threads, what one frees is of no use to the others: two
/// arenas a core are enough, at two thirds of the memory, where one made threads wait for each other at a
/// tenth of a cold request. (mimalloc avoids the first too, at three
/// times the memory with a thousand databases open.)
fn keep_freed_memory_at_hand() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const TRIM_THRESHOLD: libc::c_int = 8 << 20;
        const TOP_PAD: libc::c_int = 1 << 20;
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let arenas = libc::c_int::try_from(2 * cores).unwrap_or(4);
        // SAFETY: mallopt takes two plain ints and is called before any other thread exists, which
        // is what glibc asks for. A refusal changes nothing.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
            libc::mallopt(libc::M_TOP_PAD, TOP_PAD);
            libc::mallopt(libc::M_ARENA_MAX, arenas);
        }
    }
}

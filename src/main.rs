//! The `cubby` binary; see [`cubby::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    keep_freed_memory_at_hand();
    cubby::cli::main()
}

/// Opening and closing a database takes and frees some hundred kilobytes. By default glibc gives
/// them back to the kernel each time, which costs a cold request several system calls and page
/// faults. (mimalloc avoids that too, at three times the memory with a thousand databases open.)
fn keep_freed_memory_at_hand() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const TRIM_THRESHOLD: libc::c_int = 8 << 20;
        const TOP_PAD: libc::c_int = 1 << 20;
        // SAFETY: mallopt takes two plain ints and is called before any other thread exists, which
        // is what glibc asks for. A refusal changes nothing.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
            libc::mallopt(libc::M_TOP_PAD, TOP_PAD);
        }
    }
}

//! Runs a program and kills it right before the n-th of its system calls that change a folder.
//!
//! Of all threads together: what strace counts for an injection are the calls of each thread apart, and
//! a command does its work on several. Every traced call stops the program before it is done, so the
//! list of an undisturbed run and the count of the next are of the same calls. Calls that flush are none
//! of them: what a killed process has written stays in the kernel's memory, flushed or not.

use std::{
    ffi::CString,
    io::Error,
    os::unix::{fs::FileExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{ChildStderr, Command},
    sync::atomic::{AtomicBool, Ordering},
};

/// How an error starts where the system does not let programs be traced.
pub const REFUSED: &str = "programs cannot be traced here";

/// What became of the program.
#[derive(Debug)]
pub struct Traced {
    /// Every call that changed the folder, or was about to when the program was killed.
    pub calls: Vec<String>,
    pub killed: bool,
    /// Its exit code, if it ended by itself.
    pub code: Option<i32>,
}

/// The calls that are stopped at. Which of them change something is decided by their arguments.
fn traced() -> Vec<i64> {
    let mut calls = vec![
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_pwrite64,
        libc::SYS_pwritev,
        libc::SYS_pwritev2,
        libc::SYS_ftruncate,
        libc::SYS_truncate,
        libc::SYS_fallocate,
        libc::SYS_copy_file_range,
        libc::SYS_sendfile,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_utimensat,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        libc::SYS_open,
        libc::SYS_creat,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_unlink,
        libc::SYS_rename,
        libc::SYS_link,
        libc::SYS_symlink,
    ]);
    calls
}

/// Stops at those calls and lets all others pass (seccomp_data starts with the call's number).
fn filter() -> Vec<libc::sock_filter> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for call in traced() {
        program.push(libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: call as u32,
        });
        program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_TRACE));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    program
}

/// Runs `command` until it ends or is about to make call number `kill_at`, counted from one while `armed`
/// is set. `started` is told of its process id and given what it says on standard error.
pub fn run(
    command: &mut Command,
    folder: &Path,
    armed: &AtomicBool,
    kill_at: Option<usize>,
    started: impl FnOnce(i32, Option<ChildStderr>),
) -> Result<Traced, String> {
    let program = filter();
    let prepare = move || {
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: both calls take plain numbers, and the kernel copies the filter, which outlives the call.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) == 0
        };
        if done { Ok(()) } else { Err(Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
    let mut child = unsafe { command.pre_exec(prepare) }.spawn().map_err(|e| format!("{REFUSED}: {e}"))?;
    let main = i32::try_from(child.id()).unwrap();
    let mut options = None;
    let mut started = Some(started);
    let mut traced = Traced { calls: Vec::new(), killed: false, code: None };
    loop {
        let mut status = 0;
        // Of this thread's children alone: other threads trace their own.
        // SAFETY: the kernel writes one int.
        let stopped = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if stopped < 0 {
            match Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => continue,
                _ => return Err(format!("the traced program went away: {}", Error::last_os_error())),
            }
        }
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            if stopped == main {
                traced.code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
                return Ok(traced);
            }
            continue;
        }
        if options.is_none() {
            // The first stop is that of exec.
            let wanted = libc::PTRACE_O_TRACESECCOMP
                | libc::PTRACE_O_TRACECLONE
                | libc::PTRACE_O_TRACEFORK
                | libc::PTRACE_O_TRACEVFORK
                | libc::PTRACE_O_TRACEEXEC
                | libc::PTRACE_O_EXITKILL;
            // SAFETY: plain numbers.
            options = Some(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, main, 0, wanted) });
            if let Some(started) = started.take() {
                started(main, child.stderr.take());
            }
        }
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        let mut deliver = 0;
        if event == libc::PTRACE_EVENT_SECCOMP {
            if armed.load(Ordering::SeqCst)
                && !traced.killed
                && let Some(call) = change(stopped, folder)
            {
                traced.calls.push(call);
                if kill_at == Some(traced.calls.len()) {
                    traced.killed = true;
                    // A call that is stopped at is skipped by a process that is being killed.
                    // SAFETY: plain numbers.
                    unsafe { libc::kill(main, libc::SIGKILL) };
                }
            }
        } else if event == 0 && signal != libc::SIGTRAP && signal != libc::SIGSTOP {
            deliver = signal;
        }
        // It may be gone already.
        // SAFETY: plain numbers.
        unsafe { libc::ptrace(libc::PTRACE_CONT, stopped, 0, deliver) };
    }
}

/// The call a thread is stopped at, if it changes something in `folder`.
fn change(thread: i32, folder: &Path) -> Option<String> {
    // SAFETY: plain data, for which zeros are valid.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most as many bytes as it is told the struct has.
    let got = unsafe {
        libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size_of::<libc::ptrace_syscall_info>(), &raw mut info)
    };
    if got <= 0 || info.op != libc::PTRACE_SYSCALL_INFO_SECCOMP {
        return None;
    }
    // SAFETY: `op` says which of the union's structs was written.
    let (number, args) = unsafe { (info.u.seccomp.nr as i64, info.u.seccomp.args) };
    let of_descriptor = |name: &str, at: usize| {
        let link = format!("/proc/{thread}/fd/{}", args[at] as i32);
        inside(folder, &std::fs::read_link(link).ok()?).map(|file| format!("{name} {file}"))
    };
    let path = |at: usize| string(thread, args[at]);
    let path_at = |at: usize| {
        let path = string(thread, args[at + 1])?;
        if path.is_absolute() {
            return Some(path);
        }
        let base = match args[at] as i32 {
            libc::AT_FDCWD => std::fs::read_link(format!("/proc/{thread}/cwd")).ok()?,
            descriptor => std::fs::read_link(format!("/proc/{thread}/fd/{descriptor}")).ok()?,
        };
        Some(base.join(path))
    };
    // What would fail or change nothing is no change: a folder that is there is not made again.
    let existing = |name: &str, path: Option<PathBuf>| {
        let path = path.filter(|path| path.symlink_metadata().is_ok())?;
        inside(folder, &path).map(|file| format!("{name} {file}"))
    };
    let new = |name: &str, path: Option<PathBuf>| {
        let path = path.filter(|path| path.symlink_metadata().is_err())?;
        inside(folder, &path).map(|file| format!("{name} {file}"))
    };
    let moved = |name: &str, from: Option<PathBuf>, to: Option<PathBuf>| {
        let from = from.filter(|path| path.exists())?;
        let to = to?;
        Some(format!("{name} {} -> {}", inside(folder, &from)?, inside(folder, &to)?))
    };
    let opened = |path: Option<PathBuf>, flags: i32| {
        let path = path?;
        match path.symlink_metadata() {
            Err(_) if flags & libc::O_CREAT != 0 => new("create", Some(path)),
            Ok(found) if flags & libc::O_TRUNC != 0 && found.len() > 0 => existing("open+truncate", Some(path)),
            _ => None,
        }
    };
    match number {
        libc::SYS_write => of_descriptor("write", 0),
        libc::SYS_writev => of_descriptor("writev", 0),
        libc::SYS_pwrite64 => of_descriptor("pwrite64", 0),
        libc::SYS_pwritev | libc::SYS_pwritev2 => of_descriptor("pwritev", 0),
        libc::SYS_ftruncate => of_descriptor("ftruncate", 0),
        libc::SYS_fallocate => of_descriptor("fallocate", 0),
        libc::SYS_sendfile => of_descriptor("sendfile", 0),
        libc::SYS_copy_file_range => of_descriptor("copy_file_range", 2),
        libc::SYS_truncate => existing("truncate", path(0)),
        libc::SYS_openat => opened(path_at(0), args[2] as i32),
        // Its flags are in memory; a file that is not there is likely about to be made.
        libc::SYS_openat2 => new("openat2", path_at(0)),
        libc::SYS_mkdirat => new("mkdirat", path_at(0)),
        libc::SYS_unlinkat => existing("unlinkat", path_at(0)),
        libc::SYS_utimensat => existing("utimensat", path_at(0)),
        libc::SYS_renameat | libc::SYS_renameat2 => moved("rename", path_at(0), path_at(2)),
        libc::SYS_linkat => moved("link", path_at(0), path_at(2)),
        libc::SYS_symlinkat => new("symlinkat", path_at(1)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => opened(path(0), args[1] as i32),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => opened(path(0), libc::O_CREAT | libc::O_TRUNC),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => new("mkdir", path(0)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rmdir => existing("rmdir", path(0)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => existing("unlink", path(0)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => moved("rename", path(0), path(1)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link => moved("link", path(0), path(1)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_symlink => new("symlink", path(1)),
        _ => None,
    }
}

/// A path as it is called in the folder. The lock holds nothing but the name of its holder, and the
/// index of a log is made anew by whoever opens the file.
fn inside(folder: &Path, path: &Path) -> Option<String> {
    let name = path.strip_prefix(folder).ok()?.to_str()?;
    (name != "cubby.lock" && !name.ends_with("-shm")).then(|| name.to_owned())
}

/// A string in another process.
fn string(thread: i32, address: u64) -> Option<PathBuf> {
    let memory = std::fs::File::open(format!("/proc/{thread}/mem")).ok()?;
    let mut bytes = vec![0; 4096];
    // The page after it may not be there.
    let got = memory.read_at(&mut bytes, address).or_else(|_| {
        let left = 4096 - (address % 4096) as usize;
        memory.read_at(&mut bytes[..left], address)
    });
    bytes.truncate(got.ok()?);
    let end = bytes.iter().position(|byte| *byte == 0)?;
    CString::new(&bytes[..end]).ok()?.into_string().ok().map(PathBuf::from)
}

/// SIGKILL.
pub fn kill(process: i32) {
    // SAFETY: plain numbers; it may be gone already.
    unsafe { libc::kill(process, libc::SIGKILL) };
}

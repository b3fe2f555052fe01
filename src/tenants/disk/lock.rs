//! One process for a data folder.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::OFlags;

use crate::error::{Error, ErrorKind, Result};

/// A lock on `cubby.lock`. The kernel releases it when the process ends, also by a crash.
///
/// Without it, a second process would find open tenants' files locked, and could purge or migrate files that the first
/// one has just moved.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`ErrorKind::FolderLocked`] if another process has it; the message says which.
    pub fn take(path: &Path) -> Result<Self> {
        let failed = |e| Error::io(path.display(), e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Not through a symbolic link: its target would be truncated.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .map_err(failed)?;
        let names = std::os::unix::fs::MetadataExt::nlink(&file.metadata().map_err(failed)?);
        if names > 1 {
            return Err(Error::config(format!(
                "{} has a second name (a hard link), whose file would be overwritten",
                path.display()
            )));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file).unwrap_or_else(|| "another process".to_owned());
                return Err(Error::new(
                    ErrorKind::FolderLocked,
                    format!(
                        "the data folder {} is in use by {holder}. Stop that process first, or choose another folder \
                         with --data ({} is locked)",
                        path.parent().unwrap_or(path).display(),
                        path.display()
                    ),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "process {} ({}) since {now}", std::process::id(), command()))
            .map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing is not enough: a child process that was just forked shares the descriptor, and the lock,
        // until it executes its own program.
        if let Err(error) = self.file.unlock() {
            tracing::warn!(error = %error, "the data folder's lock is released only when this process ends");
        }
    }
}

/// The program and its subcommand. No more of the command line: there may be secrets in it.
fn command() -> String {
    let mut arguments = std::env::args();
    let program = arguments.next().unwrap_or_default();
    match arguments.next().filter(|word| word.bytes().all(|b| b.is_ascii_lowercase())) {
        Some(subcommand) => format!("{program} {subcommand}"),
        None => program,
    }
}

/// The line that the holder wrote. It takes the lock first: until it has written, the file is empty or has the line of
/// an earlier process. Only for the error message.
fn holder(file: &mut File) -> Option<String> {
    const TRIES: u32 = 50;
    for _ in 0..TRIES {
        let mut line = String::new();
        file.rewind().ok()?;
        file.read_to_string(&mut line).ok()?;
        let process = line.strip_prefix("process ").and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
        if line.ends_with('\n') && process.is_some_and(is_running) {
            return Some(line.trim().to_owned());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    None
}

fn is_running(process: u32) -> bool {
    // Without /proc the line is taken as right.
    !Path::new("/proc/self").exists() || Path::new("/proc").join(process.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_released_even_if_a_child_process_has_its_descriptor() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("cubby.lock");
        let lock = FolderLock::take(&path).unwrap();
        let _childs = lock.file.try_clone().unwrap();
        assert_eq!(FolderLock::take(&path).unwrap_err().kind(), ErrorKind::FolderLocked);
        drop(lock);
        FolderLock::take(&path).unwrap();
    }
}

//! Durable changes of files and folders, and checks that a flush reported as done reached the disk.
//!
//! ext4 can return 0 from `fsync` for data that it has just lost. After an error it first aborts its journal, then
//! writes its superblock, and only then marks itself as failed. In those milliseconds an `fsync` that does not find
//! its transaction takes it for a committed one; but the file's new length and the place of its new blocks were in
//! that transaction only (`ext4_sync_file`, `jbd2_complete_transaction` and `ext4_handle_error` of Linux 6.18).
//!
//! An operation that starts a transaction of that journal does fail. So after a flush that could be affected,
//! [`confirm`] starts one. See decision 0008.

use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::{Error, ErrorKind, Result};

/// Checks that the file system of `path`, a file or folder that was just flushed, had not aborted its journal
/// before the flush. Costs a microsecond; on file systems other than ext4, one `statfs`.
///
/// # Errors
/// It had: what was flushed may be lost, although the flush returned 0.
pub fn confirm(path: &Path) -> Result<()> {
    imp::confirm(path).map_err(|e| Error::io(path.display(), e.into()))
}

/// Creates a file readable by this user alone and makes its content durable. An older
/// file of that name, left by a crash, is replaced.
pub fn write_new(path: &Path, content: &[u8]) -> Result<()> {
    create(path, content).and_then(|file| file.sync_all()).map_err(|e| Error::io(path.display(), e))
}

/// [`write_new`] without making it durable.
pub fn write_unflushed(path: &Path, content: &[u8]) -> Result<()> {
    create(path, content).map(drop).map_err(|e| Error::io(path.display(), e))
}

fn create(path: &Path, content: &[u8]) -> std::io::Result<std::fs::File> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    // Removed first and never written through: it may be a link to another file.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    Ok(file)
}

/// Renames a file without replacing another.
///
/// # Errors
/// [`ErrorKind::Conflict`] if `to` exists: nothing was renamed.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(already_exists(to)),
        Err(error) => Err(Error::io(from.display(), error.into())),
    }
}

/// The error for a path that must be free and is not.
pub(crate) fn already_exists(path: &Path) -> Error {
    let why = format!("{} is there already, and nothing replaces it; look at it and move it away", path.display());
    Error::new(ErrorKind::Conflict, why)
}

/// Flushes a folder's entries: a rename survives a power cut only after this.
pub fn sync_folder(path: &Path) -> Result<()> {
    #[cfg(test)]
    failing::look(path)?;
    std::fs::File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::io(path.display(), e))?;
    confirm(path)
}

/// Flushes of folders that fail, for tests.
#[cfg(test)]
pub mod failing {
    use std::path::{Path, PathBuf};

    use parking_lot::Mutex;

    use crate::error::{Error, ErrorKind, Result};

    static FAILS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    /// Lets each flush of this folder fail from now on.
    pub fn begin(folder: &Path) {
        FAILS.lock().push(folder.to_owned());
    }

    /// Ends that.
    pub fn end(folder: &Path) {
        FAILS.lock().retain(|fails| fails != folder);
    }

    pub(super) fn look(folder: &Path) -> Result<()> {
        match FAILS.lock().iter().any(|fails| fails == folder) {
            true => Err(Error::new(ErrorKind::Unavailable, "the flush fails, as the test asks")),
            false => Ok(()),
        }
    }
}

/// Removes a file, if it is there, for good.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(path.display(), error)),
        Ok(()) => sync_folder(path.parent().unwrap_or(path)),
    }
}

/// Flushes a file, if there is one.
pub fn if_there(path: &Path) -> Result<()> {
    open_if_there(path)?.map_or(Ok(()), |file| opened(&file, path))
}

/// Opens a file for reading. A link is an error, and a named pipe is not waited for.
pub(super) fn open_plainly(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    std::fs::OpenOptions::new().read(true).custom_flags(i32::try_from(flags.bits()).unwrap_or(0)).open(path)
}

/// Opens a plain file to flush it; none if there is none.
pub fn open_if_there(path: &Path) -> Result<Option<std::fs::File>> {
    let opened = open_plainly(path).and_then(|file| match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("is no plain file")),
    });
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path.display(), error)),
    }
}

/// Flushes an open file.
pub fn opened(file: &std::fs::File, path: &Path) -> Result<()> {
    file.sync_all().map_err(|e| Error::io(path.display(), e))?;
    confirm(path)
}

/// Flushes everything that was written to the file system of `folder`, by a descriptor of it. Reports errors since Linux
/// 5.8, those since the descriptor was opened.
///
/// # Errors
/// Something was not written: it is unknown what, and a later call does not report it again.
pub fn file_system_of(opened: &std::fs::File, folder: &Path) -> Result<()> {
    imp::flush_file_system(opened).map_err(|e| Error::io(folder.display(), e))?;
    confirm(folder)
}

#[cfg(target_os = "linux")]
mod imp {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, statfs, utimensat};

    /// `EXT4_SUPER_MAGIC`, which ext2 and ext3 have too (linux/magic.h).
    const EXT4: i64 = 0xEF53;

    pub fn flush_file_system(file: &std::fs::File) -> std::io::Result<()> {
        Ok(rustix::fs::syncfs(file)?)
    }

    pub fn confirm(path: &std::path::Path) -> rustix::io::Result<()> {
        #[allow(
            clippy::useless_conversion,
            clippy::unnecessary_fallible_conversions,
            reason = "the field has another width and sign elsewhere"
        )]
        if i64::try_from(statfs(path)?.f_type) != Ok(EXT4) {
            return Ok(());
        }
        // Setting both times to now needs write permission only, not ownership.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let now = Timestamps { last_access: now, last_modification: now };
        // The first makes ext4 notice the abort and mark itself as failed; the kernel drops its error. The second
        // then fails.
        utimensat(CWD, path, &now, AtFlags::SYMLINK_NOFOLLOW)?;
        utimensat(CWD, path, &now, AtFlags::SYMLINK_NOFOLLOW)
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    pub fn flush_file_system(_: &std::fs::File) -> std::io::Result<()> {
        rustix::fs::sync();
        Ok(())
    }

    pub fn confirm(_: &std::path::Path) -> rustix::io::Result<()> {
        Ok(())
    }
}

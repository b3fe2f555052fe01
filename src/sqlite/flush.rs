//! Files and folders that are durable, and whether a flush that reported success can be believed.
//!
//! ext4 can return 0 from `fsync` for what it has just thrown away. When it gives itself up after an error
//! it first aborts its journal, then writes its superblock, and only then marks itself as out of order. In
//! those milliseconds a flush that finds its transaction gone takes it for one that was committed: the new
//! length of the file, and the place of its new blocks, were in that transaction and nowhere else
//! (`ext4_sync_file`, `jbd2_complete_transaction` and `ext4_handle_error` of Linux 6.18).
//!
//! Whatever starts a transaction of that journal does notice. So after a flush that such a loss could touch,
//! [`confirm`] starts one. See decision 0008.

use std::path::Path;

use crate::error::{Error, Result};

/// Makes sure that the file system of `path`, a file or folder that was just flushed, had not given its
/// journal up before that. Costs a microsecond; on other file systems than ext4, one look at which it is.
///
/// # Errors
/// It had: what was flushed may be lost, whatever the flush returned.
pub fn confirm(path: &Path) -> Result<()> {
    imp::confirm(path).map_err(|e| Error::io(path.display(), e.into()))
}

/// Writes a file of its own, readable by this user alone, and makes its content durable. An older
/// file of that name, left by a crash, is replaced.
pub fn write_new(path: &Path, content: &[u8]) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let write = || {
        // Made anew, never written through: what has the name may be a link to another's file.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io(path.display(), e))
}

/// Flushes a folder's entries: a rename survives a power cut only after this.
pub fn sync_folder(path: &Path) -> Result<()> {
    std::fs::File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::io(path.display(), e))?;
    confirm(path)
}

#[cfg(target_os = "linux")]
mod imp {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, statfs, utimensat};

    /// `EXT4_SUPER_MAGIC`, which ext2 and ext3 have too (linux/magic.h).
    const EXT4: i64 = 0xEF53;

    pub fn confirm(path: &std::path::Path) -> rustix::io::Result<()> {
        #[allow(
            clippy::useless_conversion,
            clippy::unnecessary_fallible_conversions,
            reason = "the field has another width and sign elsewhere"
        )]
        if i64::try_from(statfs(path)?.f_type) != Ok(EXT4) {
            return Ok(());
        }
        // Both times to now is what whoever may write to a file may do, be it another's.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let now = Timestamps { last_access: now, last_modification: now };
        // The first makes ext4 notice, and mark itself; that it could not record the new time is lost
        // inside the kernel. The second then meets the mark.
        utimensat(CWD, path, &now, AtFlags::SYMLINK_NOFOLLOW)?;
        utimensat(CWD, path, &now, AtFlags::SYMLINK_NOFOLLOW)
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    pub fn confirm(_: &std::path::Path) -> rustix::io::Result<()> {
        Ok(())
    }
}

//! How large the disk is that a folder is on.

use std::path::Path;

/// The size of a file system and what of it is free for this process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The size.
    pub size: u64,
    /// What is free.
    pub free: u64,
}

/// The file system that a folder is on; none where the system does not tell. May block.
pub fn space(folder: &Path) -> Option<Space> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(Space { size: disk.f_blocks.saturating_mul(disk.f_frsize), free: disk.f_bavail.saturating_mul(disk.f_frsize) })
}

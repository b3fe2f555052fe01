//! File systems to be broken, and power to be cut.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::rng::Rng;

/// A command's success, and what it said if it had none.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().map_err(|e| format!("{program}: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Mounted file system, unmounted when dropped.
pub struct Mounted {
    folder: TempDir,
    device: Option<String>,
    options: String,
}

impl Mounted {
    /// ext4 on a loop device, of so many MiB.
    pub fn ext4(mib: u64, options: &str) -> Result<Self, String> {
        let folder = TempDir::new().map_err(|e| e.to_string())?;
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).map_err(|e| e.to_string())?;
        let image = image.to_str().unwrap();
        run("mkfs.ext4", &["-q", "-F", image])?;
        let device = run("losetup", &["--find", "--show", image])?;
        let mounted = Self { folder, device: Some(device), options: options.to_owned() };
        std::fs::create_dir(mounted.path()).map_err(|e| e.to_string())?;
        mounted.mount()?;
        Ok(mounted)
    }

    /// A tmpfs of so many MiB.
    pub fn tmpfs(mib: u64) -> Result<Self, String> {
        let folder = TempDir::new().map_err(|e| e.to_string())?;
        let mounted = Self { folder, device: None, options: format!("size={mib}m") };
        std::fs::create_dir(mounted.path()).map_err(|e| e.to_string())?;
        run("mount", &["-t", "tmpfs", "-o", &mounted.options, "tmpfs", mounted.path().to_str().unwrap()])?;
        Ok(mounted)
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// `loop0`.
    pub fn device_name(&self) -> &str {
        self.device.as_deref().unwrap_or_default().trim_start_matches("/dev/")
    }

    pub fn mount(&self) -> Result<(), String> {
        let device = self.device.as_deref().unwrap_or_default();
        run("mount", &["-o", &self.options, device, self.path().to_str().unwrap()]).map(drop)
    }

    pub fn unmount(&self) -> Result<(), String> {
        run("umount", &[self.path().to_str().unwrap()]).map(drop)
    }

    /// Mends what an error marked.
    pub fn check(&self) -> Result<(), String> {
        // 1: errors were corrected.
        let status = Command::new("fsck.ext4")
            .args(["-fy", self.device.as_deref().unwrap_or_default()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match status.map(|status| status.code()) {
            Ok(Some(0 | 1)) => Ok(()),
            other => Err(format!("fsck.ext4: {other:?}")),
        }
    }

    /// From this moment nothing reaches the disk: not what is dirty, not the journal.
    pub fn cut_power(&self) {
        shut_down(&self.path());
    }
}

/// Flushes about half of the files in a folder, as the kernel may do at any time.
pub fn write_back(folder: &Path, rng: &mut Rng) {
    for path in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            write_back(&path, rng);
        } else if rng.range(0, 2) == 0
            && let Ok(file) = File::open(&path)
        {
            // It may fail: files come and go.
            let _ = file.sync_data();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", self.path().to_str().unwrap()]);
        if let Some(device) = &self.device {
            let _ = run("losetup", &["--detach", device]);
        }
    }
}

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (fs/ext4/ext4.h).
fn shut_down(path: &Path) {
    const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    const NO_LOG_FLUSH: u32 = 2;
    let folder = File::open(path).unwrap();
    let mut how = NO_LOG_FLUSH;
    // SAFETY: the request takes a pointer to one u32, which lives for the length of the call.
    unsafe {
        let request = rustix::ioctl::Updater::<SHUTDOWN, u32>::new(&mut how);
        rustix::ioctl::ioctl(&folder, request).unwrap();
    }
}

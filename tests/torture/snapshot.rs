//! A data folder held in memory, to be laid out as often as needed.

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Every file, by its name in the folder. Folders that hold nothing are made by whoever opens it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, Arc<Vec<u8>>>);

impl Snapshot {
    /// What is there now. Files that are as in `like` share their bytes with it.
    pub fn take(folder: &Path, like: &Self) -> Self {
        let mut files = BTreeMap::new();
        collect(folder, folder, &mut |name, bytes| {
            let same = like.0.get(&name).filter(|known| ***known == bytes).cloned();
            files.insert(name, same.unwrap_or_else(|| Arc::new(bytes)));
        });
        Self(files)
    }

    /// Makes a folder of it, which must not be there.
    pub fn lay(&self, folder: &Path) {
        let made = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path).unwrap();
        made(&folder.join("tenants"));
        for (name, bytes) in &self.0 {
            let path = folder.join(name);
            made(path.parent().unwrap());
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
            std::io::Write::write_all(&mut file, bytes).unwrap();
        }
    }

    /// The bytes of one file.
    pub fn file(&self, name: &Path) -> Option<&[u8]> {
        self.0.get(name).map(|bytes| bytes.as_slice())
    }
}

fn collect(root: &Path, folder: &Path, see: &mut impl FnMut(PathBuf, Vec<u8>)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, see);
        } else if let Ok(bytes) = std::fs::read(&path) {
            let name = path.strip_prefix(root).unwrap().to_owned();
            // Nothing but the name of the process that had it.
            if name != Path::new("cubby.lock") {
                see(name, bytes);
            }
        }
    }
}

/// Every occurrence of `what` in `bytes`.
pub fn occurrences<'a>(bytes: &'a [u8], what: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(from..)?;
        // SAFETY: both pointers are valid for the lengths given with them, and nothing is written.
        let found = unsafe { libc::memmem(rest.as_ptr().cast(), rest.len(), what.as_ptr().cast(), what.len()) };
        if found.is_null() {
            return None;
        }
        let at = from + (found as usize - rest.as_ptr() as usize);
        from = at + what.len();
        Some(at)
    })
}

/// A folder in memory (tmpfs), for what is written and thrown away a thousand times.
pub fn in_memory() -> Option<tempfile::TempDir> {
    let place = Path::new("/dev/shm");
    place.is_dir().then(|| tempfile::TempDir::new_in(place).ok()).flatten()
}

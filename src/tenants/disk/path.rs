//! The paths of a data folder. Only this file turns an id into a path.
//!
//! `tenants/<2 hex>/<sha256 of the id, hex>.db`. A digest has no case collisions on a case-folding
//! file system, no traversal, and spreads over 256 folders. The id itself is inside the file, so
//! the catalog can be rebuilt from the files alone.

use std::{
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    sqlite::{
        flush::sync_folder,
        wal::{WAL_SUFFIX, with_suffix},
    },
    tenants::id::TenantId,
};

/// The files beside a database, which move with it.
pub use crate::sqlite::wal::{shm_of, wal_of};

/// The folders and files of a data folder. All paths are absolute: SQLite would resolve a relative one again later.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes all folders, with all 256 shards, so that creating a tenant has one folder to flush and not two.
    pub fn prepare(root: &Path) -> Result<Self> {
        let layout = Self::existing_or_new(root)?;
        for folder in [layout.tenants(), layout.trash(), layout.tmp(), layout.log()] {
            make_folder(&folder)?;
        }
        layout.shards().try_for_each(|shard| make_folder(&shard))?;
        sync_folder(&layout.tenants())?;
        sync_folder(&layout.root)?;
        // The data folder itself may be new.
        layout.root.parent().map_or(Ok(()), sync_folder)?;
        Ok(layout)
    }

    fn existing_or_new(root: &Path) -> Result<Self> {
        // The data folder itself may be a symbolic link, which only the operator can have made.
        if !root.is_dir() {
            make_folder(root)?;
        }
        let root = root.canonicalize().map_err(|e| Error::io(root.display(), e))?;
        Ok(Self { root })
    }

    /// The paths of a folder, without making or reading anything.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The data folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The catalog.
    pub fn catalog(&self) -> PathBuf {
        self.root.join("catalog.db")
    }

    /// The file that is locked against a second process.
    pub fn lock(&self) -> PathBuf {
        self.root.join("cubby.lock")
    }

    /// What of each database is in object storage.
    pub fn replica_state(&self) -> PathBuf {
        self.root.join("replica.db")
    }

    /// The folder of the log.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Where files are written before they are renamed.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where the files of deleted tenants are until their retention ends.
    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// Where files are that an import replaced.
    pub fn replaced(&self) -> PathBuf {
        self.trash().join("replaced")
    }

    /// A new name in a tenant's own folder of what imports replaced, which is made if it is not there. `now` is when it is
    /// replaced, in milliseconds.
    #[cfg(feature = "server")]
    pub(in crate::tenants) fn new_replaced(&self, paths: &TenantPaths, now: i64) -> Result<PathBuf> {
        make_folder(&self.replaced())?;
        sync_folder(&self.trash())?;
        make_folder(&paths.replaced)?;
        sync_folder(&self.replaced())?;
        let names = (0..).map(|later| paths.replaced.join(format!("{}.db", now.saturating_add(later))));
        // Whoever asks has the tenant's lock.
        Ok(names.into_iter().find(|name| name.symlink_metadata().is_err()).unwrap_or_default())
    }

    /// The folder over all shards.
    pub fn tenants(&self) -> PathBuf {
        self.root.join("tenants")
    }

    /// The 256 folders of live tenants' files.
    pub fn shards(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let tenants = self.tenants();
        (0..=u8::MAX).map(move |shard| tenants.join(hex::encode([shard])))
    }

    /// Whether any tenant has a file, live or in the trash.
    pub fn has_files(&self) -> Result<bool> {
        for folder in std::iter::once(self.trash()).chain(self.shards()) {
            if !databases(&folder)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The path of a database by its name in the log: a tenant's id, or empty for the catalog. None for a name that is
    /// neither.
    pub fn logged(&self, name: &str) -> Option<PathBuf> {
        match name {
            "" => Some(self.catalog()),
            id => id.parse().ok().map(|id| self.tenant(&id)),
        }
    }

    /// A live tenant's file.
    pub fn tenant(&self, id: &TenantId) -> PathBuf {
        let name = file_name(id);
        let mut path = self.root.join("tenants");
        path.push(&name[..2]);
        path.push(name);
        path
    }

    /// A deleted tenant's file.
    pub fn trashed(&self, id: &TenantId) -> PathBuf {
        self.trash().join(file_name(id))
    }

    /// Both paths of a tenant's file.
    pub fn paths(&self, id: &TenantId) -> TenantPaths {
        let replaced = self.replaced().join(folder_name(&file_name(id)));
        TenantPaths { live: self.tenant(id), trashed: self.trashed(id), replaced }
    }

    /// Both paths of a file that [`databases`] or [`detached_wals`] found. `None` if its name is not that of a
    /// tenant's file or write-ahead log.
    pub fn paths_of(&self, file: &Path) -> Option<TenantPaths> {
        let name = file.file_name()?.to_str()?;
        let name = name.strip_suffix(DETACHED_SUFFIX).or(name.strip_suffix(WAL_SUFFIX)).unwrap_or(name);
        let shard = name.get(..2).filter(|_| name.len() == FILE_NAME)?;
        Some(TenantPaths {
            live: self.tenants().join(shard).join(name),
            trashed: self.trash().join(name),
            replaced: self.replaced().join(folder_name(name)),
        })
    }

    /// A new name in `tmp/`, which no other process has either: one that reads a file to be imported may outlive its server.
    /// The next start removes files that are left there.
    pub fn temporary(&self) -> PathBuf {
        static FIRST: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = FIRST.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        self.tmp().join(format!("{number:016x}.db"))
    }
}

/// The paths where a tenant's database file can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPaths {
    /// Of a tenant that is not deleted.
    pub live: PathBuf,
    /// Of a deleted one, until its retention ends.
    pub trashed: PathBuf,
    /// The folder of the files that imports replaced, until the retention ends.
    pub replaced: PathBuf,
}

/// The tenants' databases in a folder, in no order.
pub fn databases(folder: &Path) -> Result<Vec<PathBuf>> {
    named(folder, FILE_NAME)
}

/// The write-ahead logs in a folder that have no database beside them, or were set aside.
pub fn detached_wals(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut logs = named(folder, FILE_NAME + WAL_SUFFIX.len())?;
    logs.retain(|log| !log.with_extension("db").exists());
    logs.extend(named(folder, FILE_NAME + DETACHED_SUFFIX.len())?);
    Ok(logs)
}

/// The files in a folder whose names have this length.
fn named(folder: &Path, length: usize) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io(folder.display(), e);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let named = entries.filter(|entry| entry.as_ref().map_or(true, |entry| entry.file_name().len() == length));
    named.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

/// The first eight bytes of an id's digest: distinct for a hundred million ids.
pub fn fingerprint(id: &TenantId) -> u64 {
    let digest = Sha256::digest(id.as_str().as_bytes());
    u64::from_be_bytes(std::array::from_fn(|at| digest[at]))
}

/// The same, from the name of a file.
pub fn fingerprint_of(file: &Path) -> Option<u64> {
    u64::from_str_radix(file.file_name()?.to_str()?.get(..16)?, 16).ok()
}

/// Characters of a file's name.
const FILE_NAME: usize = 64 + ".db".len();

/// The suffix of a write-ahead log that was set aside. Kept, for data folders that have such files.
const DETACHED_SUFFIX: &str = "-wal.lone";

fn file_name(id: &TenantId) -> String {
    let mut name = hex::encode(Sha256::digest(id.as_str().as_bytes()));
    name.push_str(".db");
    name
}

/// The name of a tenant's folder of replaced files.
fn folder_name(file_name: &str) -> &str {
    file_name.strip_suffix(".db").unwrap_or(file_name)
}

/// When a file in such a folder was replaced, in milliseconds; none for a file of another kind.
#[cfg(feature = "server")]
pub(in crate::tenants) fn replaced_at(file: &Path) -> Option<i64> {
    file.file_name()?.to_str()?.strip_suffix(".db")?.parse().ok()
}

/// The name of a log that was set aside because it is not the database's own.
pub fn detached_wal_of(database: &Path) -> PathBuf {
    with_suffix(database, DETACHED_SUFFIX)
}

/// Makes a folder that only this user can enter. Refuses a symbolic link, whose maker would choose where tenants'
/// data is stored.
fn make_folder(path: &Path) -> Result<()> {
    use std::{
        fs::Permissions,
        os::unix::fs::{DirBuilderExt, PermissionsExt},
    };
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = std::fs::symlink_metadata(path).map_err(|e| Error::io(path.display(), e))?;
            if !found.is_dir() {
                let what = if found.is_symlink() { "a link" } else { "no folder" };
                return Err(Error::config(format!(
                    "{} is {what}; users' data goes only into folders of the data folder's own",
                    path.display()
                )));
            }
            if found.permissions().mode() & 0o077 != 0 {
                std::fs::set_permissions(path, Permissions::from_mode(0o700))
                    .map_err(|e| Error::io(path.display(), e))?;
                tracing::warn!(folder = %path.display(), "others could enter this folder; now they cannot");
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|e| Error::io(path.display(), e))
        }
        Err(error) => Err(Error::io(path.display(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed sequence (xorshift, <https://doi.org/10.18637/jss.v008.i14>): a property test's cases cost ten times this.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 33).unwrap() % end
        }

        /// Bytes that have a meaning in paths, URLs and URIs, more often than others.
        fn bytes(&mut self) -> Vec<u8> {
            let (alphabet, length): (&[u8], usize) = match self.below(4) {
                0 => (b"./\\%:?=&#~\0\r\n-_@|+ file..\xc3\xa9\xff", self.below(300)),
                1 => (b"./..:@|+-_azAZ09", self.below(140)),
                2 => (b".:@|+-_azAZ09", self.below(140)),
                _ => (b".:@|+-_azAZ09", 1 + self.below(7)),
            };
            (0..length).map(|_| alphabet[self.below(alphabet.len())]).collect()
        }
    }

    #[test]
    fn of_a_million_ids_none_leads_out_of_the_folder_and_no_two_to_one_place() {
        let layout = Layout::at("/data".into());
        let (mut random, mut before, mut legal) = (Random(88_172_645_463_325_252), None::<(TenantId, PathBuf)>, 0);
        for _ in 0..1_000_000 {
            let Ok(id) = TenantId::parse(&random.bytes()) else { continue };
            legal += 1;
            let (tenant, trashed) = (layout.tenant(&id), layout.trashed(&id));
            for (path, folder) in [(&tenant, "/data/tenants/"), (&trashed, "/data/trash/")] {
                let rest = path.to_str().and_then(|path| path.strip_prefix(folder)).unwrap_or_default();
                let name = rest.rsplit('/').next().and_then(|name| name.strip_suffix(".db")).unwrap_or_default();
                let is_hex = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
                let shard = rest.split_once('/').is_none_or(|(shard, _)| name.starts_with(shard) && shard.len() == 2);
                assert!(is_hex && shard, "{id}: {}", path.display());
            }
            if let Some((other, place)) = &before {
                assert_eq!(tenant == *place, id == *other, "{id} and {other}");
            }
            before = Some((id, tenant));
        }
        assert!(legal > 400_000, "{legal}");
    }
}

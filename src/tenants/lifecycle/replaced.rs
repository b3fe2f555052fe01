//! What was replaced by another file, which is kept in the trash.
//!
//! Each replaced file has a name of its own in a folder of its tenant's, `<time>.db`. Until then it has, there, the name
//! that the new file had before the two were exchanged (`swap.rs`). What a crash leaves under such a name is told by the
//! digest in it, that of the new file.
//!
//! | the crash came | `.new` is | what is done |
//! |---|---|---|
//! | before the exchange, or when it was taken back | the new file | it is removed |
//! | after it, before or after the catalog's commit | what the tenant had | it is named `.db` |
//! | after it was named | not there | nothing |

use std::path::{Path, PathBuf};

use crate::{
    clock::millis,
    error::{Error, ErrorKind, Result},
    sqlite::{flush, header},
    tenants::{
        copy,
        disk::{
            files::{self, Location},
            inspect,
            path::{TenantPaths, replaced_at, wal_of},
        },
        id::TenantId,
        store::Store,
    },
};

/// Replaced files that are kept of one tenant, at most, while the retention lasts.
const KEPT: usize = 8;

/// How the name of a new file ends until it is exchanged. Nothing counts, lists or removes such a file by its age.
pub(super) const NEW: &str = ".new";

impl Store {
    /// Gives what was replaced the name under which it is kept, and says where it is; none if nobody misses it. The
    /// swap is done: what fails here is not its error.
    pub(super) fn put_away(&self, id: &TenantId, aside: &Path, kept: &Path) -> Option<PathBuf> {
        if self.is_untouched(aside) {
            // Nothing in it is the tenant's own. What an earlier swap replaced stays.
            if let Err(error) = files::discard(aside) {
                tracing::warn!(tenant = %id, %error, "the empty file that was replaced stays until the retention ends");
            }
            remove_if_empty(aside.parent());
            return None;
        }
        if let Err(error) = keep(aside, kept).and_then(|()| thin_out(kept.parent().unwrap_or(kept), kept)) {
            tracing::warn!(tenant = %id, %error, "what was replaced is named and thinned out by a later swap");
        }
        let place = if kept.exists() { kept } else { aside };
        Some(place.to_owned())
    }

    /// Whether a file that nobody has open has nothing of its tenant's own. One that cannot be read may have.
    pub(super) fn is_untouched(&self, file: &Path) -> bool {
        inspect::read_file(file, |conn| self.inner.template.is_untouched(conn)).unwrap_or(false)
    }

    /// Whether there is a file, which may be replaced and is one file.
    pub(super) fn may_replace(&self, id: &TenantId, paths: &TenantPaths, replace: bool) -> Result<bool> {
        if !matches!(files::locate(paths)?, Location::Live | Location::Both) {
            return Ok(false);
        }
        if !replace && !self.is_untouched(&paths.live) {
            let why = format!(
                "{id} has data of their own; --replace puts the file in its place, and their data into the trash"
            );
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        inspect::merge_log(&paths.live).map_err(|error| {
            let log = wal_of(&paths.live);
            let why = format!(
                "the write-ahead log of the file of {id} cannot be emptied, so that they cannot be moved together: move \
                 {} and {} away, and try again",
                paths.live.display(),
                log.display()
            );
            Error::new(ErrorKind::Conflict, why).with_source(error)
        })?;
        Ok(true)
    }

    /// Removes replaced files whose retention has ended; says how many. One that cannot be removed keeps no other. What
    /// a crash left of a swap is named or removed before. May block.
    pub fn remove_replaced(&self) -> Result<u64> {
        let (retention, mut removed, mut failed) = (millis(self.inner.options.retention), 0, None);
        for of_one in entries(&self.layout().replaced())? {
            // Nobody swaps a file meanwhile.
            let _turn = self.inner.replaced.lock();
            let before = self.now().saturating_sub(retention);
            for done in [settle(&of_one).map(|()| 0), remove_before(&of_one, before)] {
                match done {
                    Ok(count) => removed += count,
                    Err(error) => failed = Some(error),
                }
            }
        }
        failed.map_or(Ok(removed), Err)
    }
}

/// Decides about what crashes have left of swaps of a tenant's files, of which none is under way: see the module.
pub(super) fn settle(folder: &Path) -> Result<()> {
    for file in entries(folder)? {
        let Some((at, sha256)) = staged_at(&file) else { continue };
        let Some(mut opened) = flush::open_if_there(&file)? else { continue };
        if copy::digest(&mut opened).map_err(|e| Error::io(file.display(), e))?.1 == sha256 {
            files::discard(&file)?;
            continue;
        }
        let mut names = (at..).map(|at| folder.join(format!("{at}.db")));
        let free = names.find(|name| name.symlink_metadata().is_err()).unwrap_or_default();
        keep(&file, &free)?;
        tracing::info!(file = %free.display(), "what a swap replaced that was cut short has its name");
    }
    Ok(())
}

/// Names what was replaced, so that it is kept and can be imported again.
pub(super) fn keep(aside: &Path, kept: &Path) -> Result<()> {
    header::leave_wal_mode(aside)?;
    files::relocate(aside, kept)
}

/// When a new file was to be exchanged, and its SHA-256; none for a file of another kind.
fn staged_at(file: &Path) -> Option<(i64, [u8; 32])> {
    let (at, digest) = file.file_name()?.to_str()?.strip_suffix(NEW)?.rsplit_once('-')?;
    let mut sha256 = [0; 32];
    hex::decode_to_slice(digest, &mut sha256).ok()?;
    Some((at.parse().ok()?, sha256))
}

/// Removes what earlier swaps for a tenant replaced, if it is more than is kept: neither the oldest file nor the newest
/// ones. An import that is tried again replaces what the one before it has put in, and the oldest is what there was.
fn thin_out(folder: &Path, newest: &Path) -> Result<()> {
    let mut older = entries(folder)?;
    older.retain(|file| file != newest && replaced_at(file).is_some());
    older.sort_by_key(|file| replaced_at(file));
    let surplus = (older.len() + 1).saturating_sub(KEPT);
    if surplus == 0 {
        return Ok(());
    }
    older.iter().skip(1).take(surplus).try_for_each(|file| files::discard(file))?;
    flush::sync_folder(folder)
}

/// Removes the files of one tenant that were replaced before a time; says how many.
fn remove_before(folder: &Path, before: i64) -> Result<u64> {
    let mut removed = 0;
    for file in entries(folder)?.iter().filter(|file| replaced_at(file).is_some_and(|at| at < before)) {
        files::discard(file)?;
        removed += 1;
    }
    remove_if_empty(Some(folder));
    Ok(removed)
}

/// What is in a folder; nothing if it is not there, since a purge removes it.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io(folder.display(), e);
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found.map_err(failed)?.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect(),
    }
}

/// Removes a tenant's folder of replaced files that has none.
pub(super) fn remove_if_empty(folder: Option<&Path>) {
    // Refused while it has one.
    let _ = folder.map(std::fs::remove_dir);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rusqlite::Transaction;
    use tempfile::TempDir;
    use tokio::time::{Duration, Instant};

    use super::*;
    use crate::{
        StoreOptions,
        catalog::audit::Author,
        sqlite::{flush::failing, import::perform},
        tenants::{
            copy::Form,
            lifecycle::{import::Import, swap::Staged},
        },
    };

    const LONG: Duration = Duration::from_secs(600);

    async fn insert(store: &Store, user: &TenantId, text: &'static str) {
        let (tenant, _) = store.lease_or_create(user).await.unwrap();
        let insert = move |tx: &Transaction| {
            Ok(tx.execute("INSERT OR REPLACE INTO notes VALUES ('note_1', ?1, 1, 1)", [text]).map(drop)?)
        };
        tenant.write(insert).await.unwrap();
    }

    fn text_in(file: &Path) -> String {
        inspect::read_file(file, |conn| Ok(conn.query_row("SELECT text FROM notes", [], |row| row.get(0))?)).unwrap()
    }

    /// Gives ben what ada has.
    async fn import(store: &Store, ben: &TenantId) -> Result<Option<PathBuf>> {
        let mut copy = store.export(&"ada".parse().unwrap(), Form::Database, LONG).await.unwrap();
        let file = store.temporary_file();
        std::io::copy(&mut copy.file, &mut std::fs::File::create(file.path()).unwrap()).unwrap();
        let import = Import { file, replace: true, allow: Vec::new(), until: Instant::now() + LONG };
        let author = Author::program("test");
        Ok(store.import(ben, import, &author, Arc::new(|order| Ok(perform(order)))).await?.replaced)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flush_that_fails_leaves_the_old_file_and_what_was_replaced_before() {
        let folder = TempDir::new().unwrap();
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        let (ada, ben): (TenantId, TenantId) = ("ada".parse().unwrap(), "ben".parse().unwrap());
        insert(&store, &ada, "new").await;
        insert(&store, &ben, "first").await;
        let paths = store.layout().paths(&ben);
        let live_folder = paths.live.parent().unwrap().to_owned();
        let mut kept = Vec::new();
        for text in ["first", "second"] {
            insert(&store, &ben, text).await;
            for failing_folder in [&live_folder, &paths.replaced, &store.layout().replaced()] {
                failing::begin(failing_folder);
                import(&store, &ben).await.unwrap_err();
                failing::end(failing_folder);
                store.suspend(&ben, "x", &Author::program("test")).await.unwrap();
                assert_eq!(text_in(&paths.live), text, "{}", failing_folder.display());
                store.resume(&ben, &Author::program("test")).await.unwrap();
                let mut there = entries(&paths.replaced).unwrap_or_default();
                there.sort();
                assert_eq!(there, kept, "{}", failing_folder.display());
            }
            let replaced = import(&store, &ben).await.unwrap().unwrap();
            assert_eq!((text_in(&replaced), text_in(&paths.live)), (text.to_owned(), "new".to_owned()));
            kept.push(replaced);
        }
        assert_eq!(text_in(&kept[0]), "first", "a further import leaves what an earlier one replaced");
    }

    #[test]
    fn what_a_crash_leaves_is_told_by_which_file_it_is() {
        let folder = TempDir::new().unwrap();
        let [live, fresh, trash] = ["live", "fresh", "trash"].map(|name| folder.path().join(name));
        let kept = trash.join("7.db");
        for steps in 0..4 {
            std::fs::create_dir(&trash).unwrap();
            std::fs::write(&live, "old".repeat(50)).unwrap();
            std::fs::write(&fresh, "new".repeat(50)).unwrap();
            let sha256 = copy::digest(&mut std::fs::File::open(&fresh).unwrap()).unwrap().1;
            let staged = Staged::new(&fresh, sha256, &kept, &live).unwrap();
            match steps {
                0 => {}
                1 => files::relocate(&fresh, &staged.aside).unwrap(),
                _ => staged.exchange(&fresh).unwrap(),
            }
            if steps > 2 {
                keep(&staged.aside, &kept).unwrap();
            }
            settle(&trash).unwrap();
            let text = |file: &Path| std::fs::read(file).map_or(b'-', |bytes| bytes[0]);
            let (expected, left) = if steps < 2 { (b"o-", 0) } else { (b"no", 1) };
            assert_eq!((&[text(&live), text(&kept)], entries(&trash).unwrap().len()), (expected, left), "{steps}");
            std::fs::remove_dir_all(&trash).unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_import_is_done_whatever_becomes_of_the_empty_file_that_it_replaced() {
        let folder = TempDir::new().unwrap();
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        let ben: TenantId = "ben".parse().unwrap();
        drop(store.lease_or_create(&ben).await.unwrap());
        store.suspend(&ben, "x", &Author::program("test")).await.unwrap();
        let paths = store.layout().paths(&ben);
        let kept = store.layout().new_replaced(&paths, 7).unwrap();
        let aside = kept.with_extension("new");
        std::fs::copy(&paths.live, &aside).unwrap();
        // A folder is not removed as a file.
        std::fs::create_dir(aside.with_extension("new-shm")).unwrap();
        assert_eq!(store.put_away(&ben, &aside, &kept), None);
        assert!(!aside.exists() && !kept.exists());
    }

    #[test]
    fn of_many_replaced_files_the_oldest_and_the_newest_stay() {
        let folder = TempDir::new().unwrap();
        let named = |at: i64| folder.path().join(format!("{at}.db"));
        let mut there = Vec::new();
        for at in 90..110 {
            std::fs::write(named(at), "x").unwrap();
            thin_out(folder.path(), &named(at)).unwrap();
            there.push(named(at));
            if there.len() > KEPT {
                there.remove(1);
            }
            let mut found = entries(folder.path()).unwrap();
            found.sort_by_key(|file| replaced_at(file));
            assert_eq!(found, there);
        }
        // The clock went back: what was replaced just now is the oldest by its name.
        std::fs::write(named(1), "x").unwrap();
        std::fs::write(folder.path().join("91.db-shm"), "x").unwrap();
        thin_out(folder.path(), &named(1)).unwrap();
        assert!(named(1).exists() && named(90).exists() && named(109).exists() && !named(103).exists());
    }
}

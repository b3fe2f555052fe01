//! Brings a backup back into a new data folder.
//!
//! It may be cut short, and be run again: what has its place already and has the right content stays. The catalog comes
//! last, and without it nothing serves the folder.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::{TryStreamExt, stream};

use super::{
    check::{Whose, check},
    choice::{Choice, choose},
    destination::Destination,
    installation,
    manifest::Line,
    scratch::{self, Named, blocking},
};
use crate::{
    catalog::model::State,
    clock::Millis,
    error::{Error, ErrorKind, Result},
    replica::object,
    tenants::{
        disk::placing::{Home, Placing},
        id::TenantId,
    },
};

/// Databases brought back at once.
const AT_ONCE: usize = 8;

/// Lines of a manifest read together.
const PAGE: usize = 1000;

/// Users that are named as missing.
const NAMED: usize = 20;

/// How far a restore is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Users handled.
    pub done: u64,
    /// Users in the backup.
    pub total: u64,
    /// The length of their databases so far.
    pub bytes: u64,
}

/// What was brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The name of the backup.
    pub backup: String,
    /// When it was whole.
    pub finished: Millis,
    /// Users whose databases are there.
    pub users: u64,
    /// Those of them whose databases a restore that was cut short had brought.
    pub already: u64,
    /// The length of all databases.
    pub bytes: u64,
    /// Users whose databases are not in the backup.
    pub missing: u64,
    /// Some of them, and why.
    pub some_missing: Vec<(TenantId, String)>,
    /// Users whose copies are damaged or are not there any more. They have no file.
    pub damaged: u64,
    /// Some of them, and why.
    pub some_damaged: Vec<(TenantId, String)>,
}

/// What became of one user.
enum Placed {
    Now(u64),
    Already(u64),
    Missing(String),
    Damaged(String),
}

/// Brings a backup back into a folder that is new, empty, or of a restore of the same backup that was cut short. A user whose
/// copy is damaged keeps no other from coming back, and has no file then.
///
/// # Errors
/// [`ErrorKind::Conflict`] if the folder has something; [`ErrorKind::Damaged`] and [`ErrorKind::NotFound`] if the manifest or
/// the catalog is damaged or not there; [`ErrorKind::DiskFull`]; those of the place. The folder is then unfinished, and nothing
/// serves it; run again, it goes on.
pub async fn restore(
    destination: &Destination,
    choice: &Choice,
    data: &Path,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Restored> {
    let choice = resumed(destination, choice, data)?;
    let (found, manifest) = choose(destination, &choice, &room(data)?).await?;
    let what = what_of(destination, found.name.as_str());
    let (header, end) = (manifest.header.clone(), manifest.end);
    let mut restored = Restored { backup: header.name.clone(), finished: end.finished, ..Restored::default() };
    let folder = data.to_owned();
    let Some(placing) = blocking(move || Placing::begin(&folder, &what)).await? else {
        (restored.users, restored.already, restored.bytes) = (end.tenants, end.tenants, end.bytes);
        restored.missing = end.missing;
        return Ok(restored);
    };
    let placing = Arc::new(placing);
    let total = end.tenants + end.missing;
    let mut lines = manifest.into_lines()?;
    loop {
        let (back, page) = blocking(move || {
            let page = lines.page(PAGE)?;
            Ok((lines, page))
        })
        .await?;
        lines = back;
        if page.is_empty() {
            break;
        }
        let placing = &placing;
        let placed = stream::iter(page.into_iter().map(Ok::<_, Error>)).map_ok(|line| async move {
            let placed = match place(destination, placing, &line).await {
                Ok(placed) => placed,
                Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => {
                    tracing::error!(tenant = %line.id, %error, "cannot be brought back");
                    // A restore that was cut short may have left half of it.
                    placing.leave_out(&line.id)?;
                    Placed::Damaged(error.detail())
                }
                Err(error) => return Err(error),
            };
            Ok::<_, Error>((line.id, placed))
        });
        let mut placed = std::pin::pin!(placed.try_buffer_unordered(AT_ONCE));
        while let Some((id, placed)) = placed.try_next().await? {
            restored.add(id, placed);
            progress(Progress { done: restored.done(), total, bytes: restored.bytes });
        }
    }
    // A restored folder goes on with the backups of the one that it was.
    installation::set(placing.layout().root(), &header.installation)?;
    let catalog = Named::new(placing.layout().temporary());
    let mut file = scratch::create(catalog.path())?;
    let path = &header.catalog.path;
    object::download(&destination.remote, &destination.seal, path, header.catalog.sha256, &mut file).await?;
    drop(file);
    blocking(move || {
        check(catalog.path(), Whose::Catalog, true)?;
        let placing = Arc::into_inner(placing).ok_or_else(|| Error::internal("a restore is not over"))?;
        placing.finish(catalog.path())
    })
    .await?;
    Ok(restored)
}

impl Restored {
    fn add(&mut self, id: TenantId, placed: Placed) {
        match placed {
            Placed::Now(bytes) => {
                self.users += 1;
                self.bytes += bytes;
            }
            Placed::Already(bytes) => {
                self.users += 1;
                self.already += 1;
                self.bytes += bytes;
            }
            Placed::Missing(why) => {
                self.missing += 1;
                if self.some_missing.len() < NAMED {
                    self.some_missing.push((id, why));
                }
            }
            Placed::Damaged(why) => {
                self.damaged += 1;
                if self.some_damaged.len() < NAMED {
                    self.some_damaged.push((id, why));
                }
            }
        }
    }

    fn done(&self) -> u64 {
        self.users + self.missing + self.damaged
    }
}

/// What a restore is called in the folder.
fn what_of(destination: &Destination, name: &str) -> String {
    format!("the backup {name} at {}", destination.url())
}

/// The backup that a restore which was cut short has begun with: a newer one may have come since.
fn resumed(destination: &Destination, choice: &Choice, data: &Path) -> Result<Choice> {
    let before = Placing::interrupted(data)?;
    let name = before.as_deref().and_then(|what| what.strip_prefix("the backup ")?.split(' ').next());
    match name {
        Some(name) if *choice == Choice::Newest && before.as_deref() == Some(&*what_of(destination, name)) => {
            Ok(Choice::Named(name.to_owned()))
        }
        _ => Ok(choice.clone()),
    }
}

/// The folder, or the nearest one above it that is there: on the file system where there must be room in any case.
fn room(data: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(data).map_err(|e| Error::io(data.display(), e))?;
    let there = path.ancestors().find(|folder| folder.is_dir());
    Ok(there.unwrap_or(&path).to_owned())
}

async fn place(destination: &Destination, placing: &Arc<Placing>, line: &Line) -> Result<Placed> {
    let Some(copy) = line.copy.clone() else {
        return Ok(Placed::Missing(line.missing.clone().unwrap_or_default()));
    };
    let home = if line.state == State::Deleted { Home::Trash } else { Home::Live };
    let (before, id) = (placing.clone(), line.id.clone());
    let found = blocking(move || match before.placed(&id, home)? {
        Some(path) => scratch::sha256_of(&path),
        None => Ok(None),
    })
    .await?;
    if found == Some(copy.sha256) {
        return Ok(Placed::Already(copy.bytes));
    }
    let file = Named::new(placing.layout().temporary());
    let mut content = scratch::create(file.path())?;
    let (remote, seal) = (&destination.remote, &destination.seal);
    let bytes = object::download(remote, seal, &copy.path, copy.sha256, &mut content).await?;
    drop(content);
    let (placing, id) = (placing.clone(), line.id.clone());
    blocking(move || {
        check(file.path(), Whose::Of(&id), false)?;
        placing.place(&id, home, file.path())
    })
    .await?;
    Ok(Placed::Now(bytes))
}

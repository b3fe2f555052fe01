//! Which backup is meant.

use std::path::Path;

use super::{
    destination::{Destination, Found},
    manifest::Manifest,
    scratch,
};
use crate::{
    clock::{Millis, rfc3339},
    error::{Error, ErrorKind, Result},
};

/// Which of the backups at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The newest.
    Newest,
    /// The newest that was whole at this time.
    Before(Millis),
    /// The one of this name.
    Named(String),
}

/// Finds it, and reads its manifest into a file in `folder` that is gone when it is closed.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is none such; [`ErrorKind::Damaged`] if its manifest is not whole: no other one is taken
/// in its place.
pub async fn choose(destination: &Destination, choice: &Choice, folder: &Path) -> Result<(Found, Manifest)> {
    let read = async |found: Found| {
        let manifest = destination.manifest(&found, scratch::unnamed(folder)?).await?;
        Ok::<_, Error>((found, manifest))
    };
    let none = |why: String| Error::new(ErrorKind::NotFound, why);
    let at = match choice {
        Choice::Named(name) => return read(destination.backup(name).await?).await,
        Choice::Newest => None,
        Choice::Before(at) => Some(*at),
    };
    let mut backups = destination.backups().await?;
    let Some(oldest) = backups.first().map(|found| found.name.clone()) else {
        let why = format!("there is no whole backup at {} yet; `cubby backup --to` makes one", destination.url());
        return Err(none(why));
    };
    while let Some(found) = backups.pop() {
        if at.is_some_and(|at| found.name.at() > at) {
            continue;
        }
        let (found, manifest) = read(found).await?;
        if at.is_none_or(|at| manifest.end.finished <= at) {
            return Ok((found, manifest));
        }
    }
    let at = at.map_or(String::new(), |at| rfc3339(at).to_string());
    Err(none(format!(
        "no backup at {} was whole at {at}; the oldest is {oldest}: name a later time with --at",
        destination.url()
    )))
}

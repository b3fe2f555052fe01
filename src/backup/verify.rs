//! Looks whether a backup could be brought back: all copies that it names are there, and those of a sample are whole.

use std::{
    hash::{BuildHasher, RandomState},
    path::Path,
    str::FromStr,
    sync::Arc,
};

use futures_util::{TryStreamExt, stream};
use serde::Serialize;

use super::{
    check::{Whose, check},
    choice::{Choice, choose},
    destination::Destination,
    journal::{self, Journal},
    manifest::{Line, Object},
    restore::Progress,
    scratch::{self, Named, blocking},
};
use crate::{
    clock::Millis,
    error::{Error, ErrorKind, Result},
    replica::object,
    tenants::id::TenantId,
};

/// Databases looked at at once.
const AT_ONCE: usize = 4;

/// Lines and objects looked at together.
const PAGE: usize = 1000;

/// Damages that are told.
const TOLD: usize = 100;

/// How many of the users' databases are looked at through and through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample(f64);

impl Sample {
    /// All.
    pub const ALL: Self = Self(100.0);

    /// Of so many, how many: one at least.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share of a number of users is one"
    )]
    fn of(self, all: u64) -> u64 {
        ((all as f64 * self.0 / 100.0).ceil() as u64).clamp(all.min(1), all)
    }
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = text.strip_suffix('%').and_then(|text| text.trim().parse::<f64>().ok());
        let share = share.filter(|share| *share > 0.0 && *share <= 100.0);
        share.map(Self).ok_or_else(|| "a share such as 1% or 0.5%, up to 100%".to_owned())
    }
}

/// Which of some in a row are in the sample: as many as it has, evenly far from each other, from a random one on.
struct Chosen {
    all: u64,
    count: u64,
    from: u64,
}

impl Chosen {
    fn new(sample: Sample, all: u64) -> Self {
        Self { all, count: sample.of(all), from: RandomState::new().hash_one(all) % all.max(1) }
    }

    fn has(&self, nth: u64) -> bool {
        let at = u128::from((nth + self.from) % self.all.max(1));
        let before = |at: u128| at * u128::from(self.count) / u128::from(self.all.max(1));
        before(at + 1) > before(at)
    }
}

/// A copy that cannot be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Whose: a user's id, or none for the catalog.
    pub id: Option<TenantId>,
    /// What is wrong with it.
    pub what: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The name of the backup.
    pub backup: String,
    /// When it was whole.
    pub finished: Millis,
    /// Users whose databases it has.
    pub users: u64,
    /// Users whose databases it has not.
    pub missing: u64,
    /// Users' databases that were looked at through and through.
    pub checked: u64,
    /// Their length.
    pub bytes: u64,
    /// Copies that cannot be brought back.
    pub damaged: u64,
    /// The first of them.
    pub damages: Vec<Damage>,
}

impl Verified {
    fn add(&mut self, id: Option<TenantId>, what: String) {
        self.damaged += 1;
        if self.damages.len() < TOLD {
            self.damages.push(Damage { id, what });
        }
    }
}

/// Verifies a backup, by copies in a folder of their own.
///
/// # Errors
/// [`ErrorKind::Damaged`] if its manifest is not whole; those of the place, and of a full disk.
pub async fn verify(
    destination: &Destination,
    choice: &Choice,
    sample: Sample,
    folder: &Path,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Verified> {
    let (found, manifest) = choose(destination, choice, folder).await?;
    let (catalog, end) = (manifest.header.catalog.clone(), manifest.end);
    let mut verified = Verified {
        backup: found.name.to_string(),
        finished: end.finished,
        users: end.tenants,
        missing: end.missing,
        ..Verified::default()
    };
    let there = present(destination, folder).await?;
    if let Some(what) = look(destination, folder, None, catalog).await? {
        verified.add(None, what);
    }
    let chosen = Chosen::new(sample, end.tenants);
    let total = sample.of(end.tenants);
    let (mut lines, mut nth) = (manifest.into_lines()?, 0);
    loop {
        let (back, page) = blocking(move || {
            let page = lines.page(PAGE)?;
            Ok((lines, page))
        })
        .await?;
        lines = back;
        if page.is_empty() {
            return Ok(verified);
        }
        let copies = page.into_iter().filter_map(|Line { id, copy, .. }| Some((id, copy?)));
        let (there, copies) = (there.clone(), copies.collect::<Vec<_>>());
        let (copies, absent) = blocking(move || divide(&there, copies)).await?;
        for (id, object) in absent {
            nth += 1;
            verified.add(Some(id), format!("{} is not there", object.path));
        }
        let first = nth;
        nth += copies.len() as u64;
        let some = copies.into_iter().zip(first..).filter(|(_, nth)| chosen.has(*nth)).map(|(copy, _)| copy);
        let looked = stream::iter(some.map(Ok::<_, Error>)).map_ok(|(id, object)| async move {
            let bytes = object.bytes;
            let what = look(destination, folder, Some(id.clone()), object).await?;
            Ok::<_, Error>((id, bytes, what))
        });
        let mut looked = std::pin::pin!(looked.try_buffer_unordered(AT_ONCE));
        while let Some((id, bytes, what)) = looked.try_next().await? {
            verified.checked += 1;
            verified.bytes += bytes;
            if let Some(what) = what {
                verified.add(Some(id), what);
            }
            progress(Progress { done: verified.checked, total, bytes: verified.bytes });
        }
    }
}

/// Which copies are at the place.
async fn present(destination: &Destination, folder: &Path) -> Result<Arc<Journal>> {
    let (path, url) = (folder.join(journal::FILE), destination.url());
    let there = Arc::new(blocking(move || Journal::open(&path, &url)).await?);
    let mut copies = destination.copies()?;
    loop {
        let page = copies.page(PAGE).await?;
        if page.is_empty() {
            return Ok(there);
        }
        let (journal, paths) = (there.clone(), page.into_iter().map(|copy| copy.path).collect::<Vec<_>>());
        blocking(move || journal.add_present(&paths)).await?;
    }
}

type Copies = Vec<(TenantId, Object)>;

/// Those that are at the place, and those that are not.
fn divide(there: &Journal, copies: Copies) -> Result<(Copies, Copies)> {
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for (id, object) in copies {
        match there.is_present(&object.path)? {
            true => present.push((id, object)),
            false => absent.push((id, object)),
        }
    }
    Ok((present, absent))
}

/// Looks at a copy through and through: what is wrong with it.
async fn look(
    destination: &Destination,
    folder: &Path,
    id: Option<TenantId>,
    object: Object,
) -> Result<Option<String>> {
    let letters: Vec<char> = ('a'..='z').collect();
    let named = Named::new(folder.join(format!("{}.db", nanoid::nanoid!(16, &letters))));
    let mut file = scratch::create(named.path())?;
    let (remote, seal) = (&destination.remote, &destination.seal);
    let looked = match object::download(remote, seal, &object.path, object.sha256, &mut file).await {
        Ok(_) => blocking(move || check(named.path(), id.as_ref().map_or(Whose::Catalog, Whose::Of), true)).await,
        Err(error) => Err(error),
    };
    match looked {
        Ok(()) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => Ok(Some(error.detail())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_as_many_as_it_says_and_one_at_least() {
        for (share, all, count) in
            [("1%", 1000, 10), ("1%", 3, 1), ("0.01%", 1000, 1), ("100%", 7, 7), ("50%", 5, 3), ("1%", 0, 0)]
        {
            let chosen = Chosen::new(share.parse().unwrap(), all);
            assert_eq!((0..all).filter(|nth| chosen.has(*nth)).count() as u64, count, "{share} of {all}");
        }
        for text in ["", "1", "0%", "-1%", "101%", "x%", "NaN%"] {
            assert!(text.parse::<Sample>().is_err(), "{text}");
        }
    }
}

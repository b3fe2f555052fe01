//! Removes old backups, and the copies that none of those that are left has.
//!
//! # Invariants
//! 1. **Nothing is removed on a guess.** All manifests that stay are read before anything goes; if one of them cannot be read,
//!    everything stays.
//! 2. **Nothing is removed under somebody's feet.** While another backup is being made, everything stays; and a copy that
//!    nobody names stays for a day, since the backup that it was made for may have been cut short and be gone on with.
//! 3. **A manifest goes before its copies**, so that none names a copy that is gone.

use std::sync::Arc;

use super::{
    destination::{Destination, Found},
    journal::Journal,
    keep::to_go,
    manifest::Line,
    scratch::{self, blocking},
};
use crate::{clock::Millis, config::replicate::Keep, error::Result, tenants::disk::path::Layout};

/// How long a copy that no backup names stays, in milliseconds.
const UNNAMED: Millis = 86_400_000;

/// After so long, in milliseconds, a backup is not being made any more, whatever it says.
const ABANDONED: Millis = 2 * 86_400_000;

/// Lines and objects looked at together.
const PAGE: usize = 1000;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Backups.
    pub backups: u64,
    /// Copies of files.
    pub copies: u64,
}

/// Removes backups that are not kept, after one of this name was made, which was begun at `started`.
pub async fn tidy(
    destination: &Destination,
    (journal, layout): (&Arc<Journal>, &Layout),
    (own, started): (&str, Millis),
    keep: Keep,
    now: Millis,
) -> Result<Removed> {
    if !is_alone(destination, own, now).await? {
        tracing::info!(to = destination.url(), "no backups are removed: another one is being made there");
        return Ok(Removed::default());
    }
    let all = destination.backups().await?;
    let times: Vec<Millis> = all.iter().map(|found| found.name.at()).collect();
    let (mut stay, mut go) = (Vec::new(), Vec::new());
    for (found, goes) in all.into_iter().zip(to_go(&times, keep, now)) {
        // The one that was just made stays, whatever the clock said before.
        if goes && found.name.as_str() != own { go.push(found) } else { stay.push(found) }
    }
    if go.is_empty() {
        return Ok(Removed::default());
    }
    let forgetful = journal.clone();
    blocking(move || forgetful.forget_named()).await?;
    for found in &stay {
        name_all(destination, found, journal, layout).await?;
    }
    destination.remove(&go).await?;
    let before = started.min(now.saturating_sub(UNNAMED));
    let copies = remove_unnamed(destination, journal, before).await?;
    Ok(Removed { backups: go.len() as u64, copies })
}

/// Whether no other backup is being made. Words of those that were abandoned are removed.
async fn is_alone(destination: &Destination, own: &str, now: Millis) -> Result<bool> {
    let mut is_alone = true;
    for (name, since) in destination.running().await?.into_iter().filter(|(name, _)| name != own) {
        match since < now.saturating_sub(ABANDONED) {
            true => destination.end(&name).await?,
            false => is_alone = false,
        }
    }
    Ok(is_alone)
}

/// Notes what a backup names.
async fn name_all(destination: &Destination, found: &Found, journal: &Arc<Journal>, layout: &Layout) -> Result<()> {
    let manifest = destination.manifest(found, scratch::unnamed(&layout.tmp())?).await?;
    let (journal, catalog) = (journal.clone(), manifest.header.catalog.path.clone());
    blocking(move || {
        journal.add_named(&[catalog])?;
        let mut lines = manifest.into_lines()?;
        loop {
            let page = lines.page(PAGE)?;
            if page.is_empty() {
                return Ok(());
            }
            let path = |line: Line| line.copy.map(|copy| copy.path);
            journal.add_named(&page.into_iter().filter_map(path).collect::<Vec<_>>())?;
        }
    })
    .await
}

/// Removes copies that no backup names and that are from before this time.
async fn remove_unnamed(destination: &Destination, journal: &Arc<Journal>, before: Millis) -> Result<u64> {
    let (mut copies, mut removed) = (destination.copies()?, 0);
    loop {
        let page = copies.page(PAGE).await?;
        if page.is_empty() {
            return Ok(removed);
        }
        let old = page.into_iter().filter(|object| object.modified < before).map(|object| object.path).collect();
        let journal = journal.clone();
        let unnamed = blocking(move || journal.unnamed(old)).await?;
        destination.remote.delete_all(&unnamed).await?;
        removed += unnamed.len() as u64;
    }
}

//! Reading tenants back: as they are in the bucket, or as they were at a moment of the past.
//!
//! # Invariants
//! 1. **Nothing is believed without its hash.** Entries follow from the one that is asked for, by the hash that each has of
//!    the one before; a base has the SHA-256 that its entry says.
//! 2. **Never guessed.** What is missing or damaged is made good by an older base of the same chain, with the same result, or
//!    refused with the last good moment.
//! 3. **Nothing half restored is served.** A file gets its place when it is whole and was looked at.

mod apply;
pub mod folder;
mod journal;
pub mod plan;
pub mod source;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, path::Path};

use bytes::Bytes;

use self::{
    apply::{Unusable, build},
    plan::{Link, Newest, Plan, Step, plan},
    source::Source,
};
use super::{
    entry::{Body, Head, Kind, Stored},
    format::{CATALOG, Place},
    seal::Seal,
};
use crate::{
    catalog,
    clock::Millis,
    error::{Error, ErrorKind, Result},
    sqlite::{check, header, open},
    tenants::{disk::template, id::TenantId},
};

/// The longest value that is read of a restored file, in bytes: what SQLite takes at most.
const LONGEST: u64 = 1_000_000_000;

/// A file as it was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The epoch of its newest entry.
    pub epoch: u64,
    /// Its newest entry.
    pub seq: u64,
    /// When that was made.
    pub time: Millis,
    /// The hash of that.
    pub hash: [u8; 32],
    /// The tenant's head in the bucket, ended if the file is of an older entry. None if the bucket has no head.
    pub head: Option<Head>,
    /// The file's length.
    pub bytes: u64,
    /// Of the file.
    pub sha256: [u8; 32],
}

/// Writes a tenant's database as it was at a moment, or as it is in the bucket, to `into`, which is made or emptied. What is
/// there after an error is of no use. [`verify`] is the next step. `tenant` is an id, or
/// [`CATALOG`].
///
/// # Errors
/// [`ErrorKind::NotFound`] if the bucket has nothing of it; [`ErrorKind::Invalid`] if the moment is before the first one;
/// [`ErrorKind::Damaged`] if the chain is broken there, with the last good moment.
pub async fn fetch(source: &Source, tenant: &str, at: Option<Millis>, into: &Path) -> Result<Restored> {
    let head = source.head(tenant).await?;
    let newest = head.as_ref().map(newest_of);
    let mut chain = match (&head, at) {
        (Some(head), None) => Chain::of_head(source, tenant, head).await?,
        _ => Chain::all(source, tenant, newest).await?,
    };
    let mut useless = Useless::default();
    loop {
        let made = match plan(&useless.without(&chain.links), newest, at) {
            Ok(made) => made,
            // What the newest state takes is not there: an older base may do.
            Err(_) if !chain.is_all => {
                chain = Chain::all(source, tenant, newest).await?;
                continue;
            }
            Err(why) => return Err(why.error(name_of(tenant))),
        };
        match build(source, tenant, &made, into).await {
            Ok((bytes, sha256)) => return Ok(restored(&made, head, bytes, sha256)),
            Err(Unusable::Entry(seq, error)) => {
                tracing::warn!(tenant, epoch = made.epoch, seq, %error, "an entry in the bucket is of no use");
                useless.entries.insert((made.epoch, seq));
            }
            Err(Unusable::Base(seq, error)) => {
                tracing::warn!(tenant, epoch = made.epoch, seq, %error, "a base in the bucket is of no use");
                useless.bases.insert((made.epoch, seq));
            }
            Err(Unusable::Not(error)) => return Err(error),
        }
    }
}

/// How a tenant's state at a moment, or the newest, would be made. Entries are looked at, and what they have is not.
///
/// # Errors
/// As [`fetch`], for what the entries say.
pub async fn find(source: &Source, tenant: &str, at: Option<Millis>) -> Result<Plan> {
    let head = source.head(tenant).await?;
    let newest = head.as_ref().map(newest_of);
    if let (Some(head), None) = (&head, at)
        && let Ok(found) = plan(&Chain::of_head(source, tenant, head).await?.links, newest, at)
    {
        return Ok(found);
    }
    let chain = Chain::all(source, tenant, newest).await?;
    plan(&chain.links, newest, at).map_err(|why| why.error(name_of(tenant)))
}

/// What a tenant is called to people.
fn name_of(tenant: &str) -> &str {
    if tenant == CATALOG { "the catalog" } else { tenant }
}

fn newest_of(head: &Head) -> Newest {
    Newest { epoch: head.epoch, seq: head.seq, hash: head.hash }
}

fn restored(plan: &Plan, head: Option<Head>, bytes: u64, sha256: [u8; 32]) -> Restored {
    let is_newest = |head: &Head| (head.epoch, head.seq) == (plan.epoch, plan.target);
    let head = head.map(|head| Head { ended: head.ended || !is_newest(&head), ..head });
    Restored { epoch: plan.epoch, seq: plan.target, time: plan.time, hash: plan.hash, head, bytes, sha256 }
}

/// Looks through a whole restored file, and whose it is: a tenant's, or with none the catalog. May block for long.
///
/// # Errors
/// [`ErrorKind::Damaged`] if it is damaged or somebody else's.
pub fn verify(path: &Path, tenant: Option<&TenantId>) -> Result<()> {
    let damaged = |why: String| Error::new(ErrorKind::Damaged, why);
    let what = tenant.map_or_else(|| "the catalog".to_owned(), ToString::to_string);
    let conn = open::foreign(path, LONGEST)?;
    check::integrity_check(&conn).map_err(|error| match error.kind() {
        ErrorKind::Damaged => damaged(format!(
            "what was restored of {what} is damaged as it was sent ({}); choose an earlier moment with --at",
            error.message()
        )),
        _ => error,
    })?;
    match tenant {
        Some(id) => {
            let found = template::meta(&conn)
                .map_err(|e| damaged(format!("what was restored of {what} does not say whose it is")).with_source(e))?;
            if found.tenant != id.as_str() {
                return Err(damaged(format!("what was restored of {what} says that it is {}'s", found.tenant)));
            }
        }
        None => {
            let found = header::application_id(path)?;
            if !found.is_some_and(|found| catalog::APPLICATION_IDS.contains(&found)) {
                return Err(damaged("what was restored of the catalog is no catalog".to_owned()));
            }
        }
    }
    Ok(())
}

/// What was found to be missing or damaged in the bucket.
#[derive(Default)]
struct Useless {
    entries: BTreeSet<(u64, u64)>,
    /// Entries that name a base.
    bases: BTreeSet<(u64, u64)>,
}

impl Useless {
    fn without(&self, links: &[Link]) -> Vec<Link> {
        let left = links.iter().filter(|link| !self.entries.contains(&(link.epoch, link.seq)));
        let left = left.map(|link| match self.bases.contains(&(link.epoch, link.seq)) {
            true => Link { step: Step::Pages, ..link.clone() },
            false => link.clone(),
        });
        left.collect()
    }
}

/// The links of a chain, or of its end.
struct Chain {
    links: Vec<Link>,
    is_all: bool,
}

impl Chain {
    /// All links up to the newest one.
    async fn all(source: &Source, tenant: &str, newest: Option<Newest>) -> Result<Self> {
        let to = newest.map_or((u64::MAX, u64::MAX), |newest| (newest.epoch, newest.seq));
        Ok(Self { links: links(source, tenant, (0, 0), to).await?, is_all: true })
    }

    /// The links that the newest state takes.
    async fn of_head(source: &Source, tenant: &str, head: &Head) -> Result<Self> {
        let base = (head.epoch, head.base_seq);
        let found = links(source, tenant, base, base).await?;
        let from = match found.first().map(|link| link.step) {
            Some(Step::Base { after }) => head.base_seq.min(after.saturating_add(1)),
            Some(Step::Whole) => head.base_seq,
            _ => return Self::all(source, tenant, Some(newest_of(head))).await,
        };
        let links = links(source, tenant, (head.epoch, from), (head.epoch, head.seq)).await?;
        Ok(Self { links, is_all: false })
    }
}

/// The links from one entry to another, both included. One that cannot be read is left out.
async fn links(source: &Source, tenant: &str, from: (u64, u64), to: (u64, u64)) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    let seen = |place: Place<'_>, value: &Bytes| {
        match link(place, value, source.seal()) {
            Ok(link) => links.push(link),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                tracing::warn!(tenant, epoch = place.epoch, seq = place.seq, %error, "an entry in the bucket is damaged");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    };
    source.each(tenant, from, to, seen).await?;
    Ok(links)
}

fn link(place: Place<'_>, value: &Bytes, seal: &Seal) -> Result<Link> {
    let stored = Stored::parse(&place, value)?;
    let step = match stored.kind {
        Kind::Pages => Step::Pages,
        Kind::Whole => Step::Whole,
        Kind::End => Step::End,
        Kind::Base => match stored.open(None, seal)?.body {
            Body::Base(base) => Step::Base { after: base.after },
            Body::Pages(_) | Body::Whole(_) | Body::End(_) => Step::Pages,
        },
    };
    let Stored { previous, hash, time, .. } = stored;
    Ok(Link { epoch: place.epoch, seq: place.seq, step, previous, hash, time })
}

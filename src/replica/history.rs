//! Which moments of a tenant the bucket has.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    entry::{Kind, Stored},
    format::Place,
    restore::source::Source,
};
use crate::{
    clock::{Millis, wire},
    error::Result,
};

/// An entry of a tenant's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Moment {
    /// When it was made.
    #[serde(with = "wire")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Millis,
    /// Its epoch: a chain that begins anew has a greater one.
    pub epoch: u64,
    /// Its number in the epoch.
    pub seq: u64,
    /// What it is.
    pub kind: What,
    /// What it takes in the bucket, in bytes; a base without its object.
    pub bytes: u64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Commits.
    Commits,
    /// The whole database.
    Whole,
    /// A base: a whole copy.
    Base,
    /// The end of the chain: the file was deleted or replaced.
    End,
    /// Not known: it cannot be read.
    Damaged,
}

/// Up to `limit` entries of a tenant, newest first: the newest ones, or those before one of them, by its epoch and number.
/// Reads all of them.
pub async fn history(source: &Source, tenant: &str, limit: usize, before: Option<(u64, u64)>) -> Result<Vec<Moment>> {
    let mut newest = VecDeque::with_capacity(limit.min(1024));
    let mut last = 0;
    let seen = |place: Place<'_>, value: &Bytes| {
        let here = (place.epoch, place.seq);
        if before.is_none_or(|before| here < before) {
            let moment = moment(place, value, last);
            last = moment.at;
            newest.push_back(moment);
            if newest.len() > limit {
                newest.pop_front();
            }
        }
        Ok(())
    };
    source.each(tenant, (0, 0), before.unwrap_or((u64::MAX, u64::MAX)), seen).await?;
    Ok(newest.into_iter().rev().collect())
}

/// What an entry says; one that cannot be read has the time of the one before.
fn moment(place: Place<'_>, value: &Bytes, last: Millis) -> Moment {
    let Place { epoch, seq, .. } = place;
    match Stored::parse(&place, value) {
        Ok(stored) => {
            let kind = match stored.kind {
                Kind::Pages => What::Commits,
                Kind::Whole => What::Whole,
                Kind::Base => What::Base,
                Kind::End => What::End,
            };
            Moment { at: stored.time, epoch, seq, kind, bytes: stored.bytes() }
        }
        Err(error) => {
            tracing::warn!(tenant = place.tenant, epoch, seq, %error, "an entry in the bucket cannot be read");
            Moment { at: last, epoch, seq, kind: What::Damaged, bytes: value.len() as u64 }
        }
    }
}

//! Whether what is in the bucket is what users have: some of them are restored to temporary files, and compared with their own.
//!
//! Users are written to meanwhile. So a file that is the same is proof; one that is not, is a difference only if the user's own
//! was the same before and after, and the bucket had taken everything in between.

use std::{collections::hash_map::RandomState, hash::BuildHasher, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    moments::{fetch, flush, settle},
    running::Replica,
};
use crate::{
    catalog::model::State,
    config::provider::Part,
    error::{Error, ErrorKind, Result},
    tenants::{id::TenantId, store::Store},
};

/// Users looked at together.
const AT_ONCE: usize = 4;

/// Users read of the catalog at once.
const PAGE: u32 = 1000;

/// How often a user is compared who is written to meanwhile.
const TRIES: u32 = 8;

/// How long one copy may take.
const LIMIT: Duration = Duration::from_secs(600);

/// How long a user's new base is waited for.
const SETTLE: Duration = Duration::from_secs(60);

/// Users who are named.
const NAMED: usize = 100;

/// What was found, so far or in the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReplicaVerified)]
pub struct Verified {
    /// Users who are looked at.
    pub total: u64,
    /// Users who were looked at.
    pub checked: u64,
    /// Users whose restored file is the same as their own, byte for byte.
    pub whole: u64,
    /// Users whose restored file is another one.
    pub different: u64,
    /// Users who cannot be restored.
    pub broken: u64,
    /// Users of whom nothing can be said: they were written to all the time, or are not in the bucket yet.
    pub unsettled: u64,
    /// Some of those who are not whole.
    pub named: Vec<Finding>,
}

/// A user who was not found to be whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReplicaFinding)]
pub struct Finding {
    /// Who.
    pub id: String,
    /// What was found.
    pub verdict: Verdict,
    /// Why.
    pub why: String,
}

/// What was found of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ReplicaVerdict)]
pub enum Verdict {
    /// The restored file is another one.
    Different,
    /// The user cannot be restored.
    Broken,
    /// Nothing can be said.
    Unsettled,
}

impl Verdict {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Different => "different",
            Self::Broken => "broken",
            Self::Unsettled => "unsettled",
        }
    }
}

impl Verified {
    /// Whether nothing is wrong with those who were looked at.
    pub fn is_good(&self) -> bool {
        self.different == 0 && self.broken == 0
    }

    fn add(&mut self, id: &TenantId, found: Found) {
        let (verdict, why) = match found {
            Found::Gone => {
                self.total = self.total.saturating_sub(1);
                return;
            }
            Found::Whole => {
                self.checked += 1;
                self.whole += 1;
                return;
            }
            Found::Not(verdict, why) => (verdict, why),
        };
        self.checked += 1;
        match verdict {
            Verdict::Different => self.different += 1,
            Verdict::Broken => self.broken += 1,
            Verdict::Unsettled => self.unsettled += 1,
        }
        if self.named.len() < NAMED {
            self.named.push(Finding { id: id.to_string(), verdict, why });
        }
    }
}

/// What became of one user.
enum Found {
    Whole,
    /// There is nothing of the user any more, or they are not active.
    Gone,
    Not(Verdict, String),
}

/// Restores some of the active users and compares them with what they have; one at least, and at most all. `progress` is told
/// how far it is.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the bucket does not answer; those of the disk.
pub async fn verify(
    replica: &Arc<Replica>,
    store: &Store,
    sample: Part,
    mut progress: impl FnMut(&Verified) + Send,
) -> Result<Verified> {
    flush(replica).await?;
    let all = store.counts().await?.active;
    let mut chosen = Sample { left: all, wanted: sample.of(all).clamp(all.min(1), all) };
    let mut verified = Verified { total: chosen.wanted, ..Verified::default() };
    progress(&verified);
    let mut after = None;
    while chosen.wanted > 0 {
        let rows = store.list(Some(State::Active), after.take(), PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.id.clone());
        let ids: Vec<TenantId> = rows.into_iter().map(|row| row.id).filter(|_| chosen.takes_next()).collect();
        let found = stream::iter(ids).map(|id| {
            let (replica, store) = (replica.clone(), store.clone());
            async move {
                let found = Box::pin(compare(&replica, &store, &id)).await;
                (id, found)
            }
        });
        let mut found = found.buffer_unordered(AT_ONCE);
        while let Some((id, found)) = found.next().await {
            verified.add(&id, found?);
            progress(&verified);
        }
    }
    // Who was deleted since they were counted.
    verified.total = verified.checked;
    Ok(verified)
}

/// Chooses so many of those who are left, each with the same chance, in one pass (Knuth, The Art of Computer Programming 2,
/// 3.4.2, algorithm S).
struct Sample {
    left: u64,
    wanted: u64,
}

impl Sample {
    fn takes_next(&mut self) -> bool {
        // Who came since they were counted is not chosen.
        let is_chosen = self.left > 0 && random() % self.left < self.wanted;
        self.left = self.left.saturating_sub(1);
        self.wanted -= u64::from(is_chosen);
        is_chosen
    }
}

/// A random number: of a hasher with keys of its own.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Compares what a user has with what is restored of them.
///
/// # Errors
/// Those for which no other user could be compared, either.
async fn compare(replica: &Replica, store: &Store, id: &TenantId) -> Result<Found> {
    let not = |verdict, why: String| Ok(Found::Not(verdict, why));
    // The digest of what the user had before the bucket had taken all of it, and something else was restored.
    let mut other = None;
    for attempt in 0..TRIES {
        match store.find(id).await? {
            Some(row) if row.state == State::Active => {}
            // To look at a closed file, its chain would have to end.
            _ => return Ok(Found::Gone),
        }
        let own = match store.snapshot(id, LIMIT, || Ok(())).await {
            Ok(copy) => copy,
            Err(error) if error.kind() == ErrorKind::UnknownTenant => return Ok(Found::Gone),
            Err(error) if is_of_all(&error) => return Err(error),
            Err(error) => return not(Verdict::Unsettled, error.detail()),
        };
        if other == Some(own.sha256) {
            return not(Verdict::Different, "what is restored is another file than the user has".to_owned());
        }
        // Most are not written to, and their chains go on.
        let is_settled = attempt > 0;
        if is_settled {
            if let Err(error) = settle(replica, id.as_str(), SETTLE).await {
                return not(Verdict::Unsettled, error.detail());
            }
            flush(replica).await?;
        }
        match Box::pin(fetch(replica, store, id, None)).await {
            Ok((_, restored)) if restored.sha256 == own.sha256 => return Ok(Found::Whole),
            Ok(_) => other = is_settled.then_some(own.sha256),
            Err(error) if is_of_all(&error) => return Err(error),
            Err(error) if is_settled => return not(Verdict::Broken, error.detail()),
            // It may have no base yet.
            Err(_) => {}
        }
    }
    not(Verdict::Unsettled, "the user was written to all the time".to_owned())
}

/// Whether an error is of the bucket or the disk, and not of one user.
fn is_of_all(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::DiskFull | ErrorKind::Config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_as_many_as_were_wanted_whoever_they_are() {
        let mut seen = [0_u32; 20];
        for _ in 0..500 {
            let mut sample = Sample { left: 20, wanted: 5 };
            let chosen: Vec<usize> = (0..20).filter(|_| sample.takes_next()).collect();
            assert_eq!((chosen.len(), sample.wanted), (5, 0));
            chosen.into_iter().for_each(|at| seen[at] += 1);
        }
        // Of 125 on average.
        assert!(seen.iter().all(|count| (50..220).contains(count)), "{seen:?}");
        let mut all = Sample { left: 3, wanted: 3 };
        assert_eq!((0..5).filter(|_| all.takes_next()).count(), 3);
    }

    #[test]
    fn who_is_gone_counts_for_nothing() {
        let (ada, bob): (TenantId, TenantId) = ("ada".parse().unwrap(), "bob".parse().unwrap());
        let mut verified = Verified { total: 3, ..Verified::default() };
        verified.add(&ada, Found::Gone);
        verified.add(&ada, Found::Whole);
        assert!(verified.is_good());
        verified.add(&bob, Found::Not(Verdict::Broken, "gone".to_owned()));
        assert_eq!((verified.total, verified.checked, verified.whole, verified.broken), (2, 2, 1, 1));
        assert!(!verified.is_good() && verified.named[0].id == "bob");
    }
}

//! Which entries of a chain a state of the past is made of. Pure.
//!
//! # Invariants
//! 1. **Exactly the last entry before the moment.** That this is the last one is known by the one after it, or by the head;
//!    else there is no such moment. The time of an entry itself is enough for its own moment.
//! 2. **No entry without its hash.** From the first one that is applied to the target, each has the hash of the one before.
//!    What is broken before a base does not matter for what comes after it.

use crate::{
    clock::{Millis, rfc3339},
    error::{Error, ErrorKind},
};

/// What a plan needs to know of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its epoch.
    pub epoch: u64,
    /// Its number in the epoch, from 1.
    pub seq: u64,
    /// What it is.
    pub step: Step,
    /// The hash of the one before.
    pub previous: [u8; 32],
    /// Its own.
    pub hash: [u8; 32],
    /// When it was made.
    pub time: Millis,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Pages that have changed.
    Pages,
    /// All pages.
    Whole,
    /// A copy in an object, to which the pages of the entries after this one belong.
    Base {
        /// The last entry that is in the copy for certain.
        after: u64,
    },
    /// The end of the epoch.
    End,
}

/// Which entry is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// How a state is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The epoch of all that it takes.
    pub epoch: u64,
    /// The last entry that is applied.
    pub target: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// Its time.
    pub time: Millis,
    /// Where to begin, best first. Each gives the same state.
    pub starts: Vec<Start>,
}

/// Where a state begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The entry that has it, or names it.
    pub seq: u64,
    /// The first entry whose pages are applied; the last one is the plan's target.
    pub first: u64,
    /// Whether it is in an object.
    pub is_base: bool,
}

/// Why there is no state of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoMoment {
    /// There is nothing of this tenant.
    Nothing,
    /// It is before the first one.
    TooOld {
        /// The first one.
        oldest: Millis,
    },
    /// What it is made of is not all there, or not as it was.
    Broken {
        /// The last moment before it that there is a state of.
        good: Option<Millis>,
    },
}

impl NoMoment {
    /// The error for whoever asked for a tenant's state.
    pub fn error(self, tenant: &str) -> Error {
        match self {
            Self::Nothing => Error::new(
                ErrorKind::NotFound,
                format!("the replica has nothing of {tenant}; `cubby tenants history` lists what it has of a user"),
            ),
            Self::TooOld { oldest } => Error::invalid(
                "at",
                format!("the replica's first moment of {tenant} is {}; choose that or a later one", rfc3339(oldest)),
            ),
            Self::Broken { good: Some(good) } => Error::new(
                ErrorKind::Damaged,
                format!(
                    "the chain of {tenant} is broken before that moment, and nothing is guessed: the last good moment is \
                     {}. Ask for that one, with --at",
                    rfc3339(good)
                ),
            ),
            Self::Broken { good: None } => Error::new(
                ErrorKind::Damaged,
                format!(
                    "the chain of {tenant} is broken, and no moment before that can be restored: try a later one with \
                     --at, or a backup"
                ),
            ),
        }
    }
}

/// How the state at a moment is made; of the newest without one. `chain` has all there is of a tenant, or all of the newest
/// epoch from some entry on, in order. `newest` is what the head says.
///
/// # Errors
/// Why it cannot be made.
pub fn plan(chain: &[Link], newest: Option<Newest>, at: Option<Millis>) -> Result<Plan, NoMoment> {
    let walk = Walk::new(chain, newest);
    let Some(last) = chain.len().checked_sub(1) else {
        return Err(if newest.is_some() { NoMoment::Broken { good: None } } else { NoMoment::Nothing });
    };
    let target = match at {
        None => Some(last),
        Some(at) => walk.pick(at),
    };
    if let Some(target) = target
        && walk.is_good(target, at)
    {
        return Ok(walk.plan(target));
    }
    // The newest moment before it, or the first one after it.
    let good = |index: usize| {
        let at = chain[index].time;
        walk.pick(at).is_some_and(|target| walk.is_good(target, Some(at))).then_some(at)
    };
    let wanted = at.unwrap_or(Millis::MAX);
    let before =
        target.and_then(|target| (0..=target).rev().filter(|index| chain[*index].time < wanted).find_map(good));
    match before {
        Some(before) => Err(NoMoment::Broken { good: Some(before) }),
        None => match (0..chain.len()).find_map(good) {
            Some(oldest) if oldest > wanted => Err(NoMoment::TooOld { oldest }),
            _ => Err(NoMoment::Broken { good: None }),
        },
    }
}

struct Walk<'c> {
    chain: &'c [Link],
    newest: Option<Newest>,
    /// For each link, the number of the first one of the unbroken run that it is in.
    run: Vec<u64>,
    /// For each link, the latest number from which the entries have to be applied.
    from: Vec<Option<u64>>,
}

impl<'c> Walk<'c> {
    fn new(chain: &'c [Link], newest: Option<Newest>) -> Self {
        let (mut run, mut from) = (Vec::with_capacity(chain.len()), Vec::with_capacity(chain.len()));
        for (index, link) in chain.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| (&chain[before], run[before], from[before]));
            let before = before.filter(|(before, ..)| before.epoch == link.epoch);
            run.push(match before {
                Some((before, first, _)) if follows(before, link) => first,
                _ => link.seq,
            });
            from.push(before.and_then(|(_, _, from)| from).max(first_of(link)));
        }
        Self { chain, newest, run, from }
    }

    /// The last link of no later time.
    fn pick(&self, at: Millis) -> Option<usize> {
        self.chain.iter().rposition(|link| link.time <= at)
    }

    /// Whether the state after a link can be made, and is that of the moment.
    fn is_good(&self, target: usize, at: Option<Millis>) -> bool {
        self.from[target].is_some_and(|from| from >= self.run[target]) && self.is_last(target, at)
    }

    /// Whether no entry that is not there lies between a link and the moment for which it was picked.
    fn is_last(&self, target: usize, at: Option<Millis>) -> bool {
        let (link, is_own) = (&self.chain[target], at == Some(self.chain[target].time));
        match self.chain.get(target + 1) {
            Some(next) if next.epoch == link.epoch => follows(link, next) || (is_own && next.seq > link.seq + 1),
            // How an epoch ended that another one follows is said by nobody but itself.
            Some(_) => true,
            None => self.newest.is_none_or(|newest| {
                newest == Newest::of(link) || (is_own && (newest.epoch, newest.seq) > (link.epoch, link.seq))
            }),
        }
    }

    fn plan(&self, target: usize) -> Plan {
        let (link, run) = (&self.chain[target], self.run[target]);
        let within = self.chain[..=target].iter().rev();
        let within = within.take_while(|start| start.epoch == link.epoch && start.seq >= run);
        let mut starts: Vec<Start> = within
            .filter_map(|start| {
                let first = first_of(start).filter(|first| *first >= run)?;
                Some(Start { seq: start.seq, first, is_base: matches!(start.step, Step::Base { .. }) })
            })
            .collect();
        starts.sort_by_key(|start| std::cmp::Reverse((start.first, start.seq)));
        Plan { epoch: link.epoch, target: link.seq, hash: link.hash, time: link.time, starts }
    }
}

impl Newest {
    fn of(link: &Link) -> Self {
        Self { epoch: link.epoch, seq: link.seq, hash: link.hash }
    }
}

/// The first entry whose pages are applied to a state that begins with this one; none if none does.
fn first_of(link: &Link) -> Option<u64> {
    match link.step {
        Step::Whole => Some(link.seq),
        Step::Base { after } if after < link.seq => Some(after + 1),
        Step::Base { .. } | Step::Pages | Step::End => None,
    }
}

fn follows(before: &Link, link: &Link) -> bool {
    before.seq.checked_add(1) == Some(link.seq) && link.previous == before.hash
}

#[cfg(test)]
mod tests;

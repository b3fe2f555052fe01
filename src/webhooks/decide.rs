//! What an event changes, as a pure function: a test tries every order of every history.
//!
//! # Invariant
//! **Order does not matter.** The same events in any order, each any number of times, lead to the
//! same standing. It holds because each part of a standing only grows: a profile is replaced by a
//! newer one only ([`Profile::supersedes`], a total order), and a deletion is final. Broken, a
//! user's old name comes back, or a deleted user does.
//!
//! Only an operator or the provider's own list brings a user back; deletions from before that
//! moment are ignored. The moment is by this server's clock, the time of a deletion by the provider's: for
//! a list it is set so early that the two clocks may differ (`reconcile/changes.rs`).

use super::event::Event;
use crate::catalog::model::{DeliveryOutcome, Millis, Profile, Row, State};

/// The part of a tenant's row that events change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub state: State,
    /// The provider's view. Kept up to date while the tenant is deleted, too, until it is purged: a
    /// restored user has the newest.
    pub profile: Profile,
    /// Whether file and personal data were erased.
    pub purged: bool,
    /// When an operator or a reconcile brought the user back.
    pub restored: Option<Millis>,
}

impl From<&Row> for Standing {
    fn from(row: &Row) -> Self {
        Self { state: row.state, profile: row.profile.clone(), purged: row.purged.is_some(), restored: row.restored }
    }
}

/// What applying a decision does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Write the profile.
    Write,
    /// Create file and row.
    Create,
    /// Mark the tenant deleted; its file is kept until its retention ends.
    Delete,
    /// Insert a tombstone for a user without a row.
    InsertTombstone,
}

/// What an event changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The standing afterwards.
    pub standing: Option<Standing>,
    /// What is to be done.
    pub effect: Effect,
    /// What the delivery's record says.
    pub outcome: DeliveryOutcome,
}

/// Decides what `event` changes for a tenant with this standing, or for one without a row.
pub fn decide(known: Option<&Standing>, event: &Event) -> Decision {
    let (effect, outcome) = match event {
        Event::Other(_) => (Effect::None, DeliveryOutcome::Ignored),
        Event::Seen { user, created } => seen(known, &user.profile, *created),
        Event::Gone { at, .. } => gone(known, *at),
    };
    let standing = match (effect, event) {
        (Effect::Create, Event::Seen { user, .. }) => {
            Some(Standing { state: State::Active, profile: user.profile.clone(), purged: false, restored: None })
        }
        (Effect::Write, Event::Seen { user, .. }) => {
            known.map(|known| Standing { profile: user.profile.clone(), ..known.clone() })
        }
        (Effect::Delete, _) => known.map(|known| Standing { state: State::Deleted, ..known.clone() }),
        (Effect::InsertTombstone, _) => {
            Some(Standing { state: State::Deleted, profile: Profile::default(), purged: false, restored: None })
        }
        _ => known.cloned(),
    };
    Decision { standing, effect, outcome }
}

fn seen(known: Option<&Standing>, profile: &Profile, created: bool) -> (Effect, DeliveryOutcome) {
    let Some(known) = known else { return (Effect::Create, DeliveryOutcome::Created) };
    if known.purged {
        // Nothing of a purged user is stored again.
        return (Effect::None, DeliveryOutcome::Ignored);
    }
    let newer = profile.supersedes(&known.profile);
    let effect = if newer { Effect::Write } else { Effect::None };
    let outcome = match (known.state, newer, created) {
        (State::Deleted, _, _) | (_, false, false) => DeliveryOutcome::Ignored,
        (_, true, _) => DeliveryOutcome::Updated,
        (_, false, true) => DeliveryOutcome::Exists,
    };
    (effect, outcome)
}

fn gone(known: Option<&Standing>, at: Option<Millis>) -> (Effect, DeliveryOutcome) {
    match known {
        None => (Effect::InsertTombstone, DeliveryOutcome::Deleted),
        Some(known) if known.state == State::Deleted => (Effect::None, DeliveryOutcome::Ignored),
        // Restored after this deletion.
        Some(Standing { restored: Some(restored), .. }) if at.is_some_and(|at| at < *restored) => {
            (Effect::None, DeliveryOutcome::Ignored)
        }
        Some(_) => (Effect::Delete, DeliveryOutcome::Deleted),
    }
}

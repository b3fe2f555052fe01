//! What an event means for what is known: a pure function, so that every order of every history
//! can be tried.
//!
//! # Invariant
//! **Order does not matter.** The same events in any order, each any number of times, lead to the
//! same standing. It holds because each part of a standing only grows: a profile gives way to a
//! newer one alone ([`Profile::supersedes`], a total order), and a deletion is final. Broken, a
//! user's old name comes back, or a deleted user does.
//!
//! Only an operator or the provider's own list brings a user back; deletions from before that
//! moment are then history. The moment is this server's, the time of a deletion the provider's: for
//! a list it is set so early that the two clocks may differ (`sync/carry.rs`).

use super::event::Event;
use crate::{
    catalog::model::{DeliveryOutcome, Millis, Profile, Row, State},
    tenants::id::TenantId,
};

/// What is known of a tenant, as far as events change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub state: State,
    /// The provider's view. Kept up to date under a tombstone too, until it is purged: whoever
    /// restores the user finds the newest.
    pub profile: Profile,
    /// Whether file and personal data were removed for good.
    pub purged: bool,
    /// When an operator or a reconcile brought the user back.
    pub restored: Option<Millis>,
}

impl From<&Row> for Standing {
    fn from(row: &Row) -> Self {
        Self { state: row.state, profile: row.profile.clone(), purged: row.purged.is_some(), restored: row.restored }
    }
}

/// What must be done to carry a decision out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Write the profile.
    Write,
    /// Make file and row.
    Create,
    /// Take the tenant out of use; its file is kept until its retention ends.
    Delete,
    /// Write a tombstone for a user of whom there is nothing else.
    Bury,
}

/// The new standing, how to get there, and what to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What is known afterwards.
    pub standing: Option<Standing>,
    /// How to get there.
    pub effect: Effect,
    /// What to call it.
    pub outcome: DeliveryOutcome,
}

/// Decides what `event` means for a tenant of which `known` is known; none: nothing.
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
        (Effect::Bury, _) => {
            Some(Standing { state: State::Deleted, profile: Profile::default(), purged: false, restored: None })
        }
        _ => known.cloned(),
    };
    Decision { standing, effect, outcome }
}

fn seen(known: Option<&Standing>, profile: &Profile, created: bool) -> (Effect, DeliveryOutcome) {
    let Some(known) = known else { return (Effect::Create, DeliveryOutcome::Created) };
    if known.purged {
        // The user was forgotten; nothing of them is stored again.
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
        None => (Effect::Bury, DeliveryOutcome::Deleted),
        Some(known) if known.state == State::Deleted => (Effect::None, DeliveryOutcome::Ignored),
        // Brought back since.
        Some(Standing { restored: Some(restored), .. }) if at.is_some_and(|at| at < *restored) => {
            (Effect::None, DeliveryOutcome::Ignored)
        }
        Some(_) => (Effect::Delete, DeliveryOutcome::Deleted),
    }
}

/// The tenant a decision is about; none for events that concern nobody.
pub fn subject(event: &Event) -> Option<&TenantId> {
    match event {
        Event::Other(_) => None,
        Event::Seen { .. } | Event::Gone { .. } => event.tenant(),
    }
}

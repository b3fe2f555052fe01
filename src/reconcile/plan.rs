//! The differences between the catalog and the provider. Pure, with two rows in memory.

use std::{cmp::Ordering, fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

use crate::{
    catalog::model::{Millis, Row, State},
    error::{Error, Result},
    identity::user::User,
    tenants::id::TenantId,
};

/// One difference, as the step that removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// At the provider and not in the catalog.
    Create(User),
    /// In the catalog with an older profile.
    Update(User),
    /// Deleted in the catalog, and at the provider.
    Restore(User),
    /// In the catalog and not at the provider.
    Delete(TenantId),
}

/// What a plan is known by: two plans with the same steps for the same users have the same digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanDigest(u128);

impl fmt::Display for PlanDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for PlanDigest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex);
        number.map(Self).ok_or("the `plan` of a dry run's report, 32 hexadecimal digits")
    }
}

/// A digest that is being made. The steps come in the order of ids, so equal plans are equal streams.
#[derive(Default)]
pub(super) struct Digesting(Sha256);

impl Digesting {
    /// Adds a step. What an update writes is not part of it: a profile that changed once more is updated all the same.
    pub(super) fn add(&mut self, step: &Step) {
        match step {
            Step::Create(user) => self.note("create", &user.id),
            Step::Update(user) => self.note("update", &user.id),
            Step::Restore(user) => self.note("restore", &user.id),
            Step::Delete(id) => self.note("delete", id),
        }
    }

    /// Adds that a user is left alone whom the steps would delete.
    pub(super) fn spare(&mut self, id: &TenantId) {
        self.note("spare", id);
    }

    /// Adds that nobody is deleted, since they are too many.
    pub(super) fn hold(&mut self) {
        self.0.update("hold\n");
    }

    fn note(&mut self, what: &str, id: &TenantId) {
        self.0.update(format!("{what} {id}\n"));
    }

    /// The digest.
    pub(super) fn finish(&self) -> PlanDigest {
        let digest = self.0.clone().finalize();
        PlanDigest(digest.iter().take(16).fold(0, |number, byte| (number << 8) | u128::from(*byte)))
    }
}

/// The step for one user, by a list that was started at `since`. A change in the catalog after that moment is newer
/// than the list and stands. This server's clock dates `since`, and the creation, deletion and restoration of rows and
/// the arrival of deliveries.
pub fn step(here: Option<&Row>, there: Option<&User>, since: Millis) -> Option<Step> {
    match (here, there) {
        (None, None) => None,
        (None, Some(user)) => Some(Step::Create(user.clone())),
        (Some(row), None) => {
            let settled = row.created < since && row.restored.is_none_or(|at| at < since);
            (row.state != State::Deleted && settled).then(|| Step::Delete(row.id.clone()))
        }
        (Some(row), Some(user)) if row.state == State::Deleted => {
            let gone = row.deleted.max(row.deletion_reported);
            gone.is_none_or(|at| at < since).then(|| Step::Restore(user.clone()))
        }
        (Some(row), Some(user)) => stale(row, user).then(|| Step::Update(user.clone())),
    }
}

/// Whether the provider's profile is newer than the row's, or differs and is as old: then the provider's is right, which
/// repairs a damaged row.
pub fn stale(row: &Row, user: &User) -> bool {
    let (here, there) = (row.profile.provider_updated_at, user.profile.provider_updated_at);
    there > here || (there == here && !user.profile.same_content(&row.profile))
}

/// Merges two streams, each sorted by id, into the steps that make the first equal to the second. Counts users at the
/// provider that need no step.
///
/// # Errors
/// An error of either stream, and that a stream is not sorted, which would make users seem absent.
pub fn diff(
    here: impl Iterator<Item = Result<Row>>,
    there: impl Iterator<Item = Result<User>>,
    since: Millis,
    unchanged: &mut u64,
) -> impl Iterator<Item = Result<Step>> {
    let (mut here, mut there) = (here.peekable(), there.peekable());
    let mut last: Option<TenantId> = None;
    let mut next = move || loop {
        let order = match (here.peek(), there.peek()) {
            (None, None) => return Ok(None),
            (Some(Err(_)), _) | (Some(_), None) => Ordering::Less,
            (_, Some(Err(_))) | (None, Some(_)) => Ordering::Greater,
            (Some(Ok(row)), Some(Ok(user))) => row.id.cmp(&user.id),
        };
        let row = here.next_if(|_| order != Ordering::Greater).transpose()?;
        let user = there.next_if(|_| order != Ordering::Less).transpose()?;
        let Some(id) = row.as_ref().map(|row| &row.id).or(user.as_ref().map(|user| &user.id)) else { return Ok(None) };
        if let Some(last) = last.replace(id.clone())
            && last >= *id
        {
            return Err(Error::internal(format!("a stream of users is not sorted: {last}, {id}")));
        }
        match step(row.as_ref(), user.as_ref(), since) {
            Some(step) => return Ok(Some(step)),
            None => *unchanged += u64::from(user.is_some()),
        }
    };
    std::iter::from_fn(move || next().transpose())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::catalog::{model::Profile, quota::Quota};

    const SINCE: Millis = 1_000;

    fn user(id: &str, name: &str, updated: Option<Millis>) -> User {
        let profile = Profile { first_name: Some(name.into()), provider_updated_at: updated, ..Profile::default() };
        User { id: id.parse().unwrap(), profile }
    }

    fn row(id: &str, state: State, profile: Profile) -> Row {
        Row {
            id: id.parse().unwrap(),
            state,
            reason: None,
            consecutive_quarantines: 0,
            fault: None,
            fault_at: None,
            retry_at: None,
            created: 1,
            deleted: (state == State::Deleted).then_some(2),
            purge_after: None,
            purged: None,
            restored: None,
            state_before: None,
            reason_before: None,
            deletion_reported: None,
            drifted: None,
            quota: Quota::default(),
            schema_version: None,
            bytes: None,
            last_seen: None,
            last_backup: None,
            workspace: String::new(),
            profile,
        }
    }

    #[test]
    fn a_change_after_the_list_was_started_stands_and_of_equal_age_the_providers_profile_is_right() {
        let there = user("a", "right", Some(5));
        let active = |name, at| row("a", State::Active, user("a", name, at).profile);
        let gone = || row("a", State::Deleted, Profile::default());
        let same = Profile { provider_event_at: Some(7), ..there.profile.clone() };
        let update = Some(Step::Update(there.clone()));
        for (here, there, expected, what) in [
            (Row { created: SINCE, ..active("x", None) }, None, None, "signed up meanwhile"),
            (Row { restored: Some(SINCE), ..active("x", None) }, None, None, "brought back meanwhile"),
            (Row { deletion_reported: Some(SINCE), ..gone() }, Some(&there), None, "reported again meanwhile"),
            (Row { deleted: Some(SINCE), ..gone() }, Some(&there), None, "deleted meanwhile"),
            (active("newer", Some(6)), Some(&there), None, "changed meanwhile"),
            (active("damaged", Some(5)), Some(&there), update, "of equal age, and damaged"),
            (row("a", State::Suspended, same), Some(&there), None, "when an event came is no difference"),
        ] {
            assert_eq!(step(Some(&here), there, SINCE), expected, "{what}");
        }
    }

    #[test]
    fn a_stream_that_breaks_or_is_out_of_order_is_an_error_and_no_deletion() {
        let row = |id| Ok(row(id, State::Active, Profile::default()));
        for here in [[row("b"), row("a")], [row("a"), Err(Error::internal("broken"))]] {
            let steps: Vec<_> = diff(here.into_iter(), std::iter::empty(), SINCE, &mut 0).collect();
            assert!(steps[0].is_ok() && steps[1].is_err());
        }
        let there = [Ok(user("a", "x", None)), Err(Error::internal("broken"))];
        assert!(diff(std::iter::empty(), there.into_iter(), SINCE, &mut 0).any(|step| step.is_err()));
    }

    #[test]
    fn a_plan_is_known_by_its_steps_and_by_whom_it_spares() {
        let digest = |steps: &[Step], spared: &[&str]| {
            let mut digesting = Digesting::default();
            steps.iter().for_each(|step| digesting.add(step));
            spared.iter().for_each(|id| digesting.spare(&id.parse().unwrap()));
            digesting.finish()
        };
        let (create, delete) = (Step::Create(user("a", "x", None)), Step::Delete("b".parse().unwrap()));
        let plan = digest(&[create.clone(), delete.clone()], &[]);
        assert_eq!(plan, digest(&[Step::Create(user("a", "y", Some(1))), delete.clone()], &[]));
        for other in [
            digest(std::slice::from_ref(&create), &[]),
            digest(&[Step::Restore(user("a", "x", None)), delete.clone()], &[]),
            digest(&[create, delete], &["b"]),
        ] {
            assert_ne!(plan, other);
        }
        assert_eq!(plan.to_string().parse(), Ok(plan));
        for wrong in ["", "abc", "+0000000000000000000000000000000", "g0000000000000000000000000000000"] {
            wrong.parse::<PlanDigest>().unwrap_err();
        }
    }

    type World = BTreeMap<String, (u8, Option<Millis>)>;

    fn world() -> impl Strategy<Value = World> {
        proptest::collection::btree_map("[a-f]{1,2}", (0_u8..3, proptest::option::of(0_i64..3)), 0..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn after_the_steps_both_sides_have_the_same_users(there in world(), here in world(), dead in any::<u64>()) {
            let users: Vec<User> = there.iter().map(|(id, (name, at))| user(id, &name.to_string(), *at)).collect();
            let mut rows: BTreeMap<String, Row> = here
                .iter()
                .enumerate()
                .map(|(n, (id, (name, at)))| {
                    let state = if dead >> (n % 64) & 1 == 1 { State::Deleted } else { State::Active };
                    (id.clone(), row(id, state, user(id, &name.to_string(), *at).profile))
                })
                .collect();
            for round in 0..2 {
                let here: Vec<Row> = rows.values().cloned().collect();
                let mut unchanged = 0;
                let steps = diff(here.into_iter().map(Ok), users.iter().cloned().map(Ok), SINCE, &mut unchanged);
                let steps: Vec<Step> = steps.collect::<Result<_>>().unwrap();
                prop_assert!(round == 0 || steps.is_empty(), "a second run finds nothing: {steps:?}");
                for step in steps {
                    match step {
                        Step::Update(user) => rows.get_mut(user.id.as_str()).unwrap().profile = user.profile,
                        Step::Delete(id) => rows.get_mut(id.as_str()).unwrap().state = State::Deleted,
                        Step::Create(User { id, profile }) => {
                            let before = rows.insert(id.to_string(), row(id.as_str(), State::Active, profile));
                            prop_assert!(before.is_none());
                        }
                        Step::Restore(User { id, profile }) => {
                            let before = rows.insert(id.to_string(), row(id.as_str(), State::Active, profile));
                            prop_assert!(before.is_some_and(|row| row.state == State::Deleted));
                        }
                    }
                }
                let live: Vec<&String> = rows.iter().filter(|(_, row)| row.state != State::Deleted).map(|(id, _)| id).collect();
                prop_assert_eq!(live, there.keys().collect::<Vec<_>>());
            }
            for user in &users {
                let row = &rows[user.id.as_str()];
                prop_assert!(row.profile.provider_updated_at >= user.profile.provider_updated_at);
                if row.profile.provider_updated_at == user.profile.provider_updated_at {
                    prop_assert!(row.profile.same_content(&user.profile));
                }
            }
        }
    }
}

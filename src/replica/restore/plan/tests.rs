//! Plans against a model that keeps the state after each entry.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

type Pages = BTreeMap<u8, u32>;

/// A chain with what each of its entries has, and the state after each.
#[derive(Debug, Clone, Default)]
struct Model {
    links: Vec<Link>,
    /// What is applied, or what the base's object has.
    content: Vec<Pages>,
    states: Vec<Pages>,
}

fn hash(epoch: u64, seq: u64) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&epoch.to_le_bytes());
    hash[8..16].copy_from_slice(&seq.to_le_bytes());
    hash
}

impl Model {
    /// Adds an entry of a kind, whose base is so old, so long after the one before.
    fn add(&mut self, kind: u8, age: u64, later: i64) {
        let before = self.links.last();
        let time = before.map_or(100, |link| link.time) + later;
        let number = u32::try_from(self.links.len()).unwrap();
        let (epoch, seq) = match before {
            Some(link) if link.step != Step::End => (link.epoch, link.seq + 1),
            Some(link) => (link.epoch + 1, 1),
            None => (1, 1),
        };
        let mut state = if seq == 1 { Pages::new() } else { self.states.last().cloned().unwrap_or_default() };
        let changed = Pages::from([(kind % 5, number), (kind % 3, number)]);
        let (step, content) = match kind % 8 {
            // Nothing can be made of an epoch before its first whole state.
            _ if seq == 1 => (Step::Whole, changed),
            0 => (Step::Whole, state.keys().map(|page| (*page, number)).chain(changed).collect()),
            1 => {
                let after = (seq - 1).saturating_sub(age);
                // The copy was made of a state between the two.
                let back = usize::try_from(if age > 1 { age / 2 } else { 0 }.min(seq - 2)).unwrap();
                (Step::Base { after }, self.states[self.states.len() - 1 - back].clone())
            }
            2 => (Step::End, Pages::new()),
            _ => (Step::Pages, changed),
        };
        match step {
            Step::Whole => state.clone_from(&content),
            Step::Pages => state.extend(content.clone()),
            Step::Base { .. } | Step::End => {}
        }
        let previous = if seq == 1 { [0; 32] } else { hash(epoch, seq - 1) };
        self.links.push(Link { epoch, seq, step, previous, hash: hash(epoch, seq), time });
        self.content.push(content);
        self.states.push(state);
    }

    fn newest(&self) -> Option<Newest> {
        self.links.last().map(Newest::of)
    }

    fn index(&self, epoch: u64, seq: u64) -> usize {
        self.links.iter().position(|link| (link.epoch, link.seq) == (epoch, seq)).unwrap()
    }

    /// What restoring by a plan gives.
    fn restore(&self, plan: &Plan, start: &Start) -> Pages {
        let mut state =
            if start.is_base { self.content[self.index(plan.epoch, start.seq)].clone() } else { Pages::new() };
        for seq in start.first..=plan.target {
            let index = self.index(plan.epoch, seq);
            match self.links[index].step {
                Step::Whole => state.clone_from(&self.content[index]),
                Step::Pages => state.extend(self.content[index].clone()),
                Step::Base { .. } | Step::End => {}
            }
        }
        state
    }
}

fn models() -> impl Strategy<Value = Model> {
    vec((any::<u8>(), 0..5_u64, 0..4_i64), 1..40).prop_map(|entries| {
        let mut model = Model::default();
        entries.into_iter().for_each(|(kind, age, later)| model.add(kind, age, later));
        model
    })
}

proptest! {
    #[test]
    fn a_moment_is_the_state_after_the_last_entry_before_it(model in models(), at in 90..220_i64) {
        let expected = model.links.iter().rposition(|link| link.time <= at);
        match plan(&model.links, model.newest(), Some(at)) {
            Ok(plan) => {
                let index = expected.unwrap();
                prop_assert_eq!((plan.epoch, plan.target), (model.links[index].epoch, model.links[index].seq));
                for start in &plan.starts {
                    prop_assert_eq!(&model.restore(&plan, start), &model.states[index], "{:?}", start);
                }
                prop_assert!(!plan.starts.is_empty());
            }
            Err(NoMoment::TooOld { oldest }) => prop_assert!(expected.is_none() && oldest == model.links[0].time),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
        let newest = plan(&model.links, model.newest(), None).unwrap();
        let last = model.links.last().unwrap();
        prop_assert_eq!((newest.epoch, newest.target), (last.epoch, last.seq));
    }

    /// Entries are lost, or have another hash. What is restored is right, and what is refused needs one of them.
    #[test]
    fn of_a_broken_chain_nothing_is_guessed(
        model in models(),
        lost in vec(any::<prop::sample::Index>(), 0..4),
        turned in vec(any::<prop::sample::Index>(), 0..3),
        at in 90..220_i64,
    ) {
        let lost: Vec<usize> = lost.iter().map(|index| index.index(model.links.len())).collect();
        let turned: Vec<usize> = turned.iter().map(|index| index.index(model.links.len())).collect();
        let mut left = model.links.clone();
        turned.iter().for_each(|index| left[*index].hash[31] = 1);
        let left: Vec<Link> =
            (0..left.len()).filter(|index| !lost.contains(index)).map(|index| left[index].clone()).collect();
        let wrong = |link: &Link| {
            let index = model.index(link.epoch, link.seq);
            lost.contains(&index) || turned.contains(&index)
        };
        let intact = |epoch: u64, from: u64, to: u64| {
            (from..=to).all(|seq| !lost.contains(&model.index(epoch, seq)))
                && (from..to).all(|seq| !turned.contains(&model.index(epoch, seq)))
        };
        match plan(&left, model.newest(), Some(at)) {
            Ok(plan) => {
                let index = model.index(plan.epoch, plan.target);
                let real = model.links.iter().rposition(|link| link.time <= at).unwrap();
                // An entry of the same millisecond may be lost, and the last ones of an epoch.
                prop_assert!(index == real || model.links[index].time == at
                    || model.links[index + 1..=real].iter().all(wrong), "{index} {real}");
                for start in &plan.starts {
                    prop_assert!(intact(plan.epoch, start.first, plan.target));
                    prop_assert_eq!(&model.restore(&plan, start), &model.states[index]);
                }
            }
            Err(NoMoment::Broken { good: Some(good) }) => {
                prop_assert!(good < at);
                prop_assert!(plan(&left, model.newest(), Some(good)).is_ok());
            }
            Err(NoMoment::TooOld { oldest }) => {
                prop_assert!(oldest > at);
                prop_assert!(plan(&left, model.newest(), Some(oldest)).is_ok());
            }
            Err(NoMoment::Broken { good: None } | NoMoment::Nothing) => {
                prop_assert!(!lost.is_empty() || !turned.is_empty());
            }
        }
    }
}

fn links(steps: &[(Step, Millis)]) -> Vec<Link> {
    let link = |(index, (step, time)): (usize, &(Step, Millis))| {
        let seq = index as u64 + 1;
        let previous = if seq == 1 { [0; 32] } else { hash(1, seq - 1) };
        Link { epoch: 1, seq, step: *step, previous, hash: hash(1, seq), time: *time }
    };
    steps.iter().enumerate().map(link).collect()
}

#[test]
fn a_base_makes_good_what_is_broken_before_it() {
    let mut chain = links(&[
        (Step::Whole, 10),
        (Step::Pages, 20),
        (Step::Pages, 30),
        (Step::Base { after: 2 }, 40),
        (Step::Pages, 50),
    ]);
    let newest = chain.last().map(Newest::of);
    chain.remove(1);
    assert_eq!(plan(&chain, newest, Some(10)).unwrap().target, 1);
    assert_eq!(plan(&chain, newest, Some(25)), Err(NoMoment::Broken { good: Some(10) }));
    assert_eq!(plan(&chain, newest, Some(35)), Err(NoMoment::Broken { good: Some(10) }));
    let found = plan(&chain, newest, Some(40)).unwrap();
    assert_eq!((found.target, found.starts), (4, vec![Start { seq: 4, first: 3, is_base: true }]));
    assert_eq!(plan(&chain, newest, Some(9)), Err(NoMoment::TooOld { oldest: 10 }));
}

#[test]
fn an_end_that_is_not_there_is_missed() {
    let chain = links(&[(Step::Whole, 10), (Step::Pages, 20), (Step::Pages, 30)]);
    let newest = chain.last().map(Newest::of);
    assert_eq!(plan(&chain[..2], newest, None), Err(NoMoment::Broken { good: Some(20) }));
    assert_eq!(plan(&chain[..2], newest, Some(25)), Err(NoMoment::Broken { good: Some(20) }));
    assert_eq!(plan(&chain[..2], newest, Some(20)).unwrap().target, 2);
    assert_eq!(plan(&[], newest, None), Err(NoMoment::Broken { good: None }));
    assert_eq!(plan(&[], None, None), Err(NoMoment::Nothing));
    // What is left of a chain whose beginning was removed.
    assert_eq!(plan(&chain[1..], newest, None), Err(NoMoment::Broken { good: None }));
}

//! What was acknowledged, what is in doubt, and whether what is stored agrees.
//!
//! Kept in this process, which no fault touches. Each note belongs to one worker, so its history
//! is a line: what is certain, then what may or may not have happened since.

use std::collections::{HashMap, HashSet};

/// What a note may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Absent,
    Text(String),
}

/// One note's history, as far as it matters.
#[derive(Debug, Clone)]
pub struct Entry {
    pub tenant: String,
    /// As answered; none as long as no answer came.
    pub id: Option<String>,
    pub certain: State,
    pub maybe: Vec<State>,
}

impl Entry {
    /// Nothing is in doubt.
    pub fn is_settled(&self) -> bool {
        self.maybe.is_empty()
    }

    pub fn acknowledged(&mut self, state: State) {
        self.certain = state;
        self.maybe.clear();
    }

    pub fn in_doubt(&mut self, state: State) {
        self.maybe.push(state);
    }

    /// Reads gave these texts: what was read is as certain as what was acknowledged, whether its writer was answered or
    /// not.
    pub fn was_read(&mut self, texts: &HashSet<String>) {
        let read = |state: &State| matches!(state, State::Text(text) if texts.contains(text));
        if let Some(at) = self.maybe.iter().rposition(read) {
            self.certain = self.maybe.drain(..=at).next_back().unwrap();
        }
    }
}

/// What a tenant's notes are: id and text.
pub type Stored = HashMap<String, String>;

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Verdict {
    pub violations: Vec<String>,
    /// Writes that nobody acknowledged and that happened.
    pub unanswered_done: usize,
}

fn short(state: &State) -> String {
    match state {
        State::Absent => "absent".to_owned(),
        State::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
    }
}

/// Compares and settles what was in doubt: acknowledged is stored, more is stored only if it was in
/// flight, and every text is what was sent.
pub fn compare<'e>(entries: impl Iterator<Item = &'e mut Entry>, stored: &HashMap<String, Stored>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut claimed: HashMap<&str, HashSet<&str>> = HashMap::new();
    let empty = Stored::new();
    let by_text: HashMap<&str, HashMap<&str, &str>> = stored
        .iter()
        .map(|(tenant, notes)| (tenant.as_str(), notes.iter().map(|(id, text)| (text.as_str(), id.as_str())).collect()))
        .collect();
    for entry in entries {
        let notes = stored.get(&entry.tenant).unwrap_or(&empty);
        let texts = by_text.get(entry.tenant.as_str());
        let found = match &entry.id {
            Some(id) => notes.get_key_value(id).map(|(id, text)| (id.as_str(), text)),
            None => entry.maybe.iter().chain([&entry.certain]).find_map(|state| match state {
                State::Text(text) => texts?.get(text.as_str()).map(|id| (*id, text)),
                State::Absent => None,
            }),
        };
        let state = found.map_or(State::Absent, |(_, text)| State::Text(text.clone()));
        if let Some((tenant, _)) = stored.get_key_value(&entry.tenant)
            && let Some((id, _)) = found
        {
            let id = notes.get_key_value(id).map_or("", |(id, _)| id.as_str());
            claimed.entry(tenant.as_str()).or_default().insert(id);
        }
        if state != entry.certain {
            if entry.maybe.contains(&state) {
                verdict.unanswered_done += 1;
            } else {
                let what = if state == State::Absent { "LOST" } else { "WRONG" };
                let maybe: Vec<String> = entry.maybe.iter().map(short).collect();
                verdict.violations.push(format!(
                    "{what}: {}/{}: acknowledged or read {}, in doubt {maybe:?}, stored {}",
                    entry.tenant,
                    entry.id.as_deref().unwrap_or("?"),
                    short(&entry.certain),
                    short(&state)
                ));
            }
        }
        if entry.id.is_none() {
            entry.id = found.map(|(id, _)| id.to_owned());
        }
        entry.acknowledged(state);
    }
    for (tenant, notes) in stored {
        for id in notes.keys() {
            if !claimed.get(tenant.as_str()).is_some_and(|ids| ids.contains(id.as_str())) {
                verdict.violations.push(format!("EXTRA: {tenant}/{id}: nobody sent it, or it was deleted"));
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: Option<&str>, certain: State, maybe: Vec<State>) -> Entry {
        Entry { tenant: "t".into(), id: id.map(str::to_owned), certain, maybe }
    }

    fn text(text: &str) -> State {
        State::Text(text.into())
    }

    fn violations(entries: &mut [Entry], stored: &[(&str, &str)]) -> Vec<String> {
        let stored = stored.iter().map(|(id, text)| ((*id).to_owned(), (*text).to_owned())).collect();
        compare(entries.iter_mut(), &HashMap::from([("t".to_owned(), stored)])).violations
    }

    #[test]
    fn each_kind_of_disagreement_is_seen() {
        let same = || [entry(Some("a"), text("x"), vec![])];
        assert!(violations(&mut same(), &[("a", "x")]).is_empty());
        assert!(violations(&mut same(), &[])[0].starts_with("LOST"));
        assert!(violations(&mut same(), &[("a", "y")])[0].starts_with("WRONG"));
        assert!(violations(&mut same(), &[("a", "x"), ("b", "z")])[0].starts_with("EXTRA"));
        assert!(violations(&mut [entry(Some("a"), State::Absent, vec![])], &[("a", "x")])[0].starts_with("WRONG"));
    }

    #[test]
    fn what_was_read_is_certain_and_what_came_before_it_is_over() {
        let read = HashSet::from(["y".to_owned()]);
        let patched = || {
            let mut entry = entry(Some("a"), text("x"), vec![text("w"), text("y"), State::Absent]);
            entry.was_read(&read);
            [entry]
        };
        assert!(violations(&mut patched(), &[("a", "y")]).is_empty());
        assert!(violations(&mut patched(), &[]).is_empty());
        for older in ["x", "w"] {
            assert!(violations(&mut patched(), &[("a", older)])[0].starts_with("WRONG"));
        }
        let mut unanswered = [entry(None, State::Absent, vec![text("y")])];
        unanswered[0].was_read(&read);
        assert!(violations(&mut unanswered, &[])[0].starts_with("LOST"));
    }

    #[test]
    fn what_is_in_doubt_may_be_either_and_is_settled_then() {
        let mut entries = [entry(None, State::Absent, vec![text("x")])];
        assert!(violations(&mut entries, &[("a", "x")]).is_empty());
        assert_eq!(entries[0].id.as_deref(), Some("a"));
        assert!(violations(&mut entries, &[])[0].starts_with("LOST"));
        assert!(violations(&mut [entry(None, State::Absent, vec![text("x")])], &[]).is_empty());
        let patched = || [entry(Some("a"), text("x"), vec![text("y"), State::Absent])];
        for stored in [&[("a", "x")][..], &[("a", "y")], &[]] {
            assert!(violations(&mut patched(), stored).is_empty());
        }
    }
}

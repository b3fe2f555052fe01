//! What was acknowledged, and whether what is stored agrees.

use std::collections::{HashMap, HashSet};

use super::send::{close, execute, pipeline, pipeline_path};
use crate::http::Http;

/// What is known of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    Not,
    Unknown,
}

/// A worker's transactions, by user and name.
#[derive(Debug, Default)]
pub struct Ledger(HashMap<String, HashMap<String, Outcome>>);

impl Ledger {
    pub fn note(&mut self, tenant: String, name: String, outcome: Outcome) {
        self.0.entry(tenant).or_default().insert(name, outcome);
    }

    /// What was read is as certain as what was acknowledged.
    pub fn were_read(&mut self, read: &HashSet<(String, String)>) {
        for (tenant, transactions) in &mut self.0 {
            for (name, outcome) in transactions {
                if *outcome == Outcome::Unknown && read.contains(&(tenant.clone(), name.clone())) {
                    *outcome = Outcome::Committed;
                }
            }
        }
    }

    /// Of a user that was emptied.
    pub fn forget(&mut self, tenant: &str) {
        self.0.remove(tenant);
    }
}

/// What is stored of a user, as one statement reads it.
#[derive(Debug, Default)]
pub struct Read {
    tenant: String,
    /// Name, rows, and the rows that each says there are.
    transactions: HashMap<String, (i64, i64)>,
    /// What the trigger has counted.
    counted: i64,
}

impl Read {
    /// None if it was not answered.
    pub fn once(http: &mut Http, tenant: &str) -> Option<Self> {
        const READ: &str =
            "SELECT transactions, name, count(name), max(total) FROM counted LEFT JOIN parts GROUP BY name";
        let answer = http.post(&pipeline_path(tenant), &pipeline(None, &[execute(READ), close()])).answer()?;
        let answer = answer.json();
        let rows = answer["results"][0]["response"]["result"]["rows"].as_array()?;
        let mut read = Self { tenant: tenant.to_owned(), ..Self::default() };
        for row in rows {
            let integer = |column: usize| row[column]["value"].as_str().and_then(|text| text.parse::<i64>().ok());
            read.counted = integer(0)?;
            if let Some(name) = row[1]["value"].as_str() {
                read.transactions.insert(name.to_owned(), (integer(2)?, integer(3)?));
            }
        }
        Some(read)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.transactions.keys().map(String::as_str)
    }

    /// Transactions that are not whole, or not counted.
    pub fn halves(&self) -> impl Iterator<Item = String> {
        let tenant = &self.tenant;
        let half = self.transactions.iter().filter(|(_, (rows, total))| rows != total);
        let half = half.map(move |(name, (rows, total))| format!("HALF: {tenant}/{name}: {rows} rows of {total}"));
        let (stored, counted) = (self.transactions.len() as i64, self.counted);
        let lost = (stored != counted)
            .then(|| format!("COUNT: {tenant}: {stored} transactions are stored, and {counted} counted"));
        half.chain(lost)
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Verdict {
    pub violations: Vec<String>,
    /// Commits that nobody acknowledged and that happened.
    pub unanswered_done: usize,
    /// Batons of before the restart that were tried.
    pub batons: usize,
    /// Users who have many transactions by now.
    pub crowded: Vec<String>,
}

impl Verdict {
    /// Compares and settles what was in doubt.
    pub fn compare<'l>(&mut self, tenant: &str, found: &Read, ledgers: impl Iterator<Item = &'l mut Ledger>) {
        const CROWD: usize = 300;
        self.violations.extend(found.halves());
        let mut known = HashSet::new();
        for (name, outcome) in ledgers.filter_map(|ledger| ledger.0.get_mut(tenant)).flatten() {
            let stored = found.transactions.contains_key(name);
            known.insert(name.as_str());
            match *outcome {
                Outcome::Committed if !stored => self.violations.push(format!("LOST: {tenant}/{name}")),
                Outcome::Not if stored => {
                    self.violations.push(format!("WRONG: {tenant}/{name}: stored, and nobody committed it"));
                }
                Outcome::Unknown => {
                    self.unanswered_done += usize::from(stored);
                    *outcome = if stored { Outcome::Committed } else { Outcome::Not };
                }
                _ => {}
            }
        }
        for name in found.names().filter(|name| !known.contains(name)) {
            self.violations.push(format!("EXTRA: {tenant}/{name}: nobody sent it, or it was removed"));
        }
        if found.transactions.len() > CROWD {
            self.crowded.push(tenant.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(outcome: Option<Outcome>, stored: Option<(i64, i64)>, counted: i64) -> Vec<String> {
        let (mut ledger, mut verdict) = (Ledger::default(), Verdict::default());
        if let Some(outcome) = outcome {
            ledger.note("t".into(), "a".into(), outcome);
        }
        let transactions = stored.map(|rows| ("a".to_owned(), rows)).into_iter().collect();
        let found = Read { tenant: "t".into(), transactions, counted };
        verdict.compare("t", &found, std::iter::once(&mut ledger));
        verdict.violations
    }

    #[test]
    fn each_kind_of_disagreement_is_seen() {
        use Outcome::{Committed, Not, Unknown};
        let whole = Some((3, 3));
        for fine in
            [(Some(Committed), whole, 1), (Some(Not), None, 0), (Some(Unknown), whole, 1), (Some(Unknown), None, 0)]
        {
            assert!(violations(fine.0, fine.1, fine.2).is_empty());
        }
        for (wrong, what) in [
            ((Some(Committed), None, 0), "LOST"),
            ((Some(Not), whole, 1), "WRONG"),
            ((None, whole, 1), "EXTRA"),
            ((Some(Unknown), Some((2, 3)), 1), "HALF"),
            ((Some(Committed), whole, 0), "COUNT"),
            ((Some(Unknown), None, 1), "COUNT"),
        ] {
            assert!(violations(wrong.0, wrong.1, wrong.2)[0].starts_with(what), "{what}");
        }
    }

    #[test]
    fn what_was_read_is_certain() {
        let mut ledger = Ledger::default();
        ledger.note("t".into(), "a".into(), Outcome::Unknown);
        ledger.were_read(&HashSet::from([("t".to_owned(), "a".to_owned())]));
        let mut verdict = Verdict::default();
        verdict.compare("t", &Read::default(), std::iter::once(&mut ledger));
        assert!(verdict.violations[0].starts_with("LOST"));
    }
}

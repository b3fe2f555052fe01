//! What a run says of itself.

use serde::{Deserialize, Serialize};

use crate::{catalog::model::Millis, clock, error::Error};

/// How many are named in each list of a report; the counts are of all.
pub const NAMED: usize = 100;

/// How a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunOutcome {
    /// All is done.
    #[default]
    Done,
    /// All but deletions, which were more than allowed.
    Held,
    /// It stopped: the provider did not answer as it should, or storage failed.
    Failed,
}

impl RunOutcome {
    /// The word in the catalog, in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

/// What a run does, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Brings the provider's list here. Nothing is changed.
    #[default]
    Listing,
    /// Creates, updates and restores.
    Mending,
    /// Asks for those who are absent by name. Nobody is deleted before all of them were.
    Asking,
    /// Deletes; the provider has no part in it.
    Deleting,
    /// Looks for what is to be reported.
    Reporting,
}

impl Phase {
    /// The word for people and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listing => "listing",
            Self::Mending => "mending",
            Self::Asking => "asking",
            Self::Deleting => "deleting",
            Self::Reporting => "reporting",
        }
    }
}

/// How many, and some of them by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub named: Vec<String>,
}

impl Tally {
    /// One more.
    pub fn add(&mut self, name: &(impl ToString + ?Sized)) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(name.to_string());
        }
    }

    /// All of another one more.
    pub fn add_all(&mut self, other: &Self) {
        self.count += other.count;
        let room = NAMED.saturating_sub(self.named.len());
        self.named.extend(other.named.iter().take(room).cloned());
    }
}

/// What a run found and did; in a dry run, what it would do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// What the run is called.
    #[serde(default)]
    pub run: String,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Whether the bound on deletions was lifted.
    pub forced: bool,
    /// When it began, RFC 3339.
    pub started: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How many users the provider says there are.
    pub provider_count: u64,
    /// How many it listed.
    pub provider_listed: u64,
    /// How many lived here before.
    pub local_count: u64,
    /// Who needed nothing.
    pub unchanged: u64,
    /// There and not here.
    pub created: Tally,
    /// Here with an older profile.
    pub updated: Tally,
    /// Deleted here and there all the same.
    pub restored: Tally,
    /// Here and not there.
    pub deleted: Tally,
    /// Those who would have been deleted, had they not been more than allowed.
    pub held: Tally,
    /// Left out of the provider's list, but known when asked for by name: nothing was done to them.
    pub unlisted: Tally,
    /// Email addresses that more than one live user has.
    pub shared_emails: Tally,
    /// Files of no known user; `cubby doctor` says more.
    pub orphan_files: Tally,
    /// Ids at the provider that cannot be a tenant's.
    pub unusable_ids: Tally,
    /// What went wrong with single users; the rest went on.
    pub errors: Tally,
    /// Found to be absent there, and not deleted because the run stopped before it was sure of all.
    #[serde(default)]
    pub undone: Tally,
    /// What the run was at when it stopped; what comes after it was not begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Phase>,
    /// Why the run stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Report {
    /// Of a run that begins now.
    pub fn begin(run: &str, now: Millis, dry_run: bool, forced: bool) -> Self {
        Self { run: run.to_owned(), dry_run, forced, started: clock::rfc3339(now).to_string(), ..Self::default() }
    }

    /// It stopped in `phase` because of `error`.
    pub fn stop(&mut self, phase: Phase, error: &Error) {
        self.outcome = RunOutcome::Failed;
        self.stopped = Some(phase);
        self.error = Some(error.detail());
    }

    /// How many differences there were.
    pub fn differences(&self) -> u64 {
        [&self.created, &self.updated, &self.restored, &self.deleted, &self.held].map(|tally| tally.count).iter().sum()
    }
}

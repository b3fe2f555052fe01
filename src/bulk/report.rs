//! What a run is told to do, and what it has done.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{catalog::model::State, tenants::id::TenantId};

/// What is done to each tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = BulkAction)]
pub enum Action {
    /// Refuse reads and writes, with a reason.
    Suspend,
    /// Serve a suspended or quarantined one again.
    Resume,
    /// Bring the file to the newest schema.
    Migrate,
    /// Delete; the file is kept until its retention ends.
    Delete,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 4] = [Self::Suspend, Self::Resume, Self::Migrate, Self::Delete];

    /// The word in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Migrate => "migrate",
            Self::Delete => "delete",
        }
    }

    /// The name of a run in the audit trail.
    pub fn in_trail(self) -> &'static str {
        match self {
            Self::Suspend => "bulk suspend",
            Self::Resume => "bulk resume",
            Self::Migrate => "bulk migrate",
            Self::Delete => "bulk delete",
        }
    }

    /// The states of those that it can change: a run is about nobody else that a filter matches. Whoever is suspended can be
    /// given another reason.
    pub fn states(self) -> &'static [State] {
        match self {
            Self::Suspend | Self::Migrate | Self::Delete => &[State::Active, State::Suspended, State::Quarantined],
            Self::Resume => &[State::Suspended, State::Quarantined],
        }
    }

    /// What became of those that were changed.
    pub fn past(self) -> &'static str {
        match self {
            Self::Suspend => "suspended",
            Self::Resume => "resumed",
            Self::Migrate => "migrated",
            Self::Delete => "deleted",
        }
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|action| action.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not an action; use suspend, resume, migrate or delete"))
    }
}

/// Which tenants match. An empty one matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BulkFilter)]
pub struct Filter {
    /// In this state.
    #[serde(default)]
    pub state: Option<State>,
    /// Whose id, address or name has this text. One or two characters are the beginning of an id.
    #[serde(default)]
    pub q: Option<String>,
}

/// Whom a run is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These.
    Ids(Vec<TenantId>),
    /// All that match.
    Matching(Filter),
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// To each.
    pub action: Action,
    /// What suspended users are told.
    pub reason: String,
    /// To whom.
    pub selection: Selection,
    /// The most tenants to handle, as the operator has confirmed.
    pub count: u64,
    /// From the count: the number of the newest tenant at that time.
    pub as_of: i64,
    /// What the preview that was confirmed is known by; none if any will do.
    pub digest: Option<String>,
}

/// What a run would be about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BulkPreview)]
pub struct Preview {
    /// What would be done.
    pub action: Action,
    /// How many tenants it is about.
    pub count: u64,
    /// How many the action cannot change, such as those that are deleted. They are not in the count of a filter; of ids
    /// they are, and are passed over.
    pub left_out: u64,
    /// Marks the newest tenant. To be sent with the count: tenants made later are left alone.
    pub as_of: i64,
    /// What this preview is known by. Sent with the count, a run starts only while these are those that match, and only if
    /// no other run was started since.
    pub digest: String,
    /// The first of them.
    pub some: Vec<String>,
    /// Of the ids that were given, those that nobody has.
    pub unknown: Vec<String>,
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = BulkStatus)]
pub enum Status {
    /// It works.
    Running,
    /// It finishes what it had begun, and stops.
    Stopping,
    /// All are handled.
    Done,
    /// An operator stopped it, or it stopped by itself.
    Stopped,
    /// The server ended before the run did.
    Interrupted,
}

impl Status {
    /// The word in JSON and in the audit trail.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether it still works.
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Running | Self::Stopping)
    }
}

/// A tenant that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BulkFailure)]
pub struct Failure {
    /// Its id.
    pub id: String,
    /// Why.
    pub error: String,
}

/// Failures that a report names.
const NAMED: usize = 100;

/// Failures that are allowed: so many, or one in so many of those handled.
const ALLOWED: u64 = 10;

/// What became of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was changed.
    Changed,
    /// It was as it should be, or did not match any more.
    Unchanged,
    /// It is deleted or unknown.
    Gone,
    /// It failed, and why.
    Failed(String),
}

/// A run: what it was told, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BulkReport)]
pub struct Report {
    /// The run's id.
    pub run: String,
    /// What is done to each tenant.
    pub action: Action,
    /// What suspended users are told.
    pub reason: Option<String>,
    /// Whom it is about; none if they were named.
    pub filter: Option<Filter>,
    /// Who started it.
    pub by: String,
    /// What it is doing.
    pub status: Status,
    /// When it was started, RFC 3339.
    pub started: String,
    /// When it ended, RFC 3339.
    pub ended: Option<String>,
    /// Tenants to handle.
    pub total: u64,
    /// Tenants handled.
    pub handled: u64,
    /// Changed.
    pub changed: u64,
    /// As they should be before, or not matching any more when they were reached.
    pub unchanged: u64,
    /// Deleted or unknown when they were reached.
    pub gone: u64,
    /// Failed.
    pub failed: u64,
    /// The first that failed, and why.
    pub failures: Vec<Failure>,
    /// Why it ended before all were handled.
    pub why: Option<String>,
    /// About how long it still takes, in seconds, while it runs.
    pub seconds_left: Option<u64>,
}

impl Report {
    /// Of a run that begins.
    pub fn new(run: String, order: &Order, by: String, started: String) -> Self {
        let filter = match &order.selection {
            Selection::Ids(_) => None,
            Selection::Matching(filter) => Some(filter.clone()),
        };
        Self {
            run,
            action: order.action,
            reason: (order.action == Action::Suspend).then(|| order.reason.clone()),
            filter,
            by,
            status: Status::Running,
            started,
            ended: None,
            total: order.count,
            handled: 0,
            changed: 0,
            unchanged: 0,
            gone: 0,
            failed: 0,
            failures: Vec::new(),
            why: None,
            seconds_left: None,
        }
    }

    /// Counts a tenant.
    pub fn add(&mut self, id: &TenantId, outcome: Outcome) {
        self.handled += 1;
        match outcome {
            Outcome::Changed => self.changed += 1,
            Outcome::Unchanged => self.unchanged += 1,
            Outcome::Gone => self.gone += 1,
            Outcome::Failed(error) => {
                self.failed += 1;
                if self.failures.len() < NAMED {
                    self.failures.push(Failure { id: id.to_string(), error });
                }
            }
        }
    }

    /// Whether so many failed that something other than the tenants must be wrong.
    pub fn fails_too_often(&self) -> bool {
        self.failed > ALLOWED.max(self.handled / ALLOWED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_named_up_to_a_bound_and_too_many_are_noticed() {
        let selection = Selection::Matching(Filter::default());
        let (action, reason) = (Action::Delete, String::new());
        let order = Order { action, reason, selection, count: 2000, as_of: 0, digest: None };
        let mut report = Report::new("run_x".into(), &order, "test".into(), String::new());
        let id: TenantId = "ada".parse().unwrap();
        (0..10).for_each(|_| report.add(&id, Outcome::Failed("why".into())));
        assert!(!report.fails_too_often(), "ten may fail");
        report.add(&id, Outcome::Failed("why".into()));
        assert!(report.fails_too_often());
        (0..1000).for_each(|_| report.add(&id, Outcome::Changed));
        assert!(!report.fails_too_often(), "a tenth may fail");
        (0..200).for_each(|_| report.add(&id, Outcome::Failed("why".into())));
        assert_eq!((report.failed, report.failures.len(), report.handled), (211, NAMED, 1211));
        assert!(report.fails_too_often());
    }
}

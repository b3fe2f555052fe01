//! What a run is told to do, and what it has done.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::provider::Part;

/// How to migrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = MigrationOptions)]
pub struct Options {
    /// Tenants to migrate before all others; the first of them that fails stops the run. 0 for none.
    pub canary: u32,
    /// Tenants at once.
    pub jobs: u32,
    /// The failures after which it stops, of those handled since it was started or resumed: a number, a percentage, or both,
    /// of which the larger counts.
    #[schema(value_type = String)]
    pub max_failures: Part,
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MigrationStatus)]
pub enum Status {
    /// It migrates.
    Running,
    /// An operator has paused it, and the tenants that it had begun are being finished.
    Pausing,
    /// An operator has paused it.
    Paused,
    /// It stopped by itself: too much failed, or somebody is left who could not be migrated.
    Stopped,
    /// The server ended before the run did.
    Interrupted,
    /// Nobody is left but the quarantined.
    Done,
}

impl Status {
    /// The word in JSON and in the audit trail.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
            Self::Done => "done",
        }
    }

    /// Whether it still migrates.
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Running | Self::Pausing)
    }
}

/// The phases of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MigrationPhase)]
pub enum Phase {
    /// The first few.
    Canary,
    /// All others.
    All,
}

impl Phase {
    /// The word in logs and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::All => "all",
        }
    }
}

/// Tenants that failed for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = MigrationFailure)]
pub struct Failure {
    /// The reason.
    pub error: String,
    /// How many failed for it.
    pub count: u64,
    /// The first of them.
    pub tenants: Vec<String>,
}

/// Reasons that a report tells apart, and tenants that it names for each.
const REASONS: usize = 20;
const NAMED: usize = 10;

/// The reason of those beyond that.
const OTHER: &str = "other reasons; `cubby tenants show ID` has each";

/// What became of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was migrated.
    Migrated,
    /// It had the schema already.
    Current,
    /// It was deleted meanwhile.
    Gone,
    /// It was quarantined before, and still is.
    StillQuarantined,
    /// It failed, and why.
    Failed(String),
}

/// A run: what it was told, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = MigrationReport)]
pub struct Report {
    /// The run's id.
    pub run: String,
    /// What it is doing.
    pub status: Status,
    /// Its phase.
    pub phase: Phase,
    /// The schema that it migrates to.
    pub schema: i32,
    /// How to migrate.
    pub options: Options,
    /// When it was started, RFC 3339.
    pub started: String,
    /// When it ended, was paused or stopped, RFC 3339.
    pub ended: Option<String>,
    /// Tenants to handle, those handled included. Some of them may be migrated by a request meanwhile.
    pub total: u64,
    /// Tenants handled.
    pub handled: u64,
    /// Of those, the ones of the canary.
    pub canaries: u64,
    /// Migrated.
    pub migrated: u64,
    /// Had the schema already, by a request that came first.
    pub already_current: u64,
    /// Deleted meanwhile.
    pub gone: u64,
    /// Quarantined before, and still.
    pub still_quarantined: u64,
    /// Failed.
    pub failed: u64,
    /// Why, the first reason first.
    pub failures: Vec<Failure>,
    /// Why it stopped.
    pub reason: Option<String>,
    /// About how long it still takes, in seconds, while it runs.
    pub seconds_left: Option<u64>,
    /// The tenant up to which all were handled once, in the order of ids; those of the canary do not count.
    pub after: Option<String>,
}

impl Report {
    /// Of a run that begins.
    pub fn new(run: String, schema: i32, options: Options, started: String) -> Self {
        Self {
            run,
            status: Status::Running,
            phase: if options.canary > 0 { Phase::Canary } else { Phase::All },
            schema,
            options,
            started,
            ended: None,
            total: 0,
            handled: 0,
            canaries: 0,
            migrated: 0,
            already_current: 0,
            gone: 0,
            still_quarantined: 0,
            failed: 0,
            failures: Vec::new(),
            reason: None,
            seconds_left: None,
            after: None,
        }
    }

    /// Counts a tenant. One that is named as failed is counted anew, but for one that is quarantined since then.
    pub fn add(&mut self, id: &str, outcome: Outcome) {
        if let Some(reason) = self.why(id).map(str::to_owned) {
            if outcome == Outcome::StillQuarantined {
                return;
            }
            self.take_back(id, &reason);
        }
        self.handled += 1;
        self.canaries += u64::from(self.phase == Phase::Canary);
        match outcome {
            Outcome::Migrated => self.migrated += 1,
            Outcome::Current => self.already_current += 1,
            Outcome::Gone => self.gone += 1,
            Outcome::StillQuarantined => self.still_quarantined += 1,
            Outcome::Failed(error) => {
                self.failed += 1;
                self.add_failure(id, error);
            }
        }
        self.total = self.total.max(self.handled);
    }

    /// Takes back that a tenant failed, of those that failed for this reason: it was tried again.
    pub fn take_back(&mut self, id: &str, reason: &str) {
        let Some(at) = self.failures.iter().position(|failure| failure.error == reason) else { return };
        self.handled = self.handled.saturating_sub(1);
        self.failed = self.failed.saturating_sub(1);
        if self.phase == Phase::Canary {
            self.canaries = self.canaries.saturating_sub(1);
        }
        let failure = &mut self.failures[at];
        failure.count = failure.count.saturating_sub(1);
        failure.tenants.retain(|tenant| tenant != id);
        if failure.count == 0 {
            self.failures.remove(at);
        }
    }

    /// All tenants of [`Phase::All`] up to this one were handled once: a run that is resumed goes on after it.
    pub fn reached(&mut self, id: &str) {
        // Those who are tried again at the end are before it.
        if self.phase == Phase::All && self.after.as_deref().is_none_or(|after| after < id) {
            self.after = Some(id.to_owned());
        }
    }

    /// Counts as handled what the catalog has counted since the report was recorded.
    pub fn add_up(&mut self) {
        self.handled = self.migrated + self.already_current + self.gone + self.still_quarantined + self.failed;
        self.total = self.total.max(self.handled);
    }

    /// Why a tenant failed, if it is one of those that are named.
    pub fn why(&self, id: &str) -> Option<&str> {
        let named = self.failures.iter().rev().find(|failure| failure.tenants.iter().any(|tenant| tenant == id));
        named.map(|failure| failure.error.as_str())
    }

    /// The reason that an error is counted for: itself, unless there are too many.
    pub fn reason_of<'e>(&self, error: &'e str) -> &'e str {
        let is_told = self.failures.iter().any(|failure| failure.error == error);
        if is_told { error } else { OTHER }
    }

    fn add_failure(&mut self, id: &str, error: String) {
        let known = |failures: &[Failure], error: &str| failures.iter().position(|failure| failure.error == error);
        let at = known(&self.failures, &error).or_else(|| match self.failures.len() < REASONS {
            true => None,
            false => known(&self.failures, OTHER),
        });
        let at = at.unwrap_or_else(|| {
            let error = if self.failures.len() < REASONS { error } else { OTHER.to_owned() };
            self.failures.push(Failure { error, count: 0, tenants: Vec::new() });
            self.failures.len() - 1
        });
        let failure = &mut self.failures[at];
        failure.count += 1;
        if failure.tenants.len() < NAMED {
            failure.tenants.push(id.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_reason_and_bounded() {
        let options = Options { canary: 0, jobs: 1, max_failures: "0".parse().unwrap() };
        let mut report = Report::new("run_x".into(), 2, options, String::new());
        for n in 0..100 {
            report.add(&format!("user_{n:03}"), Outcome::Failed(format!("reason {}", n % 30)));
        }
        assert_eq!((report.failed, report.failures.len()), (100, REASONS + 1));
        assert_eq!(report.failures[0].tenants, ["user_000", "user_030", "user_060", "user_090"]);
        let last = report.failures.last().unwrap();
        assert_eq!((last.error.as_str(), last.count, last.tenants.len()), (OTHER, 30, NAMED));
        assert_eq!(report.after, None, "tenants are done in any order");
        assert_eq!((report.why("user_030"), report.why("user_089")), (Some("reason 0"), None));
    }

    #[test]
    fn whoever_is_tried_again_is_counted_once() {
        let options = Options { canary: 3, jobs: 1, max_failures: "0".parse().unwrap() };
        let mut report = Report::new("run_x".into(), 2, options, String::new());
        let failed = |why: &str| Outcome::Failed(why.into());
        report.add("ada", failed("the disk"));
        report.add("ben", failed("the disk"));
        report.add("ben", failed("its file"));
        assert_eq!((report.handled, report.canaries, report.failed, report.total), (2, 2, 2, 2));
        assert_eq!(report.failures.iter().map(|failure| failure.count).collect::<Vec<_>>(), [1, 1]);
        report.phase = Phase::All;
        report.add("ada", Outcome::Migrated);
        report.add("ben", Outcome::StillQuarantined);
        assert_eq!((report.handled, report.canaries, report.failed, report.migrated), (2, 2, 1, 1));
        assert_eq!(report.still_quarantined, 0, "it is one of those that failed");
        assert_eq!((report.failures.len(), report.why("ben"), report.why("ada")), (1, Some("its file"), None));
        report.add("ben", Outcome::Gone);
        assert_eq!((report.handled, report.failed, report.gone, report.failures.len()), (2, 0, 1, 0));
    }

    #[test]
    fn what_was_reached_is_not_lost_when_others_are_tried_again() {
        let options = Options { canary: 1, jobs: 1, max_failures: "0".parse().unwrap() };
        let mut report = Report::new("run_x".into(), 2, options, String::new());
        report.reached("user_9");
        assert_eq!(report.after, None, "those of the canary are anywhere");
        report.phase = Phase::All;
        ["user_1", "user_5", "user_2"].into_iter().for_each(|id| report.reached(id));
        assert_eq!(report.after.as_deref(), Some("user_5"));
    }
}

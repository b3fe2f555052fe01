//! What a backup is doing, and what it has done.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a backup is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = BackupStatus)]
pub enum Status {
    /// It is being made.
    Running,
    /// An operator stops it.
    Stopping,
    /// It is whole.
    Done,
    /// An operator has stopped it.
    Stopped,
    /// It stopped by itself.
    Failed,
    /// The server ended before it was whole.
    Interrupted,
}

impl Status {
    /// The word in JSON, in the audit trail and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether it is not over.
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Running | Self::Stopping)
    }
}

/// The phases of a backup, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = BackupPhase)]
pub enum Phase {
    /// It looks at what is at the destination.
    Looking,
    /// It copies users' databases.
    Users,
    /// It copies the catalog, and writes the list of what there is.
    Catalog,
    /// It removes older backups that are not kept.
    Removing,
}

impl Phase {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Looking => "looking",
            Self::Users => "users",
            Self::Catalog => "catalog",
            Self::Removing => "removing",
        }
    }
}

/// A user whose database is not in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BackupMissing)]
pub struct Missing {
    /// The id.
    pub id: String,
    /// Why.
    pub why: String,
}

/// Users that a report names as missing.
const NAMED: usize = 20;

/// A backup: how far it is, or what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BackupReport)]
pub struct Report {
    /// Its name.
    pub run: String,
    /// What it is doing.
    pub status: Status,
    /// Its phase.
    pub phase: Phase,
    /// Where it goes.
    pub to: String,
    /// Who started it.
    pub by: String,
    /// When it was started, RFC 3339.
    pub started: String,
    /// When it was over, RFC 3339.
    pub ended: Option<String>,
    /// Users whose databases are to be in it.
    pub total: u64,
    /// Users handled.
    pub handled: u64,
    /// Databases that were copied to the destination.
    pub uploaded: u64,
    /// Databases that were read, and the destination had them.
    pub same: u64,
    /// Databases that were not read, since nobody has written to them since the backup before.
    pub unchanged: u64,
    /// Users whose databases are not in it.
    pub missing: u64,
    /// Some of them.
    pub some_missing: Vec<Missing>,
    /// The length of the databases handled, in bytes.
    pub bytes: u64,
    /// The length of those that were read.
    pub bytes_read: u64,
    /// Of these, how many a second.
    pub bytes_per_second: Option<u64>,
    /// About how long it still takes, in seconds, while it runs.
    pub seconds_left: Option<u64>,
    /// Older backups that were removed.
    pub removed: u64,
    /// Why it did not become whole, or why no older backups could be removed.
    pub why: Option<String>,
}

/// What became of one user's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was copied to the destination.
    Uploaded,
    /// It was read, and the destination had it.
    Same,
    /// It was not read.
    Unchanged,
    /// It is not in the backup, and why.
    Missing(String),
    /// There is nothing of the user any more.
    Gone,
}

impl Report {
    /// Of a backup that begins.
    pub fn new(run: String, to: String, by: String, started: String) -> Self {
        Self {
            run,
            status: Status::Running,
            phase: Phase::Looking,
            to,
            by,
            started,
            ended: None,
            total: 0,
            handled: 0,
            uploaded: 0,
            same: 0,
            unchanged: 0,
            missing: 0,
            some_missing: Vec::new(),
            bytes: 0,
            bytes_read: 0,
            bytes_per_second: None,
            seconds_left: None,
            removed: 0,
            why: None,
        }
    }

    /// Counts a database of this length.
    pub fn add(&mut self, id: &str, outcome: Outcome, bytes: u64) {
        let is_read = matches!(outcome, Outcome::Uploaded | Outcome::Same);
        match outcome {
            Outcome::Uploaded => self.uploaded += 1,
            Outcome::Same => self.same += 1,
            Outcome::Unchanged => self.unchanged += 1,
            Outcome::Missing(why) => {
                self.missing += 1;
                if self.some_missing.len() < NAMED {
                    self.some_missing.push(Missing { id: id.to_owned(), why });
                }
            }
            Outcome::Gone => {
                self.total = self.total.saturating_sub(1).max(self.handled);
                return;
            }
        }
        self.handled += 1;
        self.total = self.total.max(self.handled);
        self.bytes += bytes;
        if is_read {
            self.bytes_read += bytes;
        }
    }

    /// Takes back that a user was missing: their database is tried again.
    pub fn take_back(&mut self, id: &str) {
        self.missing = self.missing.saturating_sub(1);
        self.handled = self.handled.saturating_sub(1);
        self.some_missing.retain(|missing| missing.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_counts_once_as_what_they_are_at_last() {
        let mut report = Report::new("x".into(), "file:///x".into(), "test".into(), String::new());
        report.total = 3;
        report.add("ada", Outcome::Uploaded, 10);
        report.add("bob", Outcome::Missing("busy".into()), 0);
        report.add("cy", Outcome::Gone, 0);
        assert_eq!((report.total, report.handled, report.missing), (2, 2, 1));
        report.take_back("bob");
        report.add("bob", Outcome::Unchanged, 5);
        assert_eq!((report.total, report.handled, report.missing, report.unchanged), (2, 2, 0, 1));
        assert_eq!((report.bytes, report.bytes_read, report.some_missing.len()), (15, 10, 0));
        report.add("late", Outcome::Same, 1);
        assert_eq!(report.total, 3, "who came meanwhile");
    }
}

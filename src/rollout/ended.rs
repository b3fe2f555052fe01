//! A run as it is in the catalog: its end, which is written once, and its report, which is read with what was counted since.

use rusqlite::Transaction;
use serde::Serialize;

use super::report::{Outcome, Report, Status};
use crate::{
    catalog::{
        Catalog,
        audit::Author,
        model::Millis,
        queries::rollouts::{self, Recorded},
    },
    error::{Error, Result},
};

/// The end of a run.
pub struct Ended {
    /// The run's row.
    pub id: i64,
    /// How it ended.
    pub report: Report,
    /// The tenants whose failures are in it and in no report that was recorded before.
    pub failed: Vec<String>,
    /// When it ended.
    pub at: Millis,
    /// What the audit trail calls it.
    pub action: &'static str,
    /// Who ended it.
    pub by: Author,
}

impl Ended {
    /// Records it. What was recorded before, perhaps by a write that was answered with an error, is not recorded twice.
    pub async fn record(&self, catalog: &Catalog) -> Result<()> {
        let (text, failed) = (as_text(&self.report)?, as_text(&self.failed)?);
        let (id, at, action, by) = (self.id, self.at, self.action, self.by.clone());
        let (run, status) = (self.report.run.clone(), self.report.status.as_str());
        let record = move |tx: &Transaction| -> rusqlite::Result<()> {
            if rollouts::save(tx, id, Some(at), &text, &failed)? {
                by.record(tx, at, action, run.as_str(), status)?;
            }
            Ok(())
        };
        catalog.write(record).await
    }
}

/// A part of a run as JSON.
pub fn as_text(part: &impl Serialize) -> Result<String> {
    serde_json::to_string(part).map_err(|e| Error::internal("a report").with_source(e))
}

/// The failures that the catalog has counted since the report was recorded: who, and why.
pub fn failed_since(recorded: &Recorded) -> Result<Vec<(String, String)>> {
    serde_json::from_str(&recorded.failed).map_err(broken)
}

/// A report from the catalog. A run that is not under way in this process, and has no end, ended with its server.
pub fn as_recorded(recorded: &Recorded) -> Result<Report> {
    let mut report: Report = serde_json::from_str(&recorded.report).map_err(broken)?;
    for (id, error) in failed_since(recorded)? {
        report.add(&id, Outcome::Failed(error));
    }
    report.add_up();
    if report.status.is_under_way() {
        report.status = Status::Interrupted;
    }
    Ok(report)
}

fn broken(error: serde_json::Error) -> Error {
    Error::internal("a recorded report").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::report::Options;

    #[test]
    fn a_recorded_report_has_what_was_counted_since() {
        let options = Options { canary: 0, jobs: 1, max_failures: "0".parse().unwrap() };
        let mut report = Report::new("run_x".into(), 2, options, String::new());
        report.total = 3;
        report.add("bad_0", Outcome::Failed("why".into()));
        report.migrated = 2;
        let failed = as_text(&[("bad_1", "why"), ("bad_2", "another \"reason\"")]).unwrap();
        let recorded = Recorded { id: 1, digest: 1, report: as_text(&report).unwrap(), failed };
        let report = as_recorded(&recorded).unwrap();
        assert_eq!((report.status, report.failed, report.handled, report.total), (Status::Interrupted, 3, 5, 5));
        assert_eq!(report.failures[0].tenants, ["bad_0", "bad_1"]);
        assert_eq!((report.failures[1].error.as_str(), report.failures[1].count), ("another \"reason\"", 1));
    }
}

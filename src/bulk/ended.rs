//! The end of a run, which is written once.

use rusqlite::Transaction;

use super::report::Report;
use crate::{
    catalog::{Catalog, audit::Author, model::Millis, queries::bulk},
    error::{Error, Result},
};

/// The end of the newest run.
pub struct Ended {
    /// The run's row.
    pub id: i64,
    /// How it ended.
    pub report: Report,
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
        let (id, at, action, by) = (self.id, self.at, self.action, self.by.clone());
        let (text, run, status) = (as_text(&self.report)?, self.report.run.clone(), self.report.status.as_str());
        let record = move |tx: &Transaction| -> rusqlite::Result<()> {
            if bulk::newest(tx)?.is_some_and(|recorded| recorded == text) {
                return Ok(());
            }
            by.record(tx, at, action, run.as_str(), status)?;
            bulk::save(tx, id, Some(at), &text)
        };
        catalog.write(record).await
    }
}

/// A report as JSON.
pub fn as_text(report: &Report) -> Result<String> {
    serde_json::to_string(report).map_err(|e| Error::internal("a report").with_source(e))
}

//! What tenants use, written to the catalog by day.
//!
//! A request costs one atomic addition to its open database. The counts are taken from there when a database is closed,
//! and once a minute from all that are open, and written in batches. They are of the day on which it was opened or they were
//! taken before, which is another one for the first seconds of a day alone. A process that is killed loses those of the last
//! minute.

use super::{id::TenantId, open::database::Database, store::Store};
use crate::{
    catalog::{
        queries,
        usage::{Count, DayUse},
    },
    clock::day::Day,
};

/// Rows of one commit, so that others can write to the catalog in between.
const BATCH: usize = 1000;

impl Store {
    /// Takes the counts of a database that is about to be closed.
    pub(super) fn take_uses(&self, id: &TenantId, database: &Database) {
        let (day, count) = database.uses().take(Day::of(self.now()));
        if count != Count::default() {
            self.inner.usage_days.add(day, id, database.bytes(), count);
        }
    }

    /// Takes the counts of all that are open, if it is time, and writes all that waits. What cannot be written waits on.
    /// May block.
    pub(super) fn write_usage(&self) {
        if self.inner.usage_days.is_due(Day::of(self.now())) {
            self.inner.slots.visit(|open| self.take_uses(open.id(), open.look().0));
        }
        let mut rows = self.inner.usage_days.take();
        while !rows.is_empty() {
            let batch: Vec<DayUse> = rows.drain(..rows.len().min(BATCH)).collect();
            let (written, now) = (batch.clone(), self.now());
            let result = self.inner.catalog.write_blocking(move |tx| queries::usage::add(tx, &written, now));
            if let Err(error) = result {
                tracing::warn!(error = %error, "usage could not be written to the catalog");
                if !self.inner.usage_days.put_back(batch.into_iter().chain(rows)) {
                    tracing::error!("usage is lost, since more waits than is kept");
                }
                return;
            }
        }
    }

    /// Takes all counts and writes them to the catalog now, and not within the next minute. Blocks.
    pub fn flush_usage(&self) {
        self.inner.slots.visit(|open| self.take_uses(open.id(), open.look().0));
        self.write_usage();
    }
}

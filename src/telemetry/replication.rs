//! What Prometheus is told of copies elsewhere. The values are given when `/metrics` is read: nothing here knows what copies.

#![expect(clippy::cast_precision_loss, reason = "a gauge is a float; a number of bytes is exact in one")]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// How the replication of the process's data folder is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// The age of the oldest commit that the bucket does not have.
    pub behind: Duration,
    /// Databases with commits that wait.
    pub waiting: u64,
    /// What of the log waits for the bucket, in bytes.
    pub log_bytes: u64,
    /// The most that may.
    pub log_limit: u64,
    /// Shards that the bucket does not take.
    pub stuck: u64,
    /// Databases that are known to need a whole copy.
    pub bases_wanted: u64,
    /// Databases that fell out of the bound of the log.
    pub fallen_out: u64,
    /// Whether another server has taken over.
    pub taken_over: bool,
    /// Batches that the bucket has.
    pub batches: u64,
    /// Their bytes.
    pub batch_bytes: u64,
    /// Tries to write one that failed.
    pub batch_failures: u64,
    /// Requests to the bucket, by kind.
    pub requests: Requests,
}

/// Requests to a bucket since the start, and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Kinds of requests, and how many of each.
    pub kinds: [(&'static str, u64); 7],
    /// Those that failed.
    pub failures: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Bytes read.
    pub bytes_in: u64,
}

/// Databases that are being made of what the bucket has.
static RESTORING: AtomicU64 = AtomicU64::new(0);

/// Counts a database that is being made of what the bucket has, until it is dropped.
#[derive(Debug)]
pub struct Restoring(());

impl Restoring {
    /// One begins.
    pub fn begin() -> Self {
        RESTORING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        RESTORING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says what each is.
pub(super) fn describe() {
    describe_gauge!("cubby_replica_behind_seconds", "The age of the oldest commit that the bucket does not have.");
    describe_gauge!("cubby_replica_waiting_tenants", "Databases with commits that the bucket does not have.");
    describe_gauge!("cubby_replica_log_bytes", "What of the log waits for the bucket.");
    describe_gauge!("cubby_replica_log_limit_bytes", "The most of the log that may wait for the bucket.");
    describe_gauge!("cubby_replica_stuck_shards", "Shards that the bucket does not take.");
    describe_gauge!("cubby_replica_bases_wanted", "Databases that are known to need a whole copy.");
    describe_gauge!("cubby_replica_taken_over", "1 if another server has taken over the bucket.");
    describe_gauge!("cubby_replica_restoring", "Databases that are being made of what the bucket has.");
    describe_counter!("cubby_replica_fallen_out_total", "Databases that fell out of the bound of the log.");
    describe_counter!("cubby_replica_batches_total", "Batches of commits that the bucket has taken.");
    describe_counter!("cubby_replica_batch_bytes_total", "Bytes of the batches that the bucket has taken.");
    describe_counter!("cubby_replica_batch_failures_total", "Tries to write a batch that failed.");
    describe_counter!("cubby_replica_requests_total", "Requests to the bucket by kind.");
    describe_counter!("cubby_replica_request_failures_total", "Requests to the bucket that failed.");
    describe_counter!("cubby_replica_bytes_total", "Bytes to and from the bucket.");
    describe_gauge!("cubby_backup_running", "1 while a backup is being made.");
    describe_gauge!("cubby_backup_interval_seconds", "How often a backup is to be made.");
}

/// Tells how the replication is doing.
pub fn tell(reading: &Reading) {
    gauge!("cubby_replica_behind_seconds").set(reading.behind.as_secs_f64());
    gauge!("cubby_replica_waiting_tenants").set(reading.waiting as f64);
    gauge!("cubby_replica_log_bytes").set(reading.log_bytes as f64);
    gauge!("cubby_replica_log_limit_bytes").set(reading.log_limit as f64);
    gauge!("cubby_replica_stuck_shards").set(reading.stuck as f64);
    gauge!("cubby_replica_bases_wanted").set(reading.bases_wanted as f64);
    gauge!("cubby_replica_taken_over").set(f64::from(u8::from(reading.taken_over)));
    gauge!("cubby_replica_restoring").set(RESTORING.load(Ordering::Relaxed) as f64);
    counter!("cubby_replica_fallen_out_total").absolute(reading.fallen_out);
    counter!("cubby_replica_batches_total").absolute(reading.batches);
    counter!("cubby_replica_batch_bytes_total").absolute(reading.batch_bytes);
    counter!("cubby_replica_batch_failures_total").absolute(reading.batch_failures);
    let Requests { kinds, failures, bytes_out, bytes_in } = reading.requests;
    for (kind, count) in kinds {
        counter!("cubby_replica_requests_total", "kind" => kind).absolute(count);
    }
    counter!("cubby_replica_request_failures_total").absolute(failures);
    counter!("cubby_replica_bytes_total", "direction" => "out").absolute(bytes_out);
    counter!("cubby_replica_bytes_total", "direction" => "in").absolute(bytes_in);
}

/// Tells whether a backup is being made, and how often one is to be, if one is by itself.
pub fn tell_of_backups(is_running: bool, interval: Option<Duration>) {
    gauge!("cubby_backup_running").set(f64::from(u8::from(is_running)));
    if let Some(interval) = interval {
        gauge!("cubby_backup_interval_seconds").set(interval.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_counts_while_it_is_being_made() {
        let before = RESTORING.load(Ordering::Relaxed);
        let (one, other) = (Restoring::begin(), Restoring::begin());
        assert_eq!(RESTORING.load(Ordering::Relaxed), before + 2);
        drop((one, other));
        assert_eq!(RESTORING.load(Ordering::Relaxed), before);
    }
}

//! What the metrics have of copies elsewhere: how the replication is doing when the page is asked for.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    app::App,
    replica::{hold::behind, meters, running::Replica},
    telemetry::replication::{self, Reading, Requests},
};

/// Tells the metrics how it is doing.
pub(super) fn tell(app: &App) {
    let (settings, backups) = (&app.config().replicate, app.backups());
    replication::tell_of_backups(backups.running().is_some(), backups.to().map(|_| settings.backup_every));
    if let Some(replica) = app.replica() {
        replication::tell(&read(replica));
    }
}

fn read(replica: &Replica) -> Reading {
    let (shared, counts) = (replica.shared(), meters::counts());
    Reading {
        behind: Duration::from_millis(u64::try_from(behind(shared)).unwrap_or(0)),
        waiting: shared.slots.iter().map(|slot| slot.pending.lock().tenants() as u64).sum(),
        log_bytes: shared.tail.waiting(),
        log_limit: shared.backlog,
        stuck: shared.slots.iter().map(|slot| u64::from(slot.is_stuck.load(Ordering::Acquire))).sum(),
        bases_wanted: shared.wanted.count() as u64,
        fallen_out: shared.overflowed.load(Ordering::Relaxed),
        taken_over: replica.is_taken_over(),
        batches: counts.batches,
        batch_bytes: counts.bytes,
        batch_failures: counts.failures,
        requests: requests(replica),
    }
}

fn requests(replica: &Replica) -> Requests {
    let meter = replica.remote().meter();
    Requests {
        kinds: [
            ("put", meter.puts),
            ("part", meter.parts),
            ("get", meter.gets),
            ("head", meter.heads),
            ("list", meter.lists),
            ("delete", meter.deletes),
            ("copy", meter.copies),
        ],
        failures: meter.failures,
        bytes_out: meter.bytes_out,
        bytes_in: meter.bytes_in,
    }
}

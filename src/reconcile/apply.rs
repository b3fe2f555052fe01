//! Applies creations, updates and restorations, several at once.

use tokio::task::JoinSet;

use super::{
    changes,
    plan::Step,
    report::{Entries, Report},
};
use crate::{
    catalog::model::Millis,
    error::Result,
    identity::user::User,
    tenants::{id::TenantId, store::Store},
};

/// Steps under way at once.
pub(super) const CONCURRENCY: usize = 16;

/// Updates in one commit.
const UPDATES: usize = 500;

/// Applies steps. In a dry run it only reports them.
pub(super) struct Apply<'a> {
    store: &'a Store,
    dry_run: bool,
    since: Millis,
    running: JoinSet<Done>,
    updates: Vec<User>,
}

/// The list of the report that a step belongs to, its users, and whether it still applied.
type Done = (fn(&mut Report) -> &mut Entries, Vec<TenantId>, Result<bool>);

impl<'a> Apply<'a> {
    pub(super) fn new(store: &'a Store, dry_run: bool, since: Millis) -> Self {
        Self { store, dry_run, since, running: JoinSet::new(), updates: Vec::new() }
    }

    pub(super) async fn take(&mut self, step: Step, report: &mut Report) {
        while self.running.len() >= CONCURRENCY {
            self.settle(report).await;
        }
        let (store, since, dry_run) = (self.store.clone(), self.since, self.dry_run);
        match step {
            Step::Update(user) => {
                self.updates.push(user);
                if self.updates.len() >= UPDATES {
                    self.write_updates();
                }
            }
            Step::Create(user) => {
                self.running.spawn(async move {
                    let id = user.id.clone();
                    let done = if dry_run { Ok(true) } else { changes::create(&store, user, since).await };
                    let entries: fn(&mut Report) -> &mut Entries = |report| &mut report.created;
                    (entries, vec![id], done)
                });
            }
            Step::Restore(user) => {
                self.running.spawn(async move {
                    let id = user.id.clone();
                    let done = if dry_run { Ok(true) } else { changes::restore(&store, user, since).await };
                    let entries: fn(&mut Report) -> &mut Entries = |report| &mut report.restored;
                    (entries, vec![id], done)
                });
            }
            // Deletions come last, and are not applied here.
            Step::Delete(_) => {}
        }
    }

    fn write_updates(&mut self) {
        let users = std::mem::take(&mut self.updates);
        let (store, since, dry_run) = (self.store.clone(), self.since, self.dry_run);
        self.running.spawn(async move {
            let ids = users.iter().map(|user| user.id.clone()).collect();
            let done = if dry_run { Ok(true) } else { changes::update(&store, users, since).await.map(|n| n > 0) };
            let entries: fn(&mut Report) -> &mut Entries = |report| &mut report.updated;
            (entries, ids, done)
        });
    }

    async fn settle(&mut self, report: &mut Report) {
        match self.running.join_next().await {
            None => {}
            Some(Ok((entries, ids, Ok(true)))) => ids.iter().for_each(|id| entries(report).add(id)),
            Some(Ok((_, ids, Ok(false)))) => report.unchanged += ids.len() as u64,
            Some(Ok((_, ids, Err(error)))) => ids.iter().for_each(|id| report.errors.add(&format!("{id}: {error}"))),
            Some(Err(error)) => report.errors.add(&format!("a step did not finish: {error}")),
        }
    }

    pub(super) async fn finish(mut self, report: &mut Report) {
        if !self.updates.is_empty() {
            self.write_updates();
        }
        while !self.running.is_empty() {
            self.settle(report).await;
        }
    }
}

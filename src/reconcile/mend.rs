//! Steps carried out, some at once.

use tokio::task::JoinSet;

use super::{
    changes,
    plan::Step,
    report::{Report, Tally},
    run::{CHUNK, Options},
};
use crate::{
    catalog::model::Millis,
    error::Result,
    identity::user::User,
    tenants::{id::TenantId, store::Store},
};

/// Files made, moved or updated at once.
pub(super) const AT_ONCE: usize = 16;

/// Carries out what is to be created, updated and restored.
pub(super) struct Mending<'a> {
    store: &'a Store,
    options: Options,
    since: Millis,
    running: JoinSet<Done>,
    updates: Vec<User>,
}

/// Which list of the report it belongs to, of whom, and whether it was still right.
type Done = (fn(&mut Report) -> &mut Tally, Vec<TenantId>, Result<bool>);

impl<'a> Mending<'a> {
    pub(super) fn new(store: &'a Store, options: Options, since: Millis) -> Self {
        Self { store, options, since, running: JoinSet::new(), updates: Vec::new() }
    }

    pub(super) async fn take(&mut self, step: Step, report: &mut Report) {
        while self.running.len() >= AT_ONCE {
            self.settle(report).await;
        }
        let (store, since, dry_run) = (self.store.clone(), self.since, self.options.dry_run);
        match step {
            Step::Update(user) => {
                self.updates.push(user);
                if self.updates.len() >= CHUNK {
                    self.write_updates();
                }
            }
            Step::Create(user) => {
                self.running.spawn(async move {
                    let id = user.id.clone();
                    let done = if dry_run { Ok(true) } else { changes::create(&store, user, since).await };
                    let tally: fn(&mut Report) -> &mut Tally = |report| &mut report.created;
                    (tally, vec![id], done)
                });
            }
            Step::Restore(user) => {
                self.running.spawn(async move {
                    let id = user.id.clone();
                    let done = if dry_run { Ok(true) } else { changes::restore(&store, user, since).await };
                    let tally: fn(&mut Report) -> &mut Tally = |report| &mut report.restored;
                    (tally, vec![id], done)
                });
            }
            // Held back until all is known.
            Step::Delete(_) => {}
        }
    }

    fn write_updates(&mut self) {
        let users = std::mem::take(&mut self.updates);
        let (store, since, dry_run) = (self.store.clone(), self.since, self.options.dry_run);
        self.running.spawn(async move {
            let ids = users.iter().map(|user| user.id.clone()).collect();
            let done = if dry_run { Ok(true) } else { changes::update(&store, users, since).await.map(|n| n > 0) };
            let tally: fn(&mut Report) -> &mut Tally = |report| &mut report.updated;
            (tally, ids, done)
        });
    }

    async fn settle(&mut self, report: &mut Report) {
        match self.running.join_next().await {
            None => {}
            Some(Ok((tally, ids, Ok(true)))) => ids.iter().for_each(|id| tally(report).add(id)),
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

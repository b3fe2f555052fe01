//! Applies steps, several at once.

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
const CONCURRENCY: usize = 16;

/// Updates in one commit.
const UPDATES: usize = 500;

/// Applies steps. In a dry run it only reports them.
pub(super) struct Apply<'a> {
    store: &'a Store,
    dry_run: bool,
    since: Millis,
    running: JoinSet<(List, Vec<TenantId>, Result<bool>)>,
    updates: Vec<User>,
}

/// The list of the report that a step belongs to.
type List = fn(&mut Report) -> &mut Entries;

impl<'a> Apply<'a> {
    pub(super) fn new(store: &'a Store, dry_run: bool, since: Millis) -> Self {
        Self { store, dry_run, since, running: JoinSet::new(), updates: Vec::new() }
    }

    pub(super) async fn take(&mut self, step: Step, report: &mut Report) {
        while self.running.len() >= CONCURRENCY {
            self.settle(report).await;
        }
        let (store, since) = (self.store.clone(), self.since);
        match step {
            Step::Update(user) => {
                self.updates.push(user);
                if self.updates.len() >= UPDATES {
                    self.write_updates();
                }
            }
            Step::Create(user) => self.spawn(|report| &mut report.created, vec![user.id.clone()], async move {
                changes::create(&store, user, since).await
            }),
            Step::Restore(user) => self.spawn(|report| &mut report.restored, vec![user.id.clone()], async move {
                changes::restore(&store, user, since).await
            }),
            Step::Delete(id) => self.spawn(|report| &mut report.deleted, vec![id.clone()], async move {
                changes::delete(&store, &id, since).await
            }),
        }
    }

    fn write_updates(&mut self) {
        let users = std::mem::take(&mut self.updates);
        let ids = users.iter().map(|user| user.id.clone()).collect();
        let (store, since) = (self.store.clone(), self.since);
        self.spawn(|report| &mut report.updated, ids, async move {
            changes::update(&store, users, since).await.map(|updated| updated > 0)
        });
    }

    /// Starts a step, which returns whether it still applied.
    fn spawn(&mut self, list: List, ids: Vec<TenantId>, step: impl Future<Output = Result<bool>> + Send + 'static) {
        let dry_run = self.dry_run;
        self.running.spawn(async move { (list, ids, if dry_run { Ok(true) } else { step.await }) });
    }

    async fn settle(&mut self, report: &mut Report) {
        match self.running.join_next().await {
            None => {}
            Some(Ok((list, ids, Ok(true)))) => ids.iter().for_each(|id| list(report).add(id)),
            Some(Ok((_, ids, Ok(false)))) => report.unchanged += ids.len() as u64,
            Some(Ok((_, ids, Err(error)))) => ids.iter().for_each(|id| report.errors.add(&format!("{id}: {error}"))),
            Some(Err(error)) => report.errors.add(&format!("a step did not finish: {error}")),
        }
    }

    /// Waits for the steps that were taken.
    pub(super) async fn finish(&mut self, report: &mut Report) {
        if !self.updates.is_empty() {
            self.write_updates();
        }
        while !self.running.is_empty() {
            self.settle(report).await;
        }
    }
}

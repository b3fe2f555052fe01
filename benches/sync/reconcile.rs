use std::{sync::Arc, time::Instant};

use cubby::{
    Result, Store, TenantId,
    catalog::queries,
    identity::{
        provider::{Page, Provider},
        user::{User, WireUser},
    },
    reconcile::{
        report::Report,
        run::{Options, Reconciler},
    },
};
use futures_util::future::BoxFuture;

use crate::user;

pub const PAGE: u64 = 500;

/// A provider in this process. Its pages are written as JSON and read as the client reads them;
/// only the network is missing.
struct Clerk {
    /// Users of these numbers exist.
    users: std::ops::Range<u64>,
}

impl Clerk {
    fn has(&self, id: &str) -> bool {
        id.strip_prefix("user_").and_then(|n| n.parse().ok()).is_some_and(|n| self.users.contains(&n))
    }
}

pub fn id(n: u64) -> String {
    format!("user_{n:024}")
}

pub fn parsed(n: u64) -> User {
    serde_json::from_value::<WireUser>(user(&id(n), "name", 1_700_000_000_000)).unwrap().into_user(None).unwrap()
}

impl Provider for Clerk {
    fn get<'a>(&'a self, id: &'a TenantId) -> BoxFuture<'a, Result<Option<User>>> {
        Box::pin(async move { Ok(self.has(id.as_str()).then(|| parsed(id.as_str()[5..].parse().unwrap()))) })
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { Ok(self.users.end - self.users.start) })
    }

    fn page<'a>(&'a self, after: &'a [String]) -> BoxFuture<'a, Result<Page>> {
        let first = after.first().map_or(self.users.start, |id| id[5..].parse::<u64>().unwrap() + 1);
        let last = (first + PAGE).min(self.users.end);
        Box::pin(async move {
            let body: Vec<_> = (first..last).map(|n| user(&id(n), "name", 1_700_000_000_000)).collect();
            let text = serde_json::to_vec(&body).unwrap();
            let users: Vec<WireUser> = serde_json::from_slice(&text).unwrap();
            let users = users.into_iter().map(|user| user.into_user(None)).collect::<Result<_>>()?;
            Ok(Page {
                users,
                unusable: Vec::new(),
                next: (last - first == PAGE).then(|| id(last - 1)).into_iter().collect(),
            })
        })
    }

    fn among<'a>(&'a self, ids: &'a [TenantId]) -> BoxFuture<'a, Result<Vec<User>>> {
        let found =
            ids.iter().filter(|id| self.has(id.as_str())).map(|id| parsed(id.as_str()[5..].parse().unwrap())).collect();
        Box::pin(async move { Ok(found) })
    }
}

/// Rows of users as the provider has them, without files: a reconcile does not open them.
async fn fill(store: &Store, users: std::ops::Range<u64>) {
    let mut first = users.start;
    while first < users.end {
        let last = (first + 5000).min(users.end);
        let write = store.catalog().write(move |tx| {
            for n in first..last {
                let User { id, profile } = parsed(n);
                queries::insert(tx, &id, 1, 1, &profile)?;
            }
            Ok(())
        });
        write.await.unwrap();
        first = last;
    }
}

async fn reconcile(store: &Store, users: std::ops::Range<u64>, options: Options) -> Report {
    let reconciler = Reconciler::new(store.clone(), Some(Arc::new(Clerk { users })), "10%,10".parse().unwrap());
    reconciler.start(options, cubby::catalog::audit::Author::program("bench")).unwrap().report.await.unwrap()
}

/// A million users who need nothing.
pub async fn in_step(store: &Store, users: u64) {
    fill(store, 0..users).await;
    // From here on the kernel's high-water mark is this run's.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, started) = (memory("VmRSS:"), Instant::now());
    let report = reconcile(store, 0..users, Options::default()).await;
    let took = started.elapsed().as_secs_f64();
    println!(
        "{users} users, {} unchanged, {:?}, in {took:.1} s: {:.0} users/s",
        report.unchanged,
        report.outcome,
        users as f64 / took
    );
    let most = memory("VmHWM:") / 1024;
    println!("memory: {} MB before, {most} MB at most", before / 1024);
    crate::against(&format!("{most} MB for {users} users"), "200 MB for 1000000", most < 200);
    assert_eq!(report.unchanged, users);
}

/// In kB.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

//! What replication costs. `benches/replica/README.md` says how to run it and what is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::pedantic, clippy::disallowed_methods, missing_docs)]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use cubby::{
    Store, StoreOptions, TenantId,
    config::replicate::Mode,
    replica::{
        remote::{
            Remote,
            faulty::{Failure, Faulty},
        },
        running::{Replica, Settings},
        seal::Seal,
    },
};
use tempfile::TempDir;

#[derive(Debug, Parser)]
struct Cli {
    /// What to measure; all of it if nothing is named
    rows: Vec<String>,

    /// Does everything work? Short rounds; the figures are worthless
    #[arg(long)]
    quick: bool,

    /// Where temporary data folders go
    #[arg(long, default_value = "target")]
    folder: PathBuf,

    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// A store that replicates, or not.
struct Bench {
    store: Store,
    replica: Option<Replica>,
    bucket: Arc<Faulty>,
    _folder: TempDir,
}

impl Bench {
    fn start(cli: &Cli, name: &str, mode: Option<Mode>) -> Self {
        let folder = TempDir::new_in(&cli.folder).unwrap();
        let mut options = StoreOptions::new(folder.path());
        let bucket = Faulty::named(name);
        let replica = mode.map(|mode| {
            let settings = Settings {
                remote: Remote::open(&format!("memory:///{name}"), &[]).unwrap(),
                seal: Seal::none(),
                mode,
                window: Duration::from_secs(7 * 86_400),
                backlog: 256 << 20,
                anew: false,
                restore: false,
                clock: options.clock.clone(),
            };
            Replica::prepare(settings, folder.path()).unwrap()
        });
        options.log.tail = replica.as_ref().map(Replica::tail);
        let store = Store::open(options).unwrap();
        if let Some(replica) = &replica {
            replica.start(&store).unwrap();
        }
        Self { store, replica, bucket, _folder: folder }
    }

    async fn make(&self, tenants: usize) -> Vec<TenantId> {
        let mut ids = Vec::new();
        for n in 0..tenants {
            let id: TenantId = format!("user_{n}").parse().unwrap();
            drop(self.store.lease_or_create(&id).await.unwrap());
            ids.push(id);
        }
        ids
    }

    /// Inserts by `tasks` on these tenants for a while. Gives how many a second, and how long each took.
    async fn inserts(
        &self,
        ids: &[TenantId],
        tasks: usize,
        last: Duration,
        a_second: Option<u64>,
    ) -> (f64, Vec<Duration>) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (began, failed) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let mut running = tokio::task::JoinSet::new();
        for task in 0..tasks {
            let (store, ids, failed) = (self.store.clone(), ids.to_vec(), failed.clone());
            running.spawn(async move {
                let (mut took, mut n) = (Vec::new(), task);
                while began.elapsed() < last {
                    if let Some(rate) = a_second {
                        let due = Duration::from_secs_f64(took.len() as f64 * tasks as f64 / rate as f64);
                        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
                    }
                    let (id, at) = (&ids[n % ids.len()], Instant::now());
                    n += tasks + 1;
                    let (tenant, _) = store.lease_or_create(id).await.unwrap();
                    let note = format!("note_{}", NEXT.fetch_add(1, Ordering::Relaxed));
                    let written = tenant
                        .write_short(move |tx| {
                            let sql = "INSERT INTO notes VALUES (?1, ?2, 1, 1)";
                            Ok(tx.prepare_cached(sql)?.execute([&note, &"text ".repeat(40)])?)
                        })
                        .await;
                    failed.fetch_add(u64::from(written.is_err()), Ordering::Relaxed);
                    took.push(at.elapsed());
                }
                took
            });
        }
        let mut took: Vec<Duration> = running.join_all().await.concat();
        took.sort_unstable();
        assert_eq!(failed.load(Ordering::Relaxed), 0, "a write failed");
        (took.len() as f64 / began.elapsed().as_secs_f64(), took)
    }

    async fn reads(&self, ids: &[TenantId], tasks: usize, last: Duration) -> f64 {
        let (began, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let mut running = tokio::task::JoinSet::new();
        for task in 0..tasks {
            let (store, ids, stop) = (self.store.clone(), ids.to_vec(), stop.clone());
            running.spawn(async move {
                let (mut count, mut n) = (0_u64, task);
                while began.elapsed() < last && !stop.load(Ordering::Relaxed) {
                    n += tasks + 1;
                    let (tenant, _) = store.lease_or_create(&ids[n % ids.len()]).await.unwrap();
                    let read = |conn: &rusqlite::Connection| {
                        let sql = "SELECT count(*) FROM (SELECT 1 FROM notes LIMIT 20)";
                        Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0))?)
                    };
                    tenant.read(read).await.unwrap();
                    count += 1;
                }
                count
            });
        }
        let writes = self.inserts(ids, 1, last, Some(100));
        let (counts, _) = tokio::join!(running.join_all(), writes);
        counts.iter().sum::<u64>() as f64 / began.elapsed().as_secs_f64()
    }

    /// Waits until the bucket has everything.
    async fn caught_up(&self) -> Duration {
        let began = Instant::now();
        let replica = self.replica.as_ref().unwrap();
        loop {
            replica.flush(Duration::from_secs(600)).await.unwrap();
            if replica.shared().wanted.count() == 0 {
                return began.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(self) {
        let Self { store, replica, .. } = self;
        store.close(tokio::time::Instant::now() + Duration::from_secs(30)).await;
        if let Some(replica) = replica {
            tokio::task::spawn_blocking(move || replica.stop()).await.unwrap();
        }
    }
}

/// Resident memory, in MB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

fn at(took: &[Duration], share: f64) -> f64 {
    took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0
}

fn say(row: &str, figure: &str, asked: &str) {
    println!("{row:<44} {figure:<48} {asked}");
}

fn main() {
    let cli = Cli::parse();
    let wanted = |row: &str| cli.rows.is_empty() || cli.rows.iter().any(|wanted| wanted == row);
    let round = Duration::from_secs(if cli.quick { 1 } else { 10 });
    let rounds = if cli.quick { 1 } else { 5 };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("creates") || wanted("reads") || wanted("memory") {
            costs(&cli, round, rounds).await;
        }
        if wanted("sync") {
            sync(&cli, round).await;
        }
        if wanted("puts") {
            puts(&cli, round).await;
        }
        if wanted("away") {
            away(&cli).await;
        }
    });
}

/// Pairs of rounds, with and without replication.
async fn costs(cli: &Cli, round: Duration, rounds: usize) {
    let (mut creates, mut reads, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..rounds {
        let mut figures = Vec::new();
        // The other one first in every other pair.
        let order = if n % 2 == 0 { [false, true] } else { [true, false] };
        for replicates in order {
            let bench = Bench::start(cli, &format!("costs-{n}"), replicates.then_some(Mode::Async));
            bench.bucket.delay(Duration::from_millis(30), Duration::from_millis(80));
            let ids = bench.make(100).await;
            if replicates {
                bench.caught_up().await;
            }
            let idle = resident();
            let (a_second, _) = bench.inserts(&ids, 64, round, None).await;
            let busy = resident();
            let read = bench.reads(&ids, 64, round).await;
            figures.push((replicates, a_second, read, idle, busy));
            bench.bucket.delay(Duration::ZERO, Duration::ZERO);
            bench.stop().await;
        }
        figures.sort_by_key(|figure| figure.0);
        let ((_, without, read_without, idle, busy), (_, with, read_with, idle_with, busy_with)) =
            (figures[0], figures[1]);
        println!("  pair {n}: {without:.0} and {with:.0} inserts a second; {read_without:.0} and {read_with:.0} reads");
        creates.push(with / without);
        reads.push(read_with / read_without);
        memory.push((idle_with - idle, busy_with - busy));
    }
    let middle = |figures: &mut Vec<f64>| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    say("creates, with replication", &format!("{:.2}x", middle(&mut creates)), "at least 0.9x");
    say("reads, with replication", &format!("{:.2}x", middle(&mut reads)), "unchanged");
    // The first pair: later ones have what the allocator kept.
    let (idle, busy) = memory[0];
    say("memory more", &format!("{idle:.0} MB idle, {busy:.0} MB busy"), "64 MB, 256 MB");
}

async fn sync(cli: &Cli, round: Duration) {
    let bench = Bench::start(cli, "sync", Some(Mode::Sync));
    let ids = bench.make(64).await;
    bench.caught_up().await;
    bench.bucket.delay(Duration::from_millis(30), Duration::from_millis(80));
    bench.inserts(&ids, 64, Duration::from_secs(2), None).await;
    let (a_second, took) = bench.inserts(&ids, 64, round * 2, None).await;
    let figure = format!("p50 {:.0} ms, p99 {:.0} ms, {a_second:.0}/s", at(&took, 0.5), at(&took, 0.99));
    say("sync, PUTs of 30 to 80 ms, 64 writers", &figure, "p50 100 ms, p99 200 ms");
    bench.bucket.delay(Duration::ZERO, Duration::ZERO);
    bench.stop().await;
}

async fn puts(cli: &Cli, round: Duration) {
    let bench = Bench::start(cli, "puts", Some(Mode::Async));
    let many = if cli.quick { 200 } else { 10_000 };
    let ids = bench.make(many).await;
    bench.caught_up().await;
    let replica = bench.replica.as_ref().unwrap();
    let window = round * 3;
    let mut figures = Vec::new();
    for dirty in [0, 1, many] {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, began) = (replica.remote().meter(), Instant::now());
        match dirty {
            0 => tokio::time::sleep(window).await,
            1 => drop(bench.inserts(&ids[..1], 1, window, Some(100)).await),
            _ => drop(bench.inserts(&ids, 64, window, Some(5000)).await),
        }
        let puts = replica.remote().meter().puts - before.puts;
        let shards = if dirty == 1 { 1.0 } else { 16.0 };
        figures.push(format!("{dirty} dirty: {:.2}", puts as f64 / began.elapsed().as_secs_f64() / shards));
    }
    say("PUTs a second and shard", &figures.join(", "), "2.2; none when idle");
    bench.stop().await;
}

async fn away(cli: &Cli) {
    let bench = Bench::start(cli, "away", Some(Mode::Async));
    let ids = bench.make(100).await;
    bench.caught_up().await;
    let last = Duration::from_secs(if cli.quick { 3 } else { 60 });
    bench.inserts(&ids, 64, Duration::from_secs(3), Some(2000)).await;
    let before = resident();
    bench.bucket.fail(Some(Failure::Unavailable));
    let (a_second, _) = bench.inserts(&ids, 64, last, Some(2000)).await;
    let more = resident() - before;
    bench.bucket.fail(None);
    let took = bench.caught_up().await;
    let fallen = bench.replica.as_ref().unwrap().shared().overflowed.load(Ordering::Relaxed);
    let figure = format!(
        "no write failed at {a_second:.0}/s, {more:.0} MB more, caught up in {:.1} s, {fallen} fell out",
        took.as_secs_f64()
    );
    say(&format!("bucket away for {} s", last.as_secs()), &figure, "100 MB, 10 s");
    bench.stop().await;
}

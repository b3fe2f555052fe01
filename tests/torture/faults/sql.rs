//! SIGKILL, and power cuts, in the midst of transactions of SQL over HTTP, beside writes of notes.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use serde_json::json;

use super::{Report, Setup, folder, lacks, migrations, power};
use crate::{
    check,
    load::{self, Plan},
    mount::{self, Mounted},
    rng::Rng,
    server::{Launch, Node},
    sql,
};

/// Few, so that transactions wait for each other.
const TENANTS: usize = 8;
const WORKERS: usize = 6;
/// Who write notes of the same users.
const WRITERS: usize = 3;
/// Who read the transactions.
const WATCHERS: usize = 2;
/// A transaction that nobody goes on with ends so soon that others go on within a round.
const FLAGS: [&str; 6] = ["--max-open", "6", "--idle", "300ms", "--sql-idle", "200ms"];
/// Files are looked through after so many faults; contents after each.
const LOOK: u32 = 10;

/// How the server ends.
enum Ends {
    Killed,
    /// With the power of the disk that its data is on.
    Power(Mounted),
}

impl Ends {
    fn end(&self, node: &mut Node) {
        if let Self::Power(disk) = self {
            disk.cut_power();
        }
        node.kill();
    }

    fn revive(&self) {
        if let Self::Power(disk) = self {
            disk.unmount().unwrap();
            disk.mount().unwrap();
        }
    }
}

/// SIGKILL.
pub fn run(setup: &Setup) -> Report {
    let kill = |broken: Option<&str>| {
        let (folder, data) = folder();
        let schema = schema(folder.path());
        let flags = [&FLAGS[..], &["--migrations", schema.to_str().unwrap()]].concat();
        let launch = match broken {
            Some(mode) => Launch::broken(mode, &data, &flags),
            None => Launch::real(&setup.program, &data, &flags),
        };
        rounds(setup, &launch, &Ends::Killed)
    };
    if !setup.control {
        return kill(None);
    }
    // Each breaks what another check is for.
    let mut all = Report::default();
    for (mode, catches) in [("no-transactions", "HALF"), ("early-commit", "LOST"), ("any-baton", "BATON")] {
        let report = kill(Some(mode));
        let kinds: BTreeSet<&str> = report.violations.iter().filter_map(|what| what.split(':').next()).collect();
        all.note(format!("{mode}: {} violations after {} kills: {kinds:?}", report.violations.len(), report.faults));
        all.faults += report.faults;
        all.acknowledged += report.acknowledged;
        if !kinds.contains(catches) {
            // One that is not caught is not made up for by the others.
            return Report { violations: Vec::new(), ..all };
        }
        all.violations.extend(report.violations.into_iter().filter(|what| what.starts_with(catches)).take(1));
    }
    all
}

/// Power cuts.
pub fn run_power(setup: &Setup) -> Report {
    if let Some(why) = lacks(&["mkfs.ext4", "losetup", "strace"], true) {
        return Report::skipped(why);
    }
    let disk = match Mounted::ext4(512, "errors=remount-ro") {
        Ok(disk) => disk,
        Err(why) => return Report::skipped(why),
    };
    let (folder, _) = folder();
    let schema = schema(folder.path());
    let flags = [&FLAGS[..], &["--migrations", schema.to_str().unwrap()]].concat();
    let launch = Launch::real(&setup.program, &disk.path().join("data"), &flags);
    let launch = if setup.control { launch.tampered(power::WITHOUT_FLUSHES) } else { launch };
    rounds(setup, &launch, &Ends::Power(disk))
}

/// The notes and what the transactions write.
fn schema(folder: &Path) -> PathBuf {
    migrations(folder, "migrations", Some(("parts", sql::SCHEMA))).0
}

fn rounds(setup: &Setup, launch: &Launch, ends: &Ends) -> Report {
    let mut report = Report::default();
    let data = &launch.data;
    let mut rng = Rng::new(setup.seed, 0);
    let mut workers = sql::workers(setup.seed, TENANTS, WORKERS);
    let mut writers = load::workers(&Plan { workers: WRITERS, ..Plan::new(setup.seed, TENANTS) });
    let (mut in_flight, mut batons) = (0, 0);
    let mut node = launch.start();
    make_tenants(&node);
    let count = setup.count.unwrap_or(if setup.control { 6 } else { 20 });
    for round in 1..=count {
        let life = Duration::from_millis(rng.range(50, 800));
        let pause = if round % 2 == 0 { Duration::from_millis(5) } else { Duration::ZERO };
        workers.iter_mut().for_each(|worker| worker.pause = pause);
        sql::run(node.address, &mut workers, WATCHERS, |over| {
            load::run(node.address, &mut writers, || {
                std::thread::sleep(life);
                if round % 3 == 0 {
                    mount::write_back(data, &mut rng);
                }
                over.store(true, Ordering::SeqCst);
                ends.end(&mut node);
            });
        });
        report.violations.extend(node.panics());
        drop(node);
        ends.revive();
        report.faults += 1;
        node = match launch.try_start() {
            Ok(node) => node,
            Err((status, said)) => {
                report.wrong(format!("START: {status}: {said}"));
                return report;
            }
        };
        node.ready();
        let verdict = sql::compare(node.address, &mut workers);
        (in_flight, batons) = (in_flight + verdict.unanswered_done, batons + verdict.batons);
        report.violations.extend(verdict.violations);
        for worker in &mut workers {
            report.acknowledged += std::mem::take(&mut worker.acknowledged);
            report.violations.append(&mut worker.violations);
        }
        report.violations.extend(load::compare(node.address, &mut writers, |_| false).violations);
        report.saw(load::take_seen(&mut writers));
        for tenant in verdict.crowded {
            if let Err(why) = sql::empty(&mut node.http(), &tenant) {
                report.wrong(why);
            }
            workers.iter_mut().for_each(|worker| worker.ledger.forget(&tenant));
        }
        if round % LOOK == 0 || round == count || !report.violations.is_empty() {
            if let Err(why) = node.stop() {
                report.wrong(why);
            }
            report.violations.extend(check::files(data, |_| false));
            if !report.violations.is_empty() {
                report.note(format!("stopped after round {round}"));
                break;
            }
            node = launch.start();
        }
    }
    report.note(format!(
        "{in_flight} unanswered commits were done all the same; {batons} batons of before a restart were refused"
    ));
    report
}

/// SQL makes nobody.
fn make_tenants(node: &Node) {
    let mut http = node.http();
    for tenant in (0..TENANTS).map(load::tenant) {
        let made = http.post(&format!("/{tenant}"), &json!({"text": "first"})).answer().unwrap();
        let id = made.json()["note"]["id"].as_str().unwrap().to_owned();
        assert_eq!(http.send("DELETE", &format!("/{tenant}/{id}"), &[], None).status(), 200);
    }
}

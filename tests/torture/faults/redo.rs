//! Power cuts under load, and then twice in a row during the redo of the log.

use std::{collections::BTreeSet, path::Path, time::Duration};

use super::{Report, Setup, lacks};
use crate::{
    check,
    load::{self, Plan, Worker},
    logfile,
    mount::{self, Mounted},
    movers::{self, Mover},
    rng::Rng,
    server::Launch,
    step::ADMIN_KEY,
};

const MOVERS: u32 = 4;

/// Who is idle is closed late: with each look for them the log begins anew, and little of it is redone.
const FLAGS: [&str; 6] = ["--max-open", "30", "--idle", "1m", "--admin-api-key", ADMIN_KEY];

/// A redo that is wrong: for the control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrongly {
    /// It redoes what is before a barrier too.
    WithoutBarriers,
    /// It empties the log before what it wrote is on the disk.
    WithoutFlush,
}

pub fn run(setup: &Setup) -> Report {
    if let Some(why) = lacks(&["mkfs.ext4", "losetup", "strace"], true) {
        return Report::skipped(why);
    }
    if !setup.control {
        return redo(setup, None);
    }
    let mut all = Report::default();
    for wrongly in [Wrongly::WithoutBarriers, Wrongly::WithoutFlush] {
        let report = redo(setup, Some(wrongly));
        let caught = report.violations.len();
        let kinds: BTreeSet<&str> = report.violations.iter().filter_map(|what| what.split(':').next()).collect();
        all.note(format!("{wrongly:?}: {caught} violations after {} power cuts: {kinds:?}", report.faults));
        all.notes.extend(report.notes);
        all.faults += report.faults;
        all.acknowledged += report.acknowledged;
        if caught == 0 {
            // Each must be caught, and not just one.
            all.violations.clear();
            break;
        }
        all.violations.extend(report.violations);
    }
    all
}

fn redo(setup: &Setup, wrongly: Option<Wrongly>) -> Report {
    let mut report = Report::default();
    let disk = match Mounted::ext4(512, "errors=remount-ro") {
        Ok(disk) => disk,
        Err(why) => return Report::skipped(why),
    };
    let data = disk.path().join("data");
    let launch = Launch::real(&setup.program, &data, &FLAGS);
    let mut rng = Rng::new(setup.seed, 0);
    let mut workers = load::workers(&Plan::new(setup.seed, 40));
    let (mut moved, mut within, mut barriers) = (0, 0, 0);
    for round in 0..setup.count.unwrap_or(if wrongly.is_some() { 20 } else { 10 }) {
        let mut movers: Vec<Mover> = (0..MOVERS).map(|number| Mover::new(round, number, setup.seed)).collect();
        let node = launch.start();
        node.ready();
        movers.iter_mut().for_each(|mover| mover.prepare(node.address));
        if let Err(why) = node.stop() {
            report.wrong(why);
        }
        cut_under_load(&launch, &disk, &mut rng, &mut workers, &mut movers);
        moved += movers.iter().map(|mover| mover.done).sum::<u64>();
        for _ in 0..2 {
            if wrongly == Some(Wrongly::WithoutBarriers) {
                barriers += logfile::without_barriers(&data.join("log"));
            }
            let cut = match (wrongly, rng.range(0, 4)) {
                (Some(Wrongly::WithoutFlush), _) => "syncfs:retval=0".to_owned(),
                (_, 0) => "syncfs:signal=KILL:when=1".to_owned(),
                (_, 1) => format!("renameat2,mkdir,unlinkat:signal=KILL:when={}", rng.range(1, 5)),
                // In one of the first writes, which are the redo's.
                _ => format!("pwrite64:signal=KILL:when={}", rng.range(1, records(&data) + 2)),
            };
            let started = launch.clone().tampered(&cut).try_start();
            if wrongly != Some(Wrongly::WithoutFlush) {
                mount::write_back(&data, &mut rng);
            }
            disk.cut_power();
            if let Ok(mut node) = started {
                node.kill();
            }
            again(&disk);
            report.faults += 1;
            within += u32::from(records(&data) > 0);
        }
        if wrongly == Some(Wrongly::WithoutBarriers) {
            barriers += logfile::without_barriers(&data.join("log"));
        }
        let node = match launch.try_start() {
            Ok(node) => node,
            Err((status, said)) => {
                report.wrong(format!("START: {status}: {said}"));
                break;
            }
        };
        node.ready();
        report.violations.extend(load::compare(node.address, &mut workers, |_| false).violations);
        report.saw(load::take_seen(&mut workers));
        report.violations.extend(node.panics());
        if let Err(why) = node.stop() {
            report.wrong(why);
        }
        report.violations.extend(movers::compare(&data, &mut movers));
        report.violations.extend(check::files(&data, |_| false));
        if !report.violations.is_empty() {
            report.note(format!("stopped in round {}", round + 1));
            break;
        }
    }
    report.note(format!("{moved} operations on files; {within} power cuts left the log as it was"));
    if barriers > 0 {
        report.note(format!("{barriers} barriers taken out"));
    }
    report
}

fn cut_under_load(launch: &Launch, disk: &Mounted, rng: &mut Rng, workers: &mut [Worker], movers: &mut [Mover]) {
    let mut node = launch.start();
    let address = node.address;
    let life = Duration::from_millis(rng.range(200, 800));
    std::thread::scope(|scope| {
        for mover in movers {
            scope.spawn(|| mover.work(address));
        }
        load::run(address, workers, || {
            std::thread::sleep(life);
            if rng.range(0, 2) == 0 {
                mount::write_back(&launch.data, rng);
            }
            disk.cut_power();
            node.kill();
        });
    });
    drop(node);
    again(disk);
}

fn again(disk: &Mounted) {
    disk.unmount().unwrap();
    disk.mount().unwrap();
}

/// How many records the log has.
fn records(data: &Path) -> u64 {
    cubby::log::read(&data.join("log")).map_or(0, |entries| entries.len() as u64)
}

//! Power cuts under load: the file system is shut down without a flush, at full speed and paced.

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use super::{Report, Setup, lacks};
use crate::{
    check,
    load::{self, Plan},
    mount::{self, Mounted},
    rng::Rng,
    server::Launch,
};

/// Few may be open, so that opening and closing is under way too.
pub const FLAGS: [&str; 4] = ["--max-open", "30", "--idle", "300ms"];

/// For the control: flushes do nothing, and say that they did.
pub const WITHOUT_FLUSHES: &str = "fsync,fdatasync,syncfs:retval=0";

/// Who read what the workers write.
const WATCHERS: usize = 2;

pub fn run(setup: &Setup) -> Report {
    cuts(setup, &Plan::new(setup.seed, 40), |data| {
        let server = Launch::real(&setup.program, data, &FLAGS);
        if setup.control { server.tampered(WITHOUT_FLUSHES) } else { server }
    })
}

/// Cuts the power under load, again and again, of the server that `launch` gives for a data folder.
pub fn cuts(setup: &Setup, plan: &Plan, launch: impl FnOnce(&Path) -> Launch) -> Report {
    let mut report = Report::default();
    if let Some(why) = lacks(&["mkfs.ext4", "losetup", "strace"], true) {
        return Report::skipped(why);
    }
    let disk = match Mounted::ext4(512, "errors=remount-ro") {
        Ok(disk) => disk,
        Err(why) => return Report::skipped(why),
    };
    let data = disk.path().join("data");
    let launch = launch(&data);
    let mut rng = Rng::new(setup.seed, 0);
    let mut workers = load::workers(plan);
    let mut in_flight = 0;
    // A control ends with the first violation.
    let count = setup.count.unwrap_or(if setup.control { 40 } else { 10 });
    for round in 0..count {
        let mut node = launch.start();
        let life = Duration::from_millis(rng.range(50, 800));
        for worker in &mut workers {
            worker.pace(if round % 2 == 1 { Duration::from_millis(5) } else { Duration::ZERO });
        }
        load::run_watched(node.address, &mut workers, WATCHERS, |over| {
            std::thread::sleep(life);
            if round % 3 == 2 {
                mount::write_back(&data, &mut rng);
            }
            over.store(true, Ordering::SeqCst);
            disk.cut_power();
            node.kill();
        });
        report.violations.extend(node.panics());
        drop(node);
        disk.unmount().unwrap();
        disk.mount().unwrap();
        report.faults += 1;

        let mut node = match launch.try_start() {
            Ok(node) => node,
            Err((status, said)) => {
                report.wrong(format!("START: {status}: {said}"));
                break;
            }
        };
        node.ready();
        let verdict = load::compare(node.address, &mut workers, |_| false);
        in_flight += verdict.unanswered_done;
        report.violations.extend(verdict.violations);
        report.saw(load::take_seen(&mut workers));
        report.expect(node.is_running(), || format!("ENDED by itself: {:?}", node.log().last()));
        if let Err(why) = node.stop() {
            report.wrong(why);
        }
        report.violations.extend(check::files(&data, |_| false));
        if !report.violations.is_empty() {
            report.note(format!("stopped after power cut {}", round + 1));
            break;
        }
    }
    report.note(format!("{in_flight} unanswered writes were done all the same"));
    report
}

//! Power cuts under load: the file system is shut down without a flush, at full speed and paced.

use std::time::Duration;

use super::{Report, Setup, lacks};
use crate::{
    check,
    load::{self, Plan},
    mount::Mounted,
    rng::Rng,
    server::Launch,
};

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    if let Some(why) = lacks(&["mkfs.ext4", "losetup"], true) {
        return Report::skipped(why);
    }
    let disk = match Mounted::ext4(512, "errors=remount-ro") {
        Ok(disk) => disk,
        Err(why) => return Report::skipped(why),
    };
    let data = disk.path().join("data");
    let flags = ["--max-open", "30", "--idle", "300ms"];
    let launch = match setup.control {
        true => Launch::broken("normal", &data, &flags),
        false => Launch::real(&setup.program, &data, &flags),
    };
    let mut rng = Rng::new(setup.seed, 0);
    let plan = Plan::new(setup.seed, 40);
    let mut workers = load::workers(&plan);
    let mut in_flight = 0;
    let count = setup.count.unwrap_or(if setup.control { 4 } else { 10 });
    for round in 0..count {
        let mut node = launch.start();
        let life = Duration::from_millis(rng.range(50, 800));
        for worker in &mut workers {
            worker.pace(if round % 2 == 1 { Duration::from_millis(5) } else { Duration::ZERO });
        }
        load::run(node.address, &mut workers, || {
            std::thread::sleep(life);
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

//! SIGKILL at random moments under load, on 100 users.

use std::time::Duration;

use super::{Report, Setup, folder};
use crate::{
    check,
    load::{self, Plan},
    rng::Rng,
    server::Launch,
};

/// Files are looked through after so many kills; contents after each.
const LOOK: u32 = 10;

/// After so many kills another program opens and closes the files before the server starts again.
const OPENED: u32 = 3;

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let (_folder, data) = folder();
    // Few may be open, so that opening and closing is under way too.
    let flags = ["--max-open", "40", "--idle", "300ms"];
    let launch = match setup.control {
        true => Launch::broken("early-ack", &data, &flags),
        false => Launch::real(&setup.program, &data, &flags),
    };
    let mut rng = Rng::new(setup.seed, 0);
    let mut workers = load::workers(&Plan { posts_only: setup.control, ..Plan::new(setup.seed, 100) });
    let (mut slowest, mut in_flight) = (Duration::ZERO, 0);
    let mut node = launch.start();
    let count = setup.count.unwrap_or(if setup.control { 3 } else { 30 });
    for round in 1..=count {
        let life = Duration::from_millis(rng.range(20, 400));
        load::run(node.address, &mut workers, || {
            std::thread::sleep(life);
            node.kill();
        });
        report.violations.extend(node.panics());
        if round % OPENED == 0 {
            check::open_all(&data);
        }
        node = match launch.try_start() {
            Ok(node) => node,
            Err((status, said)) => {
                report.wrong(format!("START: {status}: {said}"));
                return report;
            }
        };
        slowest = slowest.max(node.ready());
        let verdict = load::compare(node.address, &mut workers, |_| false);
        in_flight += verdict.unanswered_done;
        report.violations.extend(verdict.violations);
        report.faults += 1;
        report.saw(load::take_seen(&mut workers));
        if round % LOOK == 0 || round == count {
            if let Err(why) = node.stop() {
                report.wrong(why);
            }
            report.violations.extend(check::files(&data, |_| false));
            node = launch.start();
        }
        if !report.violations.is_empty() {
            report.note(format!("stopped after kill {round}"));
            break;
        }
    }
    report.note(format!("ready after at most {slowest:?}; {in_flight} unanswered writes were done all the same"));
    report
}

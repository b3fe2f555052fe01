//! SIGTERM under load.

use std::time::{Duration, Instant};

use super::{Report, Setup, folder};
use crate::{
    check,
    load::{self, Plan},
    rng::Rng,
    server::Launch,
};

/// The server's own deadline, and what closing files may take on a slow machine.
const DEADLINE: Duration = Duration::from_secs(10);

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let (_folder, data) = folder();
    let launch = Launch::real(&setup.program, &data, &["--max-open", "40", "--drain-timeout", "8s"]);
    let mut rng = Rng::new(setup.seed, 0);
    let mut workers = load::workers(&Plan::new(setup.seed, 60));
    let mut slowest = Duration::ZERO;
    for _ in 0..setup.count.unwrap_or(if setup.control { 2 } else { 10 }) {
        let mut node = launch.start();
        let life = Duration::from_millis(rng.range(100, 500));
        let (status, took) = load::run(node.address, &mut workers, || {
            std::thread::sleep(life);
            let asked = Instant::now();
            // The control is what an operator should not do.
            if setup.control {
                crate::server::signal(node.id(), "KILL")
            } else {
                node.terminate()
            }
            (node.wait(DEADLINE * 2), asked.elapsed())
        });
        report.faults += 1;
        slowest = slowest.max(took);
        report.expect(status.is_some_and(|status| status.success()), || format!("EXIT: {status:?}"));
        report.expect(took < DEADLINE, || format!("SLOW: {took:?} to end"));
        report.violations.extend(node.panics());
        report.violations.extend(check::checkpointed(&data));
        report.saw(load::take_seen(&mut workers));
        report.violations.extend(check::files(&data, |_| false));

        let node = match launch.try_start() {
            Ok(node) => node,
            Err((status, said)) => {
                report.wrong(format!("START: {status}: {said}"));
                break;
            }
        };
        node.ready();
        let verdict = load::compare(node.address, &mut workers, |_| false);
        report.violations.extend(verdict.violations);
        // A request that was done was accepted, and must have been answered.
        report.expect(verdict.unanswered_done == 0, || {
            format!("UNANSWERED: {} writes were done and their clients not told", verdict.unanswered_done)
        });
        if let Err(why) = node.stop() {
            report.wrong(why);
        }
        if !report.violations.is_empty() {
            break;
        }
    }
    report.note(format!("ended after at most {slowest:?}"));
    report
}

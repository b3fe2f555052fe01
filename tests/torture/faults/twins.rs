//! Two servers started at once on one folder.

use super::{Report, Setup, folder};
use crate::server::Launch;

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let (_folder, data) = folder();
    let launch = Launch::real(&setup.program, &data, &[]);
    for _ in 0..setup.count.unwrap_or(if setup.control { 3 } else { 15 }) {
        let start = || launch.try_start();
        let (one, two) = std::thread::scope(|scope| {
            let one = scope.spawn(start);
            while setup.control && !one.is_finished() && std::fs::remove_file(data.join("cubby.lock")).is_err() {
                // Another file of that name will be another lock.
                std::thread::yield_now();
            }
            let two = scope.spawn(start);
            (one.join().unwrap(), two.join().unwrap())
        });
        report.faults += 1;
        let (winner, status, said) = match (one, two) {
            (Ok(node), Err((status, said))) | (Err((status, said)), Ok(node)) => (node, status, said),
            (Ok(_), Ok(_)) => {
                report.wrong("BOTH serve");
                continue;
            }
            (Err((_, one)), Err((_, two))) => {
                report.wrong(format!("NEITHER serves: {one} / {two}"));
                continue;
            }
        };
        report.expect(!status.success(), || "the other one says that all is well".into());
        for part in [format!("process {} ", winner.id()), "cubby.lock".into(), "--data".into()] {
            report.expect(said.contains(&part), || format!("MESSAGE: no {part:?} in {said:?}"));
        }
        winner.ready();
        if let Err(why) = winner.stop() {
            report.wrong(why);
        }
    }
    report
}

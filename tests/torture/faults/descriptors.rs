//! 256 descriptors, 500 users, and clients that hold connections and say nothing.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use super::{Report, Setup, folder, lacks};
use crate::{
    check,
    load::{self, Plan},
    server::Launch,
};

/// A server that accepts no more may leave a client waiting for as long as the client likes.
const BRIEFLY: Duration = Duration::from_millis(20);

pub fn run(setup: &Setup) -> Report {
    if let Some(why) = lacks(&["prlimit"], false) {
        return Report::skipped(why);
    }
    let mut report = Report::default();
    let (_folder, data) = folder();
    let launch = match setup.control {
        true => Launch::broken("swallow", &data, &[]),
        false => Launch::real(&setup.program, &data, &[]),
    };
    let launch = launch.under(&["prlimit", "--nofile=256:256", "--"]);
    let mut node = launch.start();
    let plan = Plan { workers: 24, posts_only: setup.control, ..Plan::new(setup.seed, 500) };
    let mut workers = load::workers(&plan);
    for _ in 0..setup.count.unwrap_or(2) {
        load::run_for(node.address, &mut workers, Duration::from_secs(setup.seconds.unwrap_or(3)));
        let busy = count(&mut workers, &mut report);
        report.note(format!("busy: {busy:?}"));
        // And now, with those who work there first, clients take what is left.
        load::run_once_served(node.address, &mut workers, || {
            let idle: Vec<_> = (0..250).map(|_| TcpStream::connect_timeout(&node.address, BRIEFLY)).collect();
            std::thread::sleep(Duration::from_secs(3));
            drop(idle);
        });
        let crowded = count(&mut workers, &mut report);
        report.note(format!("crowded: {crowded:?}"));
        report.faults += 1;
        let until = Instant::now() + Duration::from_secs(5);
        let mut http = node.http();
        while !setup.control && http.get("/user_1").status() != 200 {
            if Instant::now() > until {
                report.wrong("NOT HEALED: five seconds after the crowd left");
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        report.violations.extend(load::compare(node.address, &mut workers, |_| false).violations);
    }
    report.expect(node.is_running(), || "ENDED".into());
    report.violations.extend(node.panics());
    if let Err(why) = node.stop() {
        report.wrong(why);
    }
    report.violations.extend(check::files(&data, |_| false));
    report
}

fn count(workers: &mut [load::Worker], report: &mut Report) -> std::collections::BTreeMap<u16, u64> {
    let seen = load::take_seen(workers);
    let statuses = seen.statuses.clone();
    report.saw(seen);
    statuses
}

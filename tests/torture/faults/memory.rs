//! A bound on memory that is too small for the load: it sheds, or dies as by SIGKILL.

use std::{path::PathBuf, time::Duration};

use super::{Report, Setup, folder, lacks};
use crate::{
    check,
    load::{self, Plan},
    server::Launch,
};

/// Enough to start with, not for the load below.
const LIMIT: u64 = 36 << 20;

pub fn run(setup: &Setup) -> Report {
    if let Some(why) = lacks(&[], true) {
        return Report::skipped(why);
    }
    let Some(group) = Group::make() else {
        return Report::skipped("no memory cgroup can be made here");
    };
    let mut report = Report::default();
    let (_folder, data) = folder();
    let launch = match setup.control {
        true => Launch::broken("early-ack", &data, &["--cache", "8MiB"]),
        false => Launch::real(&setup.program, &data, &["--cache", "8MiB"]),
    };
    let plan = Plan { workers: 16, text: 400_000, posts_only: true, ..Plan::new(setup.seed, 60) };
    let mut workers = load::workers(&plan);
    let mut deaths = 0;
    for _ in 0..setup.count.unwrap_or(3) {
        let mut node = launch.start();
        group.add(node.id());
        load::run_for(node.address, &mut workers, Duration::from_secs(3));
        report.faults += 1;
        deaths += u64::from(!node.is_running());
        report.violations.extend(node.panics());
        node.kill();
        let node = launch.start();
        node.ready();
        let seen = load::take_seen(&mut workers);
        report.note(format!("answers: {:?}", seen.statuses));
        report.saw(seen);
        report.violations.extend(load::compare(node.address, &mut workers, |_| false).violations);
        if let Err(why) = node.stop() {
            report.wrong(why);
        }
        report.violations.extend(check::files(&data, |_| false));
        if !report.violations.is_empty() {
            break;
        }
    }
    report.note(format!("killed by the kernel {deaths} times"));
    report
}

/// A control group, of either version.
struct Group(PathBuf);

impl Group {
    fn make() -> Option<Self> {
        let name = format!("cubby-torture-{}", std::process::id());
        for (root, limit) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let folder = PathBuf::from(root).join(&name);
            if std::fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Self(folder);
            if std::fs::write(group.0.join(limit), LIMIT.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }

    fn add(&self, process: u32) {
        std::fs::write(self.0.join("cgroup.procs"), process.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

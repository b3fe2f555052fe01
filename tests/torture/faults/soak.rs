//! Churn over many more users than may be open: descriptors, memory, threads and write-ahead logs
//! stay flat.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{Report, Setup, folder};
use crate::{
    check,
    load::{self, Plan},
    server::{Launch, Node},
};

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sample {
    descriptors: f64,
    resident_kib: f64,
    threads: f64,
    wal_kib: f64,
}

/// Of the time, before anything is compared: pools fill, allocators grow.
const WARM_UP: f64 = 0.4;

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let (_folder, data) = folder();
    let flags = ["--max-open", "30", "--idle", "1s"];
    let launch = match setup.control {
        true => Launch::broken("leak", &data, &flags),
        false => Launch::real(&setup.program, &data, &flags),
    };
    let mut node = launch.start();
    let mut workers = load::workers(&Plan { pause: Duration::from_millis(1), ..Plan::new(setup.seed, 400) });
    let time = Duration::from_secs(setup.seconds.unwrap_or(if setup.control { 20 } else { 300 }));
    let started = Instant::now();
    let mut samples = Vec::new();
    load::run(node.address, &mut workers, || {
        while started.elapsed() < time {
            std::thread::sleep(Duration::from_secs(1).min(time / 20));
            samples.push((started.elapsed().as_secs_f64(), sample(&node, &data)));
        }
    });
    report.saw(load::take_seen(&mut workers));
    report.faults = samples.len() as u64;
    let from = time.as_secs_f64() * WARM_UP;
    samples.retain(|(at, _)| *at > from);
    for (name, of, slack) in [
        ("descriptors", (|s: &Sample| s.descriptors) as fn(&Sample) -> f64, 4.0),
        ("memory in KiB", |s| s.resident_kib, 2048.0),
        // Threads that may block come and go with what else the machine does. One that leaks comes with each request.
        ("threads", |s| s.threads, 8.0),
        ("logs in KiB", |s| s.wal_kib, 1024.0),
    ] {
        let quarters = quarters(&samples.iter().map(|(_, sample)| of(sample)).collect::<Vec<_>>());
        let hours = time.as_secs_f64() * (1.0 - WARM_UP) / 2.0 / 3600.0;
        let said = quarters.map(|mean| format!("{mean:.1}")).join(", ");
        report.note(format!("{name}: {said}"));
        report.expect(!grows(quarters, slack, hours), || format!("GROWS: {name}: {said}"));
    }
    report.expect(node.is_running(), || "ENDED".into());
    report.violations.extend(node.panics());
    if !setup.control {
        report.violations.extend(load::compare(node.address, &mut workers, |_| false).violations);
        if let Err(why) = node.stop() {
            report.wrong(why);
        }
        report.violations.extend(check::checkpointed(&data));
        report.violations.extend(check::files(&data, |_| false));
    }
    report
}

/// The means of the four quarters of the time.
#[expect(clippy::cast_precision_loss, reason = "samples are few")]
fn quarters(values: &[f64]) -> [f64; 4] {
    std::array::from_fn(|n| {
        let part = &values[values.len() * n / 4..values.len() * (n + 1) / 4];
        part.iter().sum::<f64>() / part.len() as f64
    })
}

/// Whether something leaks. The second half is above the first by more than `slack`, which comes and goes with the load
/// by chance, and one per cent in the `hours` between them; and each quarter is above the one before. What a burst of
/// load takes once and keeps, such as the memory of threads, raises one quarter only.
fn grows(quarters: [f64; 4], slack: f64, hours: f64) -> bool {
    let (first, second) = (f64::midpoint(quarters[0], quarters[1]), f64::midpoint(quarters[2], quarters[3]));
    let most = first * (1.0 + 0.01 * hours) + slack;
    second > most && quarters.is_sorted_by(|one, next| next - one > slack / 16.0)
}

fn sample(node: &Node, data: &Path) -> Sample {
    let process = Path::new("/proc").join(node.id().to_string());
    let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0.0)
    };
    let mut wal = 0;
    for folder in std::fs::read_dir(data.join("tenants")).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().ends_with("-wal") {
                wal += file.metadata().map_or(0, |meta| meta.len());
            }
        }
    }
    Sample {
        descriptors: std::fs::read_dir(process.join("fd")).map_or(0, Iterator::count) as f64,
        resident_kib: field("VmRSS:"),
        threads: field("Threads:"),
        wal_kib: wal as f64 / 1024.0,
    }
}

#[cfg(test)]
mod tests {
    use super::grows;

    #[test]
    fn a_leak_grows_all_the_time_and_a_burst_once() {
        assert!(grows([10.0, 20.0, 30.0, 40.0], 8.0, 0.1));
        assert!(!grows([10.0, 10.1, 30.0, 30.2], 8.0, 0.1));
        assert!(!grows([10.0, 11.0, 12.0, 13.0], 8.0, 0.1));
        assert!(!grows([10.0, 30.0, 30.0, 10.0], 8.0, 0.1));
    }
}

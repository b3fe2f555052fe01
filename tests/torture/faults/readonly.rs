//! A file system that the kernel turned read-only after an error, and a file that is read-only.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Report, Setup, file_of, lacks, power};
use crate::{
    check,
    http::{Http, Reply},
    load::{self, Plan},
    mount::{self, Mounted},
    rng::Rng,
    server::{Launch, Node},
};

/// Enough that at any moment some flush of a log that grows is under way: what the error strikes.
const WORKERS: usize = 32;

pub fn run(setup: &Setup) -> Report {
    if let Some(why) = lacks(&["mkfs.ext4", "losetup", "chattr", "strace"], true) {
        return Report::skipped(why);
    }
    let mut report = Report::default();
    let disk = match Mounted::ext4(128, "errors=remount-ro") {
        Ok(disk) => disk,
        Err(why) => return Report::skipped(why),
    };
    let data = disk.path().join("data");
    let flags = ["--max-open", "12", "--idle", "2s"];
    let mut launch = Launch::real(&setup.program, &data, &flags);
    if setup.control {
        launch = launch.tampered(power::WITHOUT_FLUSHES);
    }
    let plan = Plan { workers: WORKERS, ..Plan::new(setup.seed, 20) };
    let mut workers = load::workers(&plan);
    let mut rng = Rng::new(setup.seed, 0);
    for _ in 0..setup.count.unwrap_or(if setup.control { 100 } else { 3 }) {
        let mut node = launch.start();
        load::run_for(node.address, &mut workers, Duration::from_millis(500));
        if !setup.control {
            one_file(&node, &data, &mut report);
        }
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", disk.device_name());
        load::run(node.address, &mut workers, || {
            // Logs are empty when they are opened, and grow: for some time each commit makes one longer.
            std::thread::sleep(Duration::from_millis(rng.range(50, 400)));
            std::fs::write(&trigger, "1").unwrap();
            std::thread::sleep(Duration::from_millis(700));
        });
        report.faults += 1;
        let seen = load::take_seen(&mut workers);
        report.note(format!("answers: {:?}", seen.statuses));
        report.saw(seen);
        if !setup.control {
            while_read_only(&node, &mut report);
        }
        report.violations.extend(node.panics());
        node.kill();
        drop(node);
        disk.unmount().unwrap();
        if let Err(why) = disk.check() {
            report.wrong(why);
        }
        disk.mount().unwrap();
        let node = launch.start();
        node.ready();
        let verdict = load::compare(node.address, &mut workers, |_| false);
        report.violations.extend(verdict.violations);
        if let Err(why) = node.stop() {
            report.wrong(why);
        }
        report.violations.extend(check::files(&data, |_| false));
        if !report.violations.is_empty() {
            break;
        }
    }
    report
}

fn while_read_only(node: &Node, report: &mut Report) {
    let mut http = node.http();
    let reply = http.get("/readyz");
    report.expect(reply.status() == 503, || format!("READY: {reply:?}"));
    // More than may be open: those that were and those that were not.
    for number in 0..20 {
        let path = format!("/{}", load::tenant(number));
        let reply = read(&mut http, &path);
        report.expect(reply.status() == 200, || format!("READ: {path}: {reply:?}"));
        let reply = http.post(&path, &json!({"text": "x"}));
        report.expect(reply.status() == 503, || format!("WRITE: {path}: {reply:?}"));
        let reply = read(&mut http, &path);
        report.expect(reply.status() == 200, || format!("READ after a write: {path}: {reply:?}"));
    }
}

/// The first page of a user. A read of what a flush was still to make durable is refused when that flush has failed, which
/// takes its time on a slow disk; the next one is answered.
fn read(http: &mut Http, path: &str) -> Reply {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let reply = http.get(&format!("{path}?limit=1"));
        if reply.status() != 503 || Instant::now() > until {
            return reply;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One user's file cannot be opened for writing: reads go on, and writes as soon as it can.
fn one_file(node: &Node, data: &std::path::Path, report: &mut Report) {
    let tenant = load::tenant(7);
    let file = file_of(data, &tenant);
    let path = format!("/{tenant}");
    let mut http = node.http();
    http.post(&path, &json!({"text": "mine"}));
    // Until it is closed, a descriptor for writing is there.
    let until = Instant::now() + Duration::from_secs(30);
    while http.get("/readyz").answer().map(|answer| answer.json()["open"].clone()) != Some(json!(0)) {
        if Instant::now() > until {
            return report.wrong("IDLE: a file that nobody uses stays open");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    mount::run("chattr", &["+i", file.to_str().unwrap()]).unwrap();
    for _ in 0..2 {
        let reply = http.get(&format!("{path}?limit=1"));
        report.expect(reply.status() == 200, || format!("READ of a read-only file: {reply:?}"));
        let reply = http.post(&path, &json!({"text": "x"}));
        report.expect(reply.status() == 503, || format!("WRITE to a read-only file: {reply:?}"));
    }
    mount::run("chattr", &["-i", file.to_str().unwrap()]).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while http.post(&path, &json!({"text": "mine"})).status() != 201 {
        if Instant::now() > until {
            report.wrong("NOT HEALED: the file can be written again");
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for (id, text) in load::read_all(&mut http, &tenant).unwrap() {
        if text == "mine" {
            http.send("DELETE", &format!("{path}/{id}"), &[], None);
        }
    }
}

//! A disk that is full: a small tmpfs.

use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Report, Setup, lacks};
use crate::{
    check,
    http::Reply,
    load::{self, Plan},
    mount::Mounted,
    server::{Launch, Node},
};

pub fn run(setup: &Setup) -> Report {
    if let Some(why) = lacks(&["mount"], true) {
        return Report::skipped(why);
    }
    let mut report = Report::default();
    let disk = match Mounted::tmpfs(48) {
        Ok(disk) => disk,
        Err(why) => return Report::skipped(why),
    };
    let (data, ballast) = (disk.path().join("data"), disk.path().join("ballast"));
    let flags = ["--max-open", "8", "--idle", "300ms"];
    let launch = match setup.control {
        true => Launch::broken("swallow", &data, &flags),
        false => Launch::real(&setup.program, &data, &flags),
    };
    let plan = Plan { posts_only: setup.control, text: 4000, ..Plan::new(setup.seed, 20) };
    let mut workers = load::workers(&plan);
    let mut node = launch.start();
    load::run_for(node.address, &mut workers, Duration::from_millis(500));
    for round in 0..setup.count.unwrap_or(3) {
        report.saw(load::take_seen(&mut workers));
        load::run(node.address, &mut workers, || {
            fill(&ballast);
            std::thread::sleep(Duration::from_millis(700));
        });
        let seen = load::take_seen(&mut workers);
        report.note(format!("full: {:?}", seen.statuses));
        if !setup.control {
            report.expect(seen.statuses.contains_key(&507), || format!("FULL: no 507 but {:?}", seen.statuses));
        }
        report.saw(seen);
        if !setup.control {
            while_full(&node, round, &ballast, &mut report);
        }
        report.faults += 1;

        std::fs::remove_file(&ballast).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        let mut http = node.http();
        for path in ["/user_1".to_owned(), format!("/new_{round}")] {
            // Creates a user too: the catalog heals as well.
            while http.post(&path, &json!({"text": "space"})).status() != 201 {
                if Instant::now() > until {
                    report.wrong(format!("NOT HEALED: {path}"));
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        remove_all(&node, "user_1", "space");
        report.expect(http.get("/readyz").status() == 200, || "READY: red with space".into());
        load::run_for(node.address, &mut workers, Duration::from_millis(200));
        report.violations.extend(node.panics());
        node.kill();
        node = launch.start();
        node.ready();
        let verdict = load::compare(node.address, &mut workers, |_| false);
        report.violations.extend(verdict.violations);
        if !report.violations.is_empty() {
            break;
        }
    }
    if let Err(why) = node.stop() {
        report.wrong(why);
    }
    report.violations.extend(check::files(&data, |_| false));
    report
}

fn while_full(node: &Node, round: u32, ballast: &Path, report: &mut Report) {
    let mut http = node.http();
    for number in 0..20 {
        let path = format!("/{}?limit=1", load::tenant(number));
        let reply = http.get(&path);
        report.expect(reply.status() == 200, || format!("READ: {path}: {reply:?}"));
    }
    // Closing others in the meantime makes a little room, which is taken again.
    let created = (0..20).map(|number| {
        fill(ballast);
        http.post(&format!("/new_full_{round}_{number}"), &json!({"text": "x"})).status()
    });
    let created: Vec<u16> = created.collect();
    let fits = created.iter().all(|status| [201, 507].contains(status)) && created.contains(&507);
    report.expect(fits, || format!("CREATE: {created:?}"));
    let reply = http.get("/readyz");
    report.expect(reply.status() == 503, || format!("READY: {reply:?}"));
}

/// Takes all the space there is.
pub fn fill(ballast: &Path) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(ballast).unwrap();
    let mut size = 1 << 20;
    while size > 0 {
        if file.write_all(&vec![0; size]).is_err() {
            size /= 2;
        }
    }
}

/// The notes that this fault made itself, which no worker knows of.
fn remove_all(node: &Node, tenant: &str, text: &str) {
    let mut http = node.http();
    for (id, found) in load::read_all(&mut http, tenant).unwrap() {
        if found == text {
            let Reply::Answer(_) = http.send("DELETE", &format!("/{tenant}/{id}"), &[], None) else { panic!("cut") };
        }
    }
}

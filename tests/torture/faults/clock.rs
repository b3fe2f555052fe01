//! A clock that jumps forwards and backwards: libfaketime, with the time in a file.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Report, Setup, folder, lacks};
use crate::{
    http::{Answer, Http},
    server::Launch,
};

const LIBRARIES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"];

pub fn run(setup: &Setup) -> Report {
    let Some(library) = LIBRARIES.iter().find(|path| Path::new(path).exists()) else {
        return Report::skipped("needs libfaketime: apt-get install faketime");
    };
    if let Some(why) = lacks(&[], false) {
        return Report::skipped(why);
    }
    let mut report = Report::default();
    let (folder, data) = folder();
    let now = folder.path().join("now");
    let set = |offset: &str| std::fs::write(&now, format!("{offset}\n")).unwrap();
    set("+0");
    let launch = Launch::real(&setup.program, &data, &["--idle", "1s"])
        .with("LD_PRELOAD", library)
        .with("FAKETIME_TIMESTAMP_FILE", now.to_str().unwrap())
        .with("FAKETIME_NO_CACHE", "1")
        // Waiting is by the monotonic clock, which no operator sets.
        .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .with("DONT_FAKE_MONOTONIC", "1");
    let mut node = launch.start();
    let mut http = node.http();
    let mut expected = Vec::new();
    for round in 0..setup.count.unwrap_or(2) {
        set("+0");
        let first = keyed(&mut http, round);
        report.expect(first.status == 201, || format!("first: {}", first.text()));
        let mut before = String::new();
        let last = if setup.control { "+25h" } else { "+23h" };
        for offset in ["+2h", "-2h", "-26h", "+0", "+1h", last, "+0"] {
            set(offset);
            let again = keyed(&mut http, round);
            report.expect(again.body == first.body && again.header("idempotency-replayed") == Some("true"), || {
                format!("KEY: at {offset} a repeat is {} {}", again.status, again.text())
            });
            let made = http.post("/ada", &json!({"text": format!("{round} at {offset}")})).answer().unwrap().json();
            let id = made["note"]["id"].as_str().unwrap_or_default().to_owned();
            // The part of it that tells the time; what follows is chance.
            let time = id.get(..14).unwrap_or_default().to_owned();
            report.expect(time >= before, || format!("ORDER: at {offset} the id {id} is before {before}"));
            before = time;
            report.acknowledged += 2;
            report.faults += 1;
            idle(&mut http, offset, &mut report);
        }
        expected.push(first.json()["note"]["text"].clone());
        if setup.control {
            break;
        }
    }
    report.expect(node.is_running(), || "ENDED".into());
    report.violations.extend(node.panics());
    set("-2h");
    if let Err(why) = node.stop() {
        report.wrong(why);
    }
    set("+2h");
    let node = launch.start();
    let notes = crate::load::read_all(&mut node.http(), "ada").unwrap();
    for text in &expected {
        report.expect(notes.values().filter(|found| text == found.as_str()).count() == 1, || {
            format!("TWICE or never: {text}")
        });
    }
    if let Err(why) = node.stop() {
        report.wrong(why);
    }
    report
}

fn keyed(http: &mut Http, round: u32) -> Answer {
    let key = format!("key-{round}");
    let body = json!({"text": format!("once {round}")});
    http.send("POST", "/ada", &[("idempotency-key", &key)], Some(&body)).answer().unwrap()
}

/// What nobody uses is closed, whatever the time of day.
fn idle(http: &mut Http, offset: &str, report: &mut Report) {
    let started = Instant::now();
    while http.get("/readyz").answer().unwrap().json()["open"] != 0 {
        if started.elapsed() > Duration::from_secs(10) {
            return report.wrong(format!("IDLE: at {offset} the database is still open after ten seconds"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    report.expect(started.elapsed() > Duration::from_millis(300), || {
        format!("IDLE: at {offset} the database was closed at once, after {:?}", started.elapsed())
    });
}

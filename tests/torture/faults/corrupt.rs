//! A file that is not what was written: the user alone is refused, and the file kept as found.

use std::{
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use super::{Report, Setup, file_of, folder};
use crate::{
    check,
    load::{self, Plan},
    rng::Rng,
    server::{self, Launch},
};

const KINDS: [&str; 8] =
    ["page", "page, closed well", "truncation", "garbage", "zero bytes", "another's", "newer", "missing"];
const TENANTS: usize = 5;
const VICTIM: usize = 2;
const PAGE: u64 = 4096;

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let mut rng = Rng::new(setup.seed, 0);
    for round in 0..setup.count.unwrap_or(8) {
        let kind = KINDS[round as usize % KINDS.len()];
        let (_folder, data) = folder();
        let launch = Launch::real(&setup.program, &data, &[]);
        let mut workers = load::workers(&Plan { workers: 4, ..Plan::new(rng.next(), TENANTS) });
        let mut node = launch.start();
        load::run(node.address, &mut workers, || {
            std::thread::sleep(Duration::from_millis(600));
            // On a slow disk it takes longer until everybody has a file.
            let until = Instant::now() + Duration::from_secs(60);
            while (0..TENANTS).any(|number| !file_of(&data, &load::tenant(number)).exists()) {
                assert!(Instant::now() < until, "not everybody has a file");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        if kind == "page" {
            node.kill();
        } else if let Err(why) = node.stop() {
            report.wrong(why);
        }
        report.saw(load::take_seen(&mut workers));

        let victim = load::tenant(VICTIM);
        let file = file_of(&data, &victim);
        damage(kind, &file, &file_of(&data, &load::tenant(4)), &mut rng);
        if setup.control {
            // One more, of which the checks are not told.
            std::fs::write(file_of(&data, &load::tenant(1)), b"").unwrap();
        }
        let found = std::fs::read(&file).ok();
        let at = format!("{kind}, round {round}");

        let node = launch.start();
        node.ready();
        let mut http = node.http();
        let path = format!("/{victim}?limit=500");
        let mut last = http.get(&path);
        for _ in 0..200 {
            if last.clone().answer().is_some_and(|answer| answer.text().contains("\"quarantined\"")) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            last = http.get(&path);
        }
        let text = last.clone().answer().map_or_else(String::new, |answer| answer.text());
        // A page that no read needs is found when the file is looked through, after an unclean stop.
        // One that the write-ahead log holds as well is mended by it.
        let unnoticed = kind.starts_with("page") && last.status() == 200;
        report.expect(unnoticed || (last.status() == 503 && text.contains("\"quarantined\"")), || {
            format!("{at}: SERVED: {} {}", last.status(), text.chars().take(200).collect::<String>())
        });
        if unnoticed {
            report.violations.extend(load::compare(node.address, &mut workers, |_| false).violations);
        }
        let others = load::compare(node.address, &mut workers, |tenant| tenant == victim);
        report.violations.extend(others.violations.into_iter().map(|wrong| format!("{at}: {wrong}")));
        report.violations.extend(node.panics());
        if let Err(why) = node.stop() {
            report.wrong(why);
        }
        report.expect(unnoticed || std::fs::read(&file).ok() == found, || {
            format!("{at}: CHANGED: the file is not as it was found")
        });
        let output = server::clean(&setup.program).args(["tenants", "show", &victim, "--data"]).arg(&data).output();
        let shown = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
        let told = shown.lines().any(|line| line.starts_with("reason") && !line.ends_with('-'));
        report.expect(unnoticed || (shown.contains("quarantined") && told), || format!("{at}: UNTOLD: {shown}"));
        let leave = |tenant: &str| tenant == victim;
        if kind != "missing" && !unnoticed {
            report.violations.extend(check::files(&data, leave).into_iter().filter(|wrong| !wrong.contains("MISSING")));
        }
        report.faults += 1;
        if !report.violations.is_empty() {
            break;
        }
    }
    report
}

fn damage(kind: &str, path: &Path, other: &Path, rng: &mut Rng) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let pages = file.metadata().unwrap().len() / PAGE;
    let noise: Vec<u8> = (0..PAGE).map(|_| rng.next() as u8).collect();
    match kind {
        "page" | "page, closed well" => file.write_all_at(&noise, rng.range(1, pages) * PAGE).unwrap(),
        "truncation" => file.set_len(rng.range(1, pages * PAGE)).unwrap(),
        "garbage" => (0..pages).for_each(|page| file.write_all_at(&noise, page * PAGE).unwrap()),
        "zero bytes" => file.set_len(0).unwrap(),
        "another's" => drop(std::fs::copy(other, path).unwrap()),
        "newer" => {
            let conn = check::connect(path).unwrap();
            conn.pragma_update(None, "user_version", 99).unwrap();
            conn.execute("UPDATE cubby_meta SET schema_digest = schema_digest + 1", []).unwrap();
        }
        _ => std::fs::remove_file(path).unwrap(),
    }
}

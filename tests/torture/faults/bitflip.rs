//! Power cuts under load, and then a flipped bit in the log, in every kind of place in turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use cubby::log::What;

use super::{Report, Setup, lacks};
use crate::{
    check,
    load::{self, Plan, Worker},
    logfile::{self, Place, Region},
    mount::Mounted,
    rng::Rng,
    server::{self, Launch, Node},
    step::ADMIN_KEY,
};

/// What came of a flipped bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Harmless,
    /// One user was named, and put out of service.
    Quarantined,
    /// The server did not start.
    Refused,
}

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    if let Some(why) = lacks(&["mkfs.ext4", "losetup"], true) {
        return Report::skipped(why);
    }
    let mut rng = Rng::new(setup.seed, 0);
    let mut tally: BTreeMap<Place, BTreeMap<Outcome, u32>> = BTreeMap::new();
    for round in 0..setup.count.unwrap_or(14) {
        let disk = match Mounted::ext4(128, "errors=remount-ro") {
            Ok(disk) => disk,
            Err(why) => return Report::skipped(why),
        };
        let data = disk.path().join("data");
        // In the control the bit is not to be noticed: the record's checksum fits it.
        let wanted = if setup.control { Place::Payload } else { Place::ALL[round as usize % Place::ALL.len()] };
        let mut trial = Trial {
            setup,
            launch: Launch::real(&setup.program, &data, &["--admin-api-key", ADMIN_KEY]),
            data: &data,
            workers: load::workers(&Plan::new(setup.seed + u64::from(round), 20)),
            wrong: Vec::new(),
        };
        // Users of before, whose files are on the disk; or new ones, whom the log alone has.
        if round % 2 == 0 {
            trial.live(Duration::from_millis(200));
        }
        trial.cut(&disk, Duration::from_millis(rng.range(200, 500)));
        let mut regions = logfile::regions(&data.join("log"));
        regions.retain(|region| region.place == wanted);
        // The catalog has few records among so many: each second time round it is its turn.
        let of_catalog = |region: &Region| region.name.as_deref() == Some("");
        if round as usize / Place::ALL.len() % 2 == 1 && regions.iter().any(of_catalog) {
            regions.retain(of_catalog);
        }
        if regions.is_empty() {
            continue;
        }
        let region = regions.swap_remove(rng.index(regions.len()));
        let entries = cubby::log::read(&data.join("log")).unwrap();
        let created = entries.into_iter().filter(|entry| matches!(entry.what, What::Create { .. }));
        let fresh = created.map(|entry| entry.name).collect();
        region.flip(&mut rng, setup.control);
        report.faults += 1;
        if let Some(outcome) = trial.start(&region, &fresh) {
            *tally.entry(wanted).or_default().entry(outcome).or_default() += 1;
        }
        report.saw(load::take_seen(&mut trial.workers));
        let at = |wrong: String| format!("{wanted:?} of {:?}, round {round}: {wrong}", region.name);
        report.violations.extend(trial.wrong.into_iter().map(at));
        if setup.control && !report.violations.is_empty() {
            break;
        }
    }
    for (place, outcomes) in tally {
        report.note(format!("{place:?}: {outcomes:?}"));
    }
    report
}

struct Trial<'a> {
    setup: &'a Setup,
    launch: Launch,
    data: &'a Path,
    workers: Vec<Worker>,
    wrong: Vec<String>,
}

impl Trial<'_> {
    /// A life that ends well.
    fn live(&mut self, life: Duration) {
        let node = self.launch.start();
        load::run_for(node.address, &mut self.workers, life);
        self.wrong.extend(node.stop().err());
    }

    fn cut(&mut self, disk: &Mounted, life: Duration) {
        let mut node = self.launch.start();
        load::run(node.address, &mut self.workers, || {
            std::thread::sleep(life);
            disk.cut_power();
            node.kill();
        });
        drop(node);
        disk.unmount().unwrap();
        disk.mount().unwrap();
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    /// Starts on the damaged log: whose record it is is named, and nobody else. Of those who are `fresh` the log has
    /// all.
    fn start(&mut self, region: &Region, fresh: &BTreeSet<String>) -> Option<Outcome> {
        match self.launch.try_start() {
            Err((_, said)) if said.contains("the log is damaged") => {
                // Only for the catalog, of which everybody's state depends.
                let catalogs = region.name.as_deref() == Some("");
                self.expect(catalogs, || format!("REFUSED: {said}"));
                if catalogs {
                    self.rebuild();
                }
                Some(Outcome::Refused)
            }
            Err((status, said)) => {
                self.wrong.push(format!("START: {status}: {said}"));
                None
            }
            Ok(node) => {
                node.ready();
                let quarantined = quarantined(&node);
                let whose: Vec<String> = region.name.clone().into_iter().collect();
                self.expect(quarantined.is_empty() || quarantined == whose, || format!("NAMED: {quarantined:?}"));
                let leave = |tenant: &str| quarantined.iter().any(|id| id == tenant);
                let verdict = load::compare(node.address, &mut self.workers, leave);
                self.wrong.extend(verdict.violations);
                // A forged record may have another length than before: that is noticed, and not what is looked for.
                for id in quarantined.iter().filter(|_| !self.setup.control) {
                    self.named(&node, id, fresh.contains(id));
                }
                self.wrong.extend(node.panics());
                self.wrong.extend(node.stop().err());
                self.wrong.extend(check::files(self.data, leave));
                Some(if quarantined.is_empty() { Outcome::Harmless } else { Outcome::Quarantined })
            }
        }
    }

    /// The one who was named is told so, the log is kept, and an operator can go on with what is there, which may be
    /// nothing for who is `fresh`.
    fn named(&mut self, node: &Node, id: &str, fresh: bool) {
        let mut http = node.http();
        let reply = http.get(&format!("/{id}"));
        let told = reply.clone().answer().is_some_and(|answer| answer.text().contains("quarantined"));
        self.expect(reply.status() == 503 && told, || format!("SERVED: {id}: {reply}"));
        let kept = self.data.join("log.damaged-1");
        let mut show = server::clean(&self.setup.program);
        let shown = show.args(["log", "show", "--user", id, "--json", "--folder"]).arg(&kept).output().unwrap();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        self.expect(shown.status.code() == Some(1) && text.contains("\"damaged\""), || {
            format!("NOT SHOWN: {}: {text}{}", shown.status, String::from_utf8_lossy(&shown.stderr))
        });
        let key = format!("Bearer {ADMIN_KEY}");
        let resume = format!("/api/admin/tenants/{id}/resume");
        let reply = http.send("POST", &resume, &[("authorization", &key)], None);
        self.expect(reply.status() == 200, || format!("RESUME: {id}: {reply}"));
        let reply = http.get(&format!("/{id}"));
        self.expect(fresh || reply.status() == 200, || format!("RESUMED: {id}: {reply}"));
    }

    /// A damaged catalog can be made anew from the users' files.
    fn rebuild(&mut self) {
        let mut doctor = server::clean(&self.setup.program);
        let done = doctor.args(["doctor", "--rebuild-catalog", "--data"]).arg(self.data).output().unwrap();
        // 1 says that something wants a hand.
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        self.expect(matches!(done.status.code(), Some(0 | 1)), || format!("REBUILD: {}: {said}", done.status));
        match self.launch.try_start() {
            Err((status, said)) => self.wrong.push(format!("START after the rebuild: {status}: {said}")),
            Ok(node) => {
                node.ready();
                let verdict = load::compare(node.address, &mut self.workers, |_| false);
                self.wrong.extend(verdict.violations);
                self.wrong.extend(node.stop().err());
            }
        }
    }
}

/// Who is out of service.
fn quarantined(node: &Node) -> Vec<String> {
    let key = format!("Bearer {ADMIN_KEY}");
    let path = "/api/admin/tenants?state=quarantined&limit=500";
    let listed = node.http().send("GET", path, &[("authorization", &key)], None).answer().unwrap().json();
    let rows = listed["tenants"].as_array().unwrap_or_else(|| panic!("no list: {listed}"));
    rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

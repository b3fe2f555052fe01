//! Every operation on a user killed right before each of its system calls that change something, and
//! followed by each other operation: nothing acknowledged is lost, nothing erased is left, and the
//! doctor tells the truth.
//!
//! The folder is in memory. What a cut leaves is recorded once and laid out anew for each follower; the
//! followers are called through the library, so that a case costs no process of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{ChildStderr, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use cubby::{Store, StoreOptions, reconcile::doctor, tenants::disk::path::Layout};
use serde_json::json;

use super::{Report, Setup, file_of};
use crate::{
    check, clerk,
    http::Http,
    people::{Look, NOBODYS, World, Wrong, digest, tenant},
    rng::Rng,
    server::{self, Launch},
    snapshot::{self, Snapshot},
    step::{ADMIN_KEY, Act, Step, lose_catalog},
    trace,
};

/// Whom the operation is about.
const ADA: &str = "user_ada";
/// Lives, with notes of his own.
const BOB: &str = "user_bob";
/// Lives, and has nothing yet.
const CYD: &str = "user_cyd";
/// Deleted, with notes.
const DAN: &str = "user_dan";
const LIVING: [&str; 3] = [ADA, BOB, CYD];

/// How Ada is before the operation. Whoever has notes has some in the file and some in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Before {
    Unknown,
    Live,
    /// With the first of the schemas.
    Older,
    Suspended,
    Deleted,
    /// Deleted, and her retention is over.
    Due,
    Purged,
    /// The catalog has no row of hers.
    Orphan,
    /// Her row says deleted, her file is in its place.
    HalfDeleted,
    /// Nobody's row is there.
    NoCatalog,
}

/// An operation that is cut.
struct Operation {
    before: Before,
    step: Step,
    /// By a running server, in which these users' databases are open already.
    served: Option<Vec<&'static str>>,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}{}", self.before, self.step, if self.served.is_some() { " served" } else { "" })
    }
}

fn operations() -> Vec<Operation> {
    let command = |before, step| Operation { before, step, served: None };
    let served = |before, step, open: &[&'static str]| Operation { before, step, served: Some(open.to_vec()) };
    let ada = |act| Step::new(act, ADA).among(&LIVING);
    vec![
        command(Before::Unknown, ada(Act::Create)),
        command(Before::Unknown, ada(Act::Listed)),
        served(Before::Unknown, ada(Act::Write), &[]),
        served(Before::Unknown, ada(Act::Created), &[]),
        served(Before::Live, ada(Act::Restart), &[]),
        served(Before::Live, ada(Act::Write), &[]),
        served(Before::Live, ada(Act::Write), &[ADA]),
        command(Before::Older, ada(Act::Migrate)),
        served(Before::Older, ada(Act::Write), &[]),
        command(Before::Live, ada(Act::Suspend)),
        served(Before::Live, ada(Act::Suspend), &[ADA]),
        command(Before::Suspended, ada(Act::Resume)),
        command(Before::Live, ada(Act::Delete)),
        served(Before::Live, ada(Act::Delete), &[ADA]),
        served(Before::Live, ada(Act::Deleted), &[]),
        served(Before::Live, ada(Act::Deleted), &[ADA]),
        command(Before::Live, ada(Act::Unlisted)),
        command(Before::HalfDeleted, ada(Act::Delete)),
        command(Before::Deleted, ada(Act::Restore)),
        command(Before::HalfDeleted, ada(Act::Restore)),
        served(Before::Deleted, ada(Act::Restore), &[BOB]),
        command(Before::Deleted, ada(Act::Listed)),
        command(Before::Live, ada(Act::Purge)),
        served(Before::Live, ada(Act::Purge), &[ADA]),
        command(Before::Deleted, ada(Act::Purge)),
        command(Before::HalfDeleted, ada(Act::Purge)),
        served(Before::Due, ada(Act::Restart), &[]),
        command(Before::Purged, ada(Act::Revive)),
        command(Before::Purged, ada(Act::Listed)),
        command(Before::Deleted, Step::new(Act::Adopt, CYD).from(ADA)),
        command(Before::Deleted, Step::new(Act::Replace, BOB).from(ADA)),
        command(Before::HalfDeleted, Step::new(Act::Replace, BOB).from(ADA)),
        served(Before::Deleted, Step::new(Act::Replace, BOB).from(ADA), &[BOB]),
        command(Before::Live, Step::new(Act::Replace, ADA).from(DAN)),
        command(Before::Live, ada(Act::Doctor)),
        command(Before::Deleted, ada(Act::Doctor)),
        command(Before::Orphan, ada(Act::Fix)),
        command(Before::HalfDeleted, ada(Act::Fix)),
        command(Before::NoCatalog, ada(Act::Rebuild)),
    ]
}

/// What comes after an operation that was cut, for each of the users it is about.
fn followers(operation: &Operation) -> Vec<Step> {
    let mut steps: Vec<Step> =
        [Act::Restart, Act::Doctor, Act::Fix, Act::Rebuild].map(|act| Step::new(act, ADA)).to_vec();
    let mut about = vec![ADA];
    if matches!(operation.step.act, Act::Adopt | Act::Replace) {
        about = vec![operation.step.on.as_str(), operation.step.from.as_str()]
            .into_iter()
            .filter_map(|id| [ADA, BOB, CYD, DAN].into_iter().find(|known| *known == id))
            .collect();
    }
    for id in about {
        let of = |act| Step::new(act, id).among(&LIVING);
        steps.extend(
            [
                Act::Write,
                Act::Migrate,
                Act::Suspend,
                Act::Resume,
                Act::Delete,
                Act::Restore,
                Act::Purge,
                Act::Revive,
                Act::Listed,
                Act::Unlisted,
                Act::Created,
                Act::Deleted,
            ]
            .map(of),
        );
        steps.extend((id != CYD).then(|| Step::new(Act::Adopt, CYD).from(id)));
        steps.extend((id != BOB).then(|| Step::new(Act::Replace, BOB).from(id)));
        steps.extend((id != DAN).then(|| Step::new(Act::Replace, id).from(DAN)));
    }
    steps
}

/// A folder, and what must hold of it.
#[derive(Clone)]
struct Start {
    folder: Snapshot,
    world: World,
}

/// What a cut left.
struct Cut {
    operation: usize,
    nth: usize,
    call: String,
    left: Start,
}

struct Bench<'a> {
    setup: &'a Setup,
    place: &'a Path,
    provider: std::net::SocketAddr,
    starts: BTreeMap<Before, Start>,
    operations: Vec<Operation>,
    next: AtomicUsize,
}

pub fn run(setup: &Setup) -> Report {
    let Some(place) = snapshot::in_memory() else {
        return Report::skipped("needs a folder in memory: /dev/shm");
    };
    let mut report = Report::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut bench = Bench {
        setup,
        place: place.path(),
        provider: clerk::start(&runtime, clerk::Listed::default()),
        starts: BTreeMap::new(),
        operations: operations(),
        next: AtomicUsize::new(0),
    };
    for before in bench.operations.iter().map(|operation| operation.before).collect::<BTreeSet<_>>() {
        let start = bench.prepare(before);
        bench.starts.insert(before, start);
    }
    let began = Instant::now();
    let cuts = match bench.cuts(&mut report) {
        Ok(cuts) => cuts,
        Err(why) => return Report::skipped(why),
    };
    report.note(format!("{} cuts recorded in {:.1} s", cuts.len(), began.elapsed().as_secs_f64()));
    bench.follow(&cuts, &mut report);
    report
}

impl Bench<'_> {
    /// A new folder's path.
    fn folder(&self) -> PathBuf {
        self.place.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn cubby(&self, data: &Path, arguments: &[&str]) {
        let output = server::clean(&self.setup.program).args(arguments).arg("--data").arg(data).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Notes that a server acknowledged before it was killed: some it had in the files, the last are in the logs.
    fn wrote(&self, data: &Path, flags: &[&str], ids: &[&str], world: &mut World) {
        for round in 0..2 {
            let mut node = Launch::real(&self.setup.program, data, flags).start();
            let mut http = node.http();
            for id in ids.iter().flat_map(|id| [id, id]) {
                // In the log then are other pages than in the file: neither is whole without the other.
                let (note, text) = if round == 0 { world.long_draft(id) } else { world.draft(id) };
                assert_eq!(http.post(&format!("/{id}"), &json!({"text": text})).status(), 201);
                world.wrote(id, note);
            }
            if round == 0 {
                node.stop().unwrap();
            } else {
                node.kill();
            }
        }
    }

    /// A folder with the first of the shipped migrations alone: what an older version had.
    fn first_migration(&self) -> PathBuf {
        let old = self.place.join("V1");
        std::fs::create_dir_all(&old).unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/tenant");
        let mut files = std::fs::read_dir(shipped).unwrap().map(|entry| entry.unwrap());
        let first = files.find(|file| file.file_name().to_string_lossy().starts_with("V1__")).unwrap();
        std::fs::copy(first.path(), old.join(first.file_name())).unwrap();
        old
    }

    /// Deletes a user whose file keeps its log, as when the log could not be merged into it: a deletion
    /// otherwise leaves none.
    fn delete_with_log(&self, data: &Path, id: &str, flags: &[&str]) {
        let layout = Layout::at(data.canonicalize().unwrap());
        let places = layout.paths(&tenant(id));
        let log = |path: &Path| cubby::tenants::disk::path::wal_of(path);
        let found = [std::fs::read(&places.live).unwrap(), std::fs::read(log(&places.live)).unwrap()];
        self.cubby(data, &[&["tenants", "delete", id], flags].concat());
        for (path, bytes) in [places.trashed.clone(), log(&places.trashed)].iter().zip(found) {
            std::fs::write(path, bytes).unwrap();
        }
    }

    fn prepare(&self, before: Before) -> Start {
        let data = self.folder();
        let mut world = World::with(&[ADA, BOB, CYD, DAN]);
        let mut ids = vec![BOB, DAN];
        if !matches!(before, Before::Unknown | Before::Older) {
            ids.push(ADA);
        }
        // A folder is never gone back with: its first migrations come before the newest.
        let old = self.first_migration();
        let flags: &[&str] = match before {
            Before::Older => {
                ids.push(ADA);
                &["--migrations", old.to_str().unwrap()]
            }
            _ => &[],
        };
        self.cubby(&data, &[&["tenants", "create", CYD], flags].concat());
        self.wrote(&data, flags, &ids, &mut world);
        self.delete_with_log(&data, DAN, flags);
        world.told(DAN, Some("deleted"));
        let change = |sql: &str| {
            let conn = check::connect(&data.join("catalog.db")).unwrap();
            conn.execute_batch(sql).unwrap();
            conn.close().unwrap();
        };
        let hers = format!("WHERE id = '{ADA}'");
        match before {
            Before::Unknown | Before::Live | Before::Older => {}
            Before::Suspended => self.cubby(&data, &["tenants", "suspend", ADA, "--reason", "for a moment"]),
            Before::Deleted => self.delete_with_log(&data, ADA, &[]),
            Before::Due => {
                self.delete_with_log(&data, ADA, &["--retention", "1ms"]);
                world.purge_begins(ADA);
            }
            Before::Purged => {
                self.cubby(&data, &["tenants", "purge", ADA, "--yes"]);
                world.purged(ADA);
            }
            Before::Orphan => change(&format!("DELETE FROM tenants {hers}")),
            Before::HalfDeleted => change(&format!(
                "UPDATE tenants SET state = 'deleted', deleted = created + 1, purge_after = 9999999999999 {hers}"
            )),
            Before::NoCatalog => {
                lose_catalog(&data);
                world.told(DAN, None);
            }
        }
        let told = match before {
            Before::Live | Before::Older => Some("active"),
            Before::Suspended => Some("suspended"),
            Before::Deleted | Before::Due | Before::HalfDeleted | Before::Purged => Some("deleted"),
            Before::Unknown | Before::Orphan | Before::NoCatalog => None,
        };
        world.told(ADA, told);
        let folder = Snapshot::take(&data, &Snapshot::default());
        let layout = Layout::at(PathBuf::new());
        let logged =
            |path: PathBuf| folder.file(&cubby::tenants::disk::path::wal_of(&path)).is_some_and(|log| !log.is_empty());
        for id in ids {
            let (live, trashed) = (layout.tenant(&tenant(id)), layout.trashed(&tenant(id)));
            let purged = id == ADA && before == Before::Purged;
            assert!(logged(live) || logged(trashed) || purged, "the log of {id} is empty: {before:?}");
        }
        std::fs::remove_dir_all(&data).unwrap();
        Start { folder, world }
    }

    /// Runs an operation until its call number `nth`, or to its end. The list of its calls, whether it
    /// was killed, and what is left.
    fn cut(&self, operation: &Operation, nth: Option<usize>) -> Result<(Vec<String>, bool, Start), String> {
        let start = &self.starts[&operation.before];
        let data = self.folder();
        start.folder.lay(&data);
        // All folders are there already: making them is no part of the operation.
        Layout::prepare(&data).map_err(|error| error.to_string())?;
        let mut world = start.world.clone();
        let step = &operation.step;
        step.begins(&mut world);
        let traced = match &operation.served {
            None => {
                let mut command = server::clean(&self.setup.program);
                command.args(step.command(self.provider)).args(["--log", "error", "--data"]).arg(&data);
                command.stdout(Stdio::null()).stderr(Stdio::piped());
                let said = Arc::new(Mutex::new(None));
                let listener = said.clone();
                let traced = trace::run(&mut command, &data, &AtomicBool::new(true), nth, move |_, stderr| {
                    *listener.lock().unwrap() = stderr;
                })?;
                let mut text = String::new();
                if let Some(mut stderr) = said.lock().unwrap().take() {
                    let _ = stderr.read_to_string(&mut text);
                }
                // The doctor's code says whether something wants a hand.
                let good = traced.code == Some(0) || (step.act == Act::Doctor && traced.code == Some(1));
                if !traced.killed && !good {
                    return Err(format!("{operation} ended with {:?}: {text}", traced.code));
                }
                if !traced.killed {
                    step.ended(&mut world);
                }
                traced
            }
            Some(open) => self.cut_served(operation, open, &data, nth, &mut world)?,
        };
        let folder = Snapshot::take(&data, &start.folder);
        let _ = std::fs::remove_dir_all(&data);
        Ok((traced.calls, traced.killed, Start { folder, world }))
    }

    fn cut_served(
        &self,
        operation: &Operation,
        open: &[&str],
        data: &Path,
        nth: Option<usize>,
        world: &mut World,
    ) -> Result<trace::Traced, String> {
        // A server that keeps nothing for long need not watch its clock for long before it purges.
        let flags: &[&str] = if operation.before == Before::Due { &["--retention", "1us"] } else { &[] };
        let launch = Launch::real(&self.setup.program, data, flags)
            .with("ADMIN_API_KEY", ADMIN_KEY)
            .with("CLERK_WEBHOOK_SECRET", clerk::SECRET);
        // A start is cut from its first call on, another operation from when it is asked for.
        let starts = operation.step.act == Act::Restart;
        let armed = AtomicBool::new(starts);
        let (tell, told) = mpsc::channel::<(i32, Option<ChildStderr>)>();
        std::thread::scope(|scope| {
            let armed = &armed;
            let client = scope.spawn(move || {
                let (process, stderr) = told.recv().ok()?;
                let mut lines = BufReader::new(stderr?).lines().map_while(Result::ok);
                let address = lines.find_map(|line| server::address_in(&line));
                let acknowledged = address.and_then(|address| {
                    let mut http = Http::new(address);
                    for id in open {
                        let (note, text) = world.draft(id);
                        if http.post(&format!("/{id}"), &json!({"text": text})).status() == 201 {
                            world.wrote(id, note);
                            // Also these are in doubt from now on, if the others are.
                            operation.step.begins(world);
                        }
                    }
                    armed.store(true, Ordering::SeqCst);
                    ask(operation, &mut http, world)
                });
                if acknowledged == Some(true) {
                    operation.step.ended(world);
                }
                trace::kill(process);
                lines.for_each(drop);
                acknowledged
            });
            let traced = trace::run(&mut launch.command(), data, armed, nth, |process, stderr| {
                let _ = tell.send((process, stderr));
            });
            drop(tell);
            let acknowledged = client.join().unwrap();
            let traced = traced?;
            match acknowledged {
                Some(true) => Ok(traced),
                _ if traced.killed => Ok(traced),
                answered => Err(format!("{operation} was refused, or not answered: {answered:?}")),
            }
        })
    }

    /// Every cut, or those that a sample needs.
    fn cuts(&self, report: &mut Report) -> Result<Vec<Cut>, String> {
        let failed: Mutex<Vec<String>> = Mutex::default();
        let found = Mutex::new(Vec::new());
        let calls = Mutex::new(0);
        let done = AtomicUsize::new(0);
        let share = self.count().map(|count| (count as usize).div_ceil(self.operations.len()).max(2));
        let work = || {
            while let Some(operation) = self.operations.get(done.fetch_add(1, Ordering::Relaxed)) {
                let number = self.operations.iter().position(|other| std::ptr::eq(other, operation)).unwrap();
                let named = operation.to_string();
                let asked = |only: &String| only.starts_with(&named) || named.starts_with(only.as_str());
                if !self.setup.only.as_ref().is_none_or(asked) {
                    continue;
                }
                let whole = match self.cut(operation, None) {
                    Ok(whole) => whole,
                    Err(why) => {
                        failed.lock().unwrap().push(why);
                        continue;
                    }
                };
                let last = whole.0.len();
                *calls.lock().unwrap() += last;
                let mut wanted: Vec<usize> = (1..=last).collect();
                if let Some(share) = share {
                    let mut rng = Rng::new(self.setup.seed, number as u64);
                    while wanted.len() > share {
                        wanted.remove(rng.index(wanted.len()));
                    }
                }
                let mut left = vec![Cut { operation: number, nth: 0, call: "the end".into(), left: whole.2 }];
                for nth in wanted {
                    match self.cut(operation, Some(nth)) {
                        Ok((mut calls, true, state)) => {
                            // What was changed outside, or to the same, leaves nothing new.
                            if left.len() < 2 || left.last().unwrap().left.folder != state.folder {
                                let call = calls.pop().unwrap_or_default();
                                left.push(Cut { operation: number, nth, call, left: state });
                            }
                        }
                        // Threads take turns: now and then a run has a call fewer.
                        Ok((_, false, _)) => {}
                        Err(why) => failed.lock().unwrap().push(why),
                    }
                }
                found.lock().unwrap().extend(left);
            }
        };
        std::thread::scope(|scope| (0..threads()).for_each(|_| drop(scope.spawn(work))));
        for why in failed.into_inner().unwrap() {
            if why.starts_with(trace::REFUSED) {
                return Err(why);
            }
            report.wrong(format!("OPERATION: {why}"));
        }
        let mut cuts = found.into_inner().unwrap();
        cuts.sort_by_key(|cut| (cut.operation, cut.nth));
        report.note(format!("{} operations with {} calls", self.operations.len(), calls.into_inner().unwrap()));
        Ok(cuts)
    }

    /// How many cases; none for all.
    fn count(&self) -> Option<u32> {
        self.setup.count.or(self.setup.control.then_some(150))
    }

    fn follow(&self, cuts: &[Cut], report: &mut Report) {
        let mut cases: Vec<(&Cut, Step)> = Vec::new();
        for cut in cuts {
            cases.extend(followers(&self.operations[cut.operation]).into_iter().map(|step| (cut, step)));
        }
        let name = |cut: &Cut, step: &Step| {
            let operation = &self.operations[cut.operation];
            let mut text = format!("{operation}, cut {} before {}, then {step}", cut.nth, cut.call);
            for id in [ADA, BOB, CYD, DAN] {
                text = text.replace(&digest(id), &format!("<{id}>"));
            }
            text
        };
        if let Some(only) = &self.setup.only {
            cases.retain(|(cut, step)| name(cut, step).starts_with(only.as_str()));
        }
        if let Some(count) = self.count() {
            let mut rng = Rng::new(self.setup.seed, u64::MAX);
            while cases.len() > count as usize {
                cases.swap_remove(rng.index(cases.len()));
            }
        }
        let next = AtomicUsize::new(0);
        let seen: Mutex<Vec<(usize, &'static str, String)>> = Mutex::default();
        let sabotaged: Mutex<BTreeMap<Sabotage, (u32, u32)>> = Mutex::default();
        let work = || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((cut, step)) = cases.get(at) else { return };
                let kind = self.setup.control.then(|| Sabotage::ALL[at % Sabotage::ALL.len()]);
                let (wrong, applied) = self.case(&runtime, cut, step, kind);
                if let Some(kind) = kind.filter(|_| applied) {
                    let mut sabotaged = sabotaged.lock().unwrap();
                    let (done, caught) = sabotaged.entry(kind).or_default();
                    *done += 1;
                    *caught += u32::from(!wrong.is_empty());
                }
                let mut seen = seen.lock().unwrap();
                for (kind, what) in wrong {
                    seen.push((at, kind, format!("{kind}: {}: {what}", name(cut, step))));
                }
            }
        };
        std::thread::scope(|scope| (0..threads()).for_each(|_| drop(scope.spawn(work))));
        report.faults += cases.len() as u64;
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        let mut kinds: BTreeMap<&str, (u32, BTreeSet<usize>)> = BTreeMap::new();
        for (at, kind, _) in &seen {
            let (n, cases) = kinds.entry(kind).or_default();
            *n += 1;
            cases.insert(*at);
        }
        for (kind, (n, cases)) in &kinds {
            report.note(format!("{kind}: {n} in {} cases", cases.len()));
        }
        // Some of each kind first: not all are printed.
        let mut rank: BTreeMap<&str, u32> = BTreeMap::new();
        let mut ranked: Vec<(u32, String)> = Vec::new();
        for (_, kind, what) in seen {
            let rank = rank.entry(kind).or_default();
            *rank += 1;
            ranked.push((*rank, what));
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        report.violations.extend(ranked.into_iter().map(|(_, what)| what));
        if self.setup.control {
            let sabotaged = sabotaged.into_inner().unwrap();
            report.note(format!("sabotaged and caught: {sabotaged:?}"));
            // Each of them must be caught, and not just one.
            if Sabotage::ALL.iter().any(|kind| sabotaged.get(kind).is_none_or(|(_, caught)| *caught == 0)) {
                report.violations.clear();
            }
        }
    }

    fn rebuild(&self, data: &Path, wrong: &mut Wrong) {
        let mut command = server::clean(&self.setup.program);
        let output = command.args(["doctor", "--rebuild-catalog", "--data"]).arg(data).output().unwrap();
        // 1 says that something wants a hand.
        if !matches!(output.status.code(), Some(0 | 1)) || !data.join("catalog.db").exists() {
            wrong.push(("ERROR", format!("doctor --rebuild-catalog: {}", String::from_utf8_lossy(&output.stderr))));
        }
    }

    /// One cut, one follower, and all that must hold then. Whether what was to be sabotaged could be.
    fn case(
        &self,
        runtime: &tokio::runtime::Runtime,
        cut: &Cut,
        step: &Step,
        sabotage: Option<Sabotage>,
    ) -> (Wrong, bool) {
        let data = self.folder();
        cut.left.folder.lay(&data);
        let mut world = cut.left.world.clone();
        let mut wrong = Wrong::new();
        let mut applied = sabotage.is_some_and(|kind| kind.early(&data));
        if step.act == Act::Rebuild {
            lose_catalog(&data);
            step.begins(&mut world);
            self.rebuild(&data, &mut wrong);
        } else {
            runtime.block_on(async {
                // Without a catalog a folder may be refused until one is made.
                if !data.join("catalog.db").exists() && Store::open(StoreOptions::new(&data)).is_err() {
                    self.rebuild(&data, &mut wrong);
                }
                let Some(store) = open(&data, &mut wrong) else { return };
                step.perform(&store, &mut world, &mut wrong).await;
                close(store).await;
            });
        }
        applied |= sabotage.is_some_and(|kind| kind.late(&data, &self.starts[&Before::Live].folder));

        let look = match Look::at(&data) {
            Ok(look) => look,
            Err(why) => return (vec![("CATALOG", why)], applied),
        };
        world.compare_rows(&look, &mut wrong);
        world.compare_bytes(&data, &mut wrong);
        let found = runtime.block_on(async {
            let store = open(&data, &mut wrong)?;
            let examined = store.clone();
            let problems =
                match tokio::task::spawn_blocking(move || doctor::examine(&examined, None, || {})).await.unwrap() {
                    Ok(found) => found,
                    Err(error) => {
                        wrong.push(("ERROR", format!("doctor: {error}")));
                        doctor::Findings::default()
                    }
                };
            if problems.problems() == 0 && !look.complaints.is_empty() {
                wrong.push(("DOCTOR", format!("catalog and files agree, it says; but {:?}", look.complaints)));
            }
            if problems.problems() > 0 && look.complaints.is_empty() {
                wrong.push(("DOCTOR", format!("nothing is wrong, and it says {}", json!(problems))));
            }
            if problems.problems() > 0 && matches!(step.act, Act::Fix | Act::Rebuild) {
                wrong.push(("NOT FIXED", format!("{} after doctor --fix", json!(problems))));
            }
            let found = world.recover(&store, &world.ids(), &mut wrong).await;
            close(store).await;
            Some(found)
        });
        if let Some(found) = found {
            world.compare_notes(&world.ids(), &found, &mut wrong);
            // What is half done still is for the doctor to mend. A creation that was cut before its row may leave a file,
            // which the next one takes; whose notes are in it is looked at above.
            let left = || match Look::at(&data) {
                Ok(look) => look.complaints.into_iter().filter(|text| !text.ends_with(NOBODYS)).collect(),
                Err(why) => vec![why],
            };
            if !left().is_empty() {
                runtime.block_on(async {
                    let Some(store) = open(&data, &mut wrong) else { return };
                    Step::new(Act::Fix, ADA).perform(&store, &mut world, &mut wrong).await;
                    close(store).await;
                });
                let left: Vec<String> = left();
                if !left.is_empty() {
                    wrong.push(("LEFT", format!("{left:?}")));
                }
            }
            wrong.extend(check::files(&data, |_| false).into_iter().map(|what| ("FILES", what)));
            world.compare_bytes(&data, &mut wrong);
        }
        let _ = std::fs::remove_dir_all(&data);
        wrong.sort();
        wrong.dedup();
        (wrong, applied)
    }
}

/// What earlier code did to a folder, done by hand: the checks must see each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sabotage {
    /// An empty log in the place of the one that was cut off from its database.
    EmptyLog,
    /// The file of a user who was purged, left in the trash.
    Unerased,
    /// Two users' files exchanged.
    Exchanged,
}

impl Sabotage {
    const ALL: [Self; 3] = [Self::EmptyLog, Self::Unerased, Self::Exchanged];

    /// Between the cut and what follows.
    fn early(self, data: &Path) -> bool {
        if self != Self::EmptyLog {
            return false;
        }
        let layout = Layout::at(data.to_owned());
        let ada = tenant(ADA);
        let mut emptied = false;
        for file in [layout.tenant(&ada), layout.trashed(&ada)] {
            let log = cubby::tenants::disk::path::wal_of(&file);
            if log.metadata().is_ok_and(|found| found.len() > 0) {
                std::fs::write(&log, b"").unwrap();
                emptied = true;
            }
        }
        emptied
    }

    /// After it.
    fn late(self, data: &Path, earlier: &Snapshot) -> bool {
        let layout = Layout::at(data.to_owned());
        match self {
            Self::EmptyLog => false,
            Self::Unerased => {
                let Ok(look) = Look::at(data) else { return false };
                let purged = look.rows.iter().any(|row| row.id == ADA && row.purged);
                let name = Layout::at(PathBuf::new()).tenant(&tenant(ADA));
                match earlier.file(&name) {
                    Some(bytes) if purged => std::fs::write(layout.trashed(&tenant(ADA)), bytes).is_ok(),
                    _ => false,
                }
            }
            Self::Exchanged => {
                let (one, two) = (file_of(data, BOB), file_of(data, CYD));
                let aside = data.join("aside");
                one.exists()
                    && two.exists()
                    && std::fs::rename(&one, &aside).is_ok()
                    && std::fs::rename(&two, &one).is_ok()
                    && std::fs::rename(&aside, &two).is_ok()
            }
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, Into::into)
}

/// Asks the server for the operation. Whether it said that it is done; none if it did not answer.
fn ask(operation: &Operation, http: &mut Http, world: &mut World) -> Option<bool> {
    let step = &operation.step;
    if step.act == Act::Restart {
        let path = format!("/api/admin/tenants/{ADA}");
        let headers = [("authorization", &*format!("Bearer {ADMIN_KEY}"))];
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = http.send("GET", &path, &headers, None).answer()?;
            if operation.before != Before::Due || !answer.json()["purged"].is_null() {
                return Some(true);
            }
            if Instant::now() > until {
                return Some(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let (note, text) = world.draft(&step.on);
    let request = step.request(Some(&text))?;
    let headers: Vec<(&str, &str)> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let status = http.send(request.method, &request.path, &headers, request.body.as_ref()).answer()?.status;
    let done = (200..300).contains(&status);
    if done && step.act == Act::Write {
        world.wrote(&step.on, note);
    }
    Some(done)
}

fn open(data: &Path, wrong: &mut Wrong) -> Option<Store> {
    Store::open(StoreOptions::new(data))
        .inspect_err(|error| wrong.push(("ERROR", format!("the folder cannot be opened: {error}"))))
        .ok()
}

async fn close(store: Store) {
    store.close(tokio::time::Instant::now() + Duration::from_secs(10)).await;
}

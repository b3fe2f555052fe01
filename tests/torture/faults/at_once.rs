//! Every two operations on a user started together, through a server's routes and through the library it
//! runs on; and each operation on many users at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::Barrier,
    time::Duration,
};

use clap::Parser;
use cubby::{
    ErrorKind, Store,
    app::App,
    config::{DataConfig, LogConfig, ServeConfig},
};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

use super::{Report, Setup};
use crate::{
    check, clerk,
    http::Http,
    people::{Look, NOBODYS, RowSeen, World, Wrong, notes_of, tenant},
    rng::Rng,
    server, snapshot,
    step::{ADMIN_KEY, Act, Step, is_refusal},
};

#[derive(Debug, Parser)]
struct Settings {
    #[command(flatten)]
    data: DataConfig,
    #[command(flatten)]
    log: LogConfig,
    #[command(flatten)]
    serve: ServeConfig,
}

/// A server in this process, so that the library works on the very store that its routes use.
struct Served {
    app: App,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<cubby::Result<()>>,
}

impl Served {
    fn start(runtime: &Runtime, data: &Path, provider: SocketAddr, flags: &[&str]) -> Self {
        let (data, url) = (data.to_str().unwrap(), clerk::listing(provider, &["now"]));
        let words = ["cubby", "--data", data, "--admin-api-key", ADMIN_KEY, "--clerk-webhook-secret", clerk::SECRET];
        let provider = ["--clerk-secret-key", clerk::KEY, "--clerk-api-url", &url];
        let settings = Settings::try_parse_from(words.iter().chain(&provider).chain(flags)).unwrap();
        runtime.block_on(async {
            let app = App::start(&settings.data, settings.serve).unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = oneshot::channel();
            let task = tokio::spawn(cubby::server::serve(app.clone(), listener, None, async move {
                let _ = stopped.await;
            }));
            Self { app, address, stop, task }
        })
    }

    fn store(&self) -> &Store {
        self.app.store()
    }

    fn stop(self, runtime: &Runtime) {
        let _ = self.stop.send(());
        runtime.block_on(self.task).unwrap().unwrap();
    }
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Done,
    Refused,
    /// Too much at once; whether it was done is not known.
    Busy,
    Failed(String),
}

/// Where a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Route,
    Library,
}

fn take(runtime: &Runtime, store: &Store, http: &mut Http, step: &Step, way: Way, text: &str) -> Outcome {
    let request = (way == Way::Route).then(|| step.request(Some(text))).flatten();
    let Some(request) = request else {
        return match runtime.block_on(step.through(store, text)) {
            Ok(()) => Outcome::Done,
            Err(error) if is_refusal(&error) => Outcome::Refused,
            Err(error) if error.kind() == ErrorKind::Busy => Outcome::Busy,
            Err(error) => Outcome::Failed(format!("{step}: {error}: {}", error.detail())),
        };
    };
    let headers: Vec<(&str, &str)> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = http.send(request.method, &request.path, &headers, request.body.as_ref());
    match reply.answer() {
        None => Outcome::Failed(format!("{step}: no answer")),
        Some(answer) => match answer.status {
            200..300 => Outcome::Done,
            403 | 404 | 409 => Outcome::Refused,
            503 if !answer.text().contains("quarantined") => Outcome::Busy,
            status => Outcome::Failed(format!("{step}: {status} {}", answer.text())),
        },
    }
}

/// How Ada is before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Unknown,
    Live,
    Suspended,
    Deleted,
    Purged,
}

const BEFORE: [Before; 5] = [Before::Unknown, Before::Live, Before::Suspended, Before::Deleted, Before::Purged];

/// Four users of one trial.
struct Cast {
    ada: String,
    bob: String,
    cyd: String,
    dan: String,
}

impl Cast {
    fn number(number: u32) -> Self {
        let name = |name: &str| format!("user_{name}{number}");
        Self { ada: name("ada"), bob: name("bob"), cyd: name("cyd"), dan: name("dan") }
    }

    fn ids(&self) -> Vec<String> {
        [&self.ada, &self.bob, &self.cyd, &self.dan].map(Clone::clone).to_vec()
    }

    fn steps(&self) -> Vec<Step> {
        let living = [self.ada.as_str(), &self.bob, &self.cyd];
        let mut steps: Vec<Step> = [
            Act::Restart,
            Act::Create,
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
        .map(|act| Step::new(act, &self.ada).among(&living))
        .to_vec();
        steps.push(Step::new(Act::Adopt, &self.cyd).from(&self.ada));
        steps.push(Step::new(Act::Replace, &self.bob).from(&self.ada));
        steps.push(Step::new(Act::Replace, &self.ada).from(&self.dan));
        steps.extend([Act::Write, Act::Delete, Act::Purge].map(|act| Step::new(act, &self.bob).among(&living)));
        steps
    }
}

/// A step that may cost somebody their notes, whoever it is.
fn destroys(step: &Step, id: &str) -> bool {
    match step.act {
        Act::Purge => step.on == id,
        Act::Adopt => step.from == id,
        Act::Replace => step.from == id || step.on == id,
        _ => false,
    }
}

/// A step that is done goes into the world in this order: what was adopted can be purged after it, and what
/// was purged cannot be adopted.
fn rank(step: &Step) -> u32 {
    match step.act {
        Act::Adopt | Act::Replace => 0,
        Act::Purge => 1,
        _ => 2,
    }
}

struct Batch<'a> {
    setup: &'a Setup,
    runtime: &'a Runtime,
    listed: clerk::Listed,
    provider: SocketAddr,
    world: World,
    wrong: Vec<(&'static str, String)>,
    caught: BTreeMap<Sabotage, (u32, u32)>,
    faults: u64,
    acknowledged: u64,
    next: u32,
}

/// What is done by hand in the control: the checks must see each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sabotage {
    /// An acknowledged note is removed.
    Removed,
    /// A user is given a note of another's.
    Foreign,
    /// A file of a user who was purged is put into the trash.
    Unerased,
}

/// Trials on one folder. Its catalog must not grow so large that a reconcile takes longer than a trial.
const TRIALS: usize = 150;

/// Users of those operations that are done on many at once.
const MANY: u32 = 24;

/// Deleted users whose retention is over.
const DUE: u32 = 100;

pub fn run(setup: &Setup) -> Report {
    let Some(place) = snapshot::in_memory() else {
        return Report::skipped("needs a folder in memory: /dev/shm");
    };
    let mut report = Report::default();
    let runtime = Runtime::new().unwrap();
    let listed = clerk::Listed::default();
    let provider = clerk::start(&runtime, listed.clone());
    let mut batch = Batch {
        setup,
        runtime: &runtime,
        listed,
        provider,
        world: World::default(),
        wrong: Vec::new(),
        caught: BTreeMap::new(),
        faults: 0,
        acknowledged: 0,
        next: 0,
    };
    let steps = Cast::number(0).steps().len();
    let mut trials = Vec::new();
    let rounds = setup.count.unwrap_or(1);
    for _ in 0..rounds {
        for before in BEFORE {
            for one in 0..steps {
                trials.extend((one..steps).map(|two| (before, one, two)));
            }
        }
    }
    let mut rng = Rng::new(setup.seed, 0);
    for at in (1..trials.len()).rev() {
        trials.swap(at, rng.index(at + 1));
    }
    if setup.control {
        trials.truncate(TRIALS);
    }
    for (number, trials) in trials.chunks(TRIALS).enumerate() {
        batch.pairs(&place.path().join(format!("pairs{number}")), trials, &mut rng);
    }
    if !setup.control {
        for number in 0..rounds {
            batch.many(&place.path().join(format!("many{number}")));
            for way in [Way::Library, Way::Route] {
                batch.sweep(&place.path().join(format!("due{number}{way:?}")), way, &mut rng);
            }
        }
    }
    report.faults = batch.faults;
    report.acknowledged = batch.acknowledged;
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    for (kind, _) in &batch.wrong {
        *kinds.entry(kind).or_default() += 1;
    }
    for (kind, n) in kinds {
        report.note(format!("{kind}: {n}"));
    }
    report.violations = batch.wrong.iter().map(|(kind, what)| format!("{kind}: {what}")).collect();
    if setup.control {
        report.note(format!("sabotaged and caught: {:?}", batch.caught));
        let all = [Sabotage::Removed, Sabotage::Foreign, Sabotage::Unerased];
        if all.iter().any(|kind| batch.caught.get(kind).is_none_or(|(_, caught)| *caught == 0)) {
            report.violations.clear();
        }
    }
    drop(batch);
    runtime.shutdown_timeout(Duration::from_secs(5));
    report
}

impl Batch<'_> {
    fn note(&mut self, store: &Store, id: &str) {
        let (note, text) = self.world.draft(id);
        self.runtime.block_on(crate::step::write(store, &tenant(id), &text)).unwrap();
        self.world.wrote(id, note);
        self.acknowledged += 1;
    }

    fn set(&mut self, store: &Store, act: Act, id: &str) {
        let step = Step::new(act, id);
        step.begins(&mut self.world);
        self.runtime.block_on(step.through(store, "")).unwrap();
        step.ended(&mut self.world);
    }

    /// Users as they are before the two steps.
    fn prepare(&mut self, store: &Store, cast: &Cast, before: Before) {
        for id in [&cast.bob, &cast.dan] {
            self.note(store, id);
            self.note(store, id);
        }
        self.set(store, Act::Create, &cast.cyd);
        self.set(store, Act::Delete, &cast.dan);
        if before != Before::Unknown {
            self.note(store, &cast.ada);
            self.note(store, &cast.ada);
        }
        match before {
            Before::Unknown | Before::Live => {}
            Before::Suspended => self.set(store, Act::Suspend, &cast.ada),
            Before::Deleted => self.set(store, Act::Delete, &cast.ada),
            Before::Purged => self.set(store, Act::Purge, &cast.ada),
        }
        for id in cast.ids() {
            self.world.told(&id, None);
        }
    }

    fn pairs(&mut self, data: &Path, trials: &[(Before, usize, usize)], rng: &mut Rng) {
        self.world = World::with(&[]);
        // Less than there are users, so that files are closed and opened all the time.
        let served = Served::start(self.runtime, data, self.provider, &["--max-open", "16"]);
        let mut everybody: Vec<String> = Vec::new();
        let mut erased = None;
        for (before, one, two) in trials {
            self.next += 1;
            let cast = Cast::number(self.next);
            everybody.extend(cast.ids());
            let store = served.store().clone();
            self.prepare(&store, &cast, *before);
            let ways = [Way::Route, Way::Library, Way::Route, Way::Library];
            let ways = [ways[rng.index(4)], ways[rng.index(4)]];
            let steps = [cast.steps().swap_remove(*one), cast.steps().swap_remove(*two)];
            // Nobody else may be deleted by a list that is about these.
            let gone = steps.iter().find(|step| step.act == Act::Unlisted).map(|step| step.on.clone());
            *self.listed.lock() =
                everybody.iter().filter(|id| **id != cast.dan && Some(*id) != gone.as_ref()).cloned().collect();
            let name = format!("{before:?}: {} ({:?}) with {} ({:?})", steps[0], ways[0], steps[1], ways[1]);
            // With its log, where the last notes are.
            let file = super::file_of(data, &cast.bob);
            let log = std::fs::read(cubby::tenants::disk::path::wal_of(&file)).unwrap_or_default();
            let earlier = std::fs::read(&file).ok().map(|bytes| [bytes, log].concat());
            self.race(&served, &steps, ways, &name);
            let mut wrong = Wrong::new();
            let kind = self.setup.control.then(|| [Sabotage::Removed, Sabotage::Foreign][rng.index(2)]);
            let applied = kind.is_some_and(|kind| self.sabotage(&store, &cast, kind));
            self.check(&store, &cast.ids(), &mut wrong);
            if let Some(kind) = kind.filter(|_| applied) {
                let (done, caught) = self.caught.entry(kind).or_default();
                *done += 1;
                *caught += u32::from(!wrong.is_empty());
            }
            self.wrong.extend(wrong.into_iter().map(|(kind, what)| (kind, format!("{name}: {what}"))));
            if self.setup.control && erased.is_none() && self.world.was_purged(&cast.bob) {
                erased = earlier.map(|bytes| (cast.bob.clone(), bytes));
            }
        }
        self.end(served, data, erased);
    }

    /// Both steps at once, and what may be true after it.
    fn race(&mut self, served: &Served, steps: &[Step; 2], ways: [Way; 2], name: &str) {
        let barrier = Barrier::new(2);
        let drafts = [0, 1].map(|at| self.world.draft(&steps[at].on));
        let (runtime, store) = (self.runtime, served.store());
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let threads: Vec<_> = [0, 1]
                .map(|at| {
                    let (barrier, step, text) = (&barrier, &steps[at], drafts[at].1.as_str());
                    scope.spawn(move || {
                        let mut http = Http::new(served.address);
                        // Connected before, so that both are on their way at the same moment.
                        http.get("/healthz");
                        barrier.wait();
                        take(runtime, store, &mut http, step, ways[at], text)
                    })
                })
                .into_iter()
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        self.faults += 1;
        self.acknowledged += outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count() as u64;
        for outcome in &outcomes {
            if let Outcome::Failed(why) = outcome {
                self.wrong.push(("ERROR", format!("{name}: {why}")));
            }
        }
        let adopts = |at: usize| matches!(steps[at].act, Act::Adopt | Act::Replace) && outcomes[at] == Outcome::Done;
        if adopts(0) && adopts(1) && steps[0].from == steps[1].from {
            self.wrong.push(("TWICE", format!("{name}: both adoptions were done")));
        }
        for (step, outcome) in steps.iter().zip(&outcomes) {
            if *outcome != Outcome::Refused {
                step.begins(&mut self.world);
            }
        }
        let mut done: Vec<usize> = (0..2).filter(|at| outcomes[*at] == Outcome::Done).collect();
        done.sort_by_key(|at| rank(&steps[*at]));
        for at in done {
            let (step, other) = (&steps[at], &steps[1 - at]);
            step.ended(&mut self.world);
            if step.act == Act::Write {
                match destroys(other, &step.on) && outcomes[1 - at] != Outcome::Refused {
                    true => self.world.wrote_in_passing(&step.on, drafts[at].0),
                    false => self.world.wrote(&step.on, drafts[at].0),
                }
            }
        }
        // Which of the two came last is not known.
        for step in steps {
            if !step.from.is_empty() {
                self.world.told(&step.from, None);
            }
            self.world.told(&step.on, None);
            step.others.iter().for_each(|id| self.world.told(id, None));
        }
    }

    /// The rows, and everybody's notes, while the server runs.
    fn check(&mut self, store: &Store, ids: &[String], wrong: &mut Wrong) {
        let world = &mut self.world;
        let found = self.runtime.block_on(async {
            let mut rows = Vec::new();
            for id in ids {
                if let Some(row) = store.find(&tenant(id)).await.unwrap() {
                    rows.push(RowSeen { id: id.clone(), state: row.state.to_string(), purged: row.purged.is_some() });
                }
            }
            world.compare_rows(&Look { rows, complaints: vec![] }, wrong);
            world.recover(store, ids, wrong).await
        });
        world.compare_notes(ids, &found, wrong);
        for (id, notes) in &found {
            world.settled(id, notes);
        }
    }

    fn sabotage(&mut self, store: &Store, cast: &Cast, kind: Sabotage) -> bool {
        let whose = tenant(if kind == Sabotage::Removed { &cast.bob } else { &cast.cyd });
        // Written by Dan, who gives his notes to Ada and to nobody else.
        let (_, text) = self.world.draft(&cast.dan);
        self.runtime.block_on(async {
            let Ok(tenant) = store.lease(&whose).await else { return false };
            let changed = match kind {
                Sabotage::Removed => {
                    tenant
                        .write(|tx| Ok(tx.execute("DELETE FROM notes WHERE id = (SELECT min(id) FROM notes)", [])?))
                        .await
                }
                _ => {
                    tenant
                        .write(move |tx| Ok(tx.execute("INSERT INTO notes VALUES ('note_zz', ?1, 1, 1)", [text])?))
                        .await
                }
            };
            changed.is_ok_and(|changed| changed > 0)
        })
    }

    /// The server ends; then the files are looked at, and everybody once more after a start.
    fn end(&mut self, served: Served, data: &Path, erased: Option<(String, Vec<u8>)>) {
        served.stop(self.runtime);
        let mut wrong = Wrong::new();
        let unerased = erased.is_some_and(|(id, bytes)| {
            let layout = cubby::tenants::disk::path::Layout::at(data.to_owned());
            std::fs::write(layout.trashed(&tenant(&id)), bytes).is_ok()
        });
        match Look::at(data) {
            Ok(look) => {
                self.world.compare_rows(&look, &mut wrong);
                self.world.compare_bytes(data, &mut wrong);
                let left: Vec<_> = look.complaints.iter().filter(|text| !text.ends_with(NOBODYS)).collect();
                if !left.is_empty() {
                    wrong.push(("LEFT", format!("{left:?}")));
                }
                let doctor = server::clean(&self.setup.program).arg("doctor").arg("--data").arg(data).output().unwrap();
                if doctor.status.success() != look.complaints.is_empty() {
                    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
                    wrong.push(("DOCTOR", format!("{said}, and there is {:?}", look.complaints)));
                }
            }
            Err(why) => wrong.push(("CATALOG", why)),
        }
        if unerased {
            let (done, caught) = self.caught.entry(Sabotage::Unerased).or_default();
            *done += 1;
            *caught += u32::from(wrong.iter().any(|(kind, _)| *kind == "NOT ERASED"));
        }
        let ids = self.world.ids();
        let (world, found) = (&mut self.world, &mut BTreeMap::new());
        self.runtime.block_on(async {
            let store = Store::open(cubby::StoreOptions::new(data)).unwrap();
            *found = world.recover(&store, &ids, &mut wrong).await;
            store.close(tokio::time::Instant::now() + Duration::from_secs(20)).await;
        });
        self.world.compare_notes(&ids, found, &mut wrong);
        wrong.extend(check::files(data, |_| false).into_iter().map(|what| ("FILES", what)));
        wrong.extend(check::checkpointed(data).into_iter().map(|what| ("FILES", what)));
        self.wrong.extend(wrong.into_iter().map(|(kind, what)| (kind, format!("in the end: {what}"))));
        let _ = std::fs::remove_dir_all(data);
    }

    /// One step for each of many users, all at once; whoever has nothing to do with the others is not refused.
    fn together(&mut self, served: &Served, steps: &[Step]) {
        let barrier = Barrier::new(steps.len());
        let drafts: Vec<(u32, String)> = steps.iter().map(|step| self.world.draft(&step.on)).collect();
        let (runtime, store) = (self.runtime, served.store());
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let threads: Vec<_> = steps
                .iter()
                .zip(&drafts)
                .map(|(step, (_, text))| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        let mut http = Http::new(served.address);
                        http.get("/healthz");
                        barrier.wait();
                        take(runtime, store, &mut http, step, Way::Route, text)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for ((step, outcome), (note, _)) in steps.iter().zip(outcomes).zip(&drafts) {
            self.faults += 1;
            step.begins(&mut self.world);
            if outcome == Outcome::Done {
                self.acknowledged += 1;
                step.ended(&mut self.world);
                if step.act == Act::Write {
                    self.world.wrote(&step.on, *note);
                }
            } else {
                self.wrong.push(("REFUSED", format!("{MANY} at once, {step}: {outcome:?}")));
            }
        }
        let mut wrong = Wrong::new();
        let mut found = BTreeMap::new();
        for step in steps {
            let state = self.runtime.block_on(store.find(&tenant(&step.on))).unwrap().map(|row| row.state.to_string());
            if state.as_deref() == Some("active") {
                match self.runtime.block_on(notes_of(store, &tenant(&step.on))) {
                    Ok(notes) => drop(found.insert(step.on.clone(), notes)),
                    Err(error) => wrong.push(("UNREADABLE", format!("{}: {error}", step.on))),
                }
            }
        }
        let ids: Vec<String> = found.keys().cloned().collect();
        self.world.compare_notes(&ids, &found, &mut wrong);
        let what = steps.first().map(|step| format!("{:?}", step.act)).unwrap_or_default();
        self.wrong.extend(wrong.into_iter().map(|(kind, text)| (kind, format!("{MANY} times {what} at once: {text}"))));
    }

    fn many(&mut self, data: &Path) {
        self.world = World::with(&[]);
        let served = Served::start(self.runtime, data, self.provider, &["--max-open", "32"]);
        let steps = |act: Act, name: &str, from: &str| -> Vec<Step> {
            let number = |name: &str, at: u32| format!("user_{name}{at}");
            (0..MANY).map(|at| Step::new(act, &number(name, at)).from(&number(from, at))).collect()
        };
        for (act, name, from) in [
            // By their first note, by an operator, by a message.
            (Act::Write, "ada", ""),
            (Act::Create, "bob", ""),
            (Act::Created, "cyd", ""),
            (Act::Write, "ada", ""),
            (Act::Write, "cyd", ""),
            (Act::Suspend, "ada", ""),
            (Act::Resume, "ada", ""),
            (Act::Delete, "ada", ""),
            (Act::Restore, "ada", ""),
            (Act::Deleted, "ada", ""),
            (Act::Adopt, "bob", "ada"),
            (Act::Revive, "ada", ""),
            (Act::Write, "ada", ""),
            (Act::Delete, "bob", ""),
            (Act::Replace, "cyd", "bob"),
            (Act::Purge, "cyd", ""),
            (Act::Revive, "cyd", ""),
            (Act::Write, "cyd", ""),
        ] {
            self.together(&served, &steps(act, name, from));
        }
        self.end(served, data, None);
    }

    /// The sweep purges a hundred users, one of whom is brought back meanwhile.
    fn sweep(&mut self, data: &Path, way: Way, rng: &mut Rng) {
        self.world = World::with(&[]);
        let served = Served::start(self.runtime, data, self.provider, &["--retention", "1ms"]);
        let store = served.store().clone();
        let ids: Vec<String> = (0..DUE).map(|at| format!("user_due{at}")).collect();
        for id in &ids {
            self.note(&store, id);
            self.note(&store, id);
            self.set(&store, Act::Delete, id);
            self.world.told(id, None);
            self.world.purge_begins(id);
        }
        std::thread::sleep(Duration::from_millis(2));
        let back = ids[rng.index(ids.len())].clone();
        let (restore, write) = (Step::new(Act::Restore, &back), Step::new(Act::Write, &back));
        let (note, text) = self.world.draft(&back);
        let barrier = Barrier::new(2);
        let runtime = self.runtime;
        let outcomes = std::thread::scope(|scope| {
            let sweep = scope.spawn(|| {
                barrier.wait();
                runtime.block_on(store.purge_due())
            });
            let mut http = Http::new(served.address);
            http.get("/healthz");
            barrier.wait();
            let restored = take(runtime, &store, &mut http, &restore, way, "");
            let wrote = (restored == Outcome::Done).then(|| take(runtime, &store, &mut http, &write, way, &text));
            (restored, wrote, sweep.join().unwrap())
        });
        self.faults += 1;
        let mut wrong = Wrong::new();
        let (restored, wrote, swept) = outcomes;
        if let Err(error) = swept {
            wrong.push(("ERROR", format!("the sweep: {error}")));
        }
        match (&restored, &wrote) {
            (Outcome::Done, Some(written)) => {
                self.world.brought_back(&back);
                match written {
                    Outcome::Done => self.world.wrote(&back, note),
                    Outcome::Busy => {}
                    other => wrong.push(("LOST", format!("{back} was restored, and then: {other:?}"))),
                }
                self.acknowledged += 2;
            }
            (Outcome::Refused | Outcome::Busy, _) => {}
            (other, _) => wrong.push(("ERROR", format!("{restore}: {other:?}"))),
        }
        let again = self.runtime.block_on(store.purge_due());
        if let Err(error) = again {
            wrong.push(("ERROR", format!("the sweep: {error}")));
        }
        let mut swept = BTreeSet::new();
        for id in &ids {
            let purged =
                self.runtime.block_on(store.find(&tenant(id))).unwrap().is_some_and(|row| row.purged.is_some());
            if purged {
                swept.insert(id.clone());
            } else if *id != back || restored != Outcome::Done {
                wrong.push(("LEFT", format!("{id}, whose retention is over, is not purged")));
            }
        }
        self.check(&store, &ids, &mut wrong);
        // The folder's lock goes with the last of the store.
        drop(store);
        let what = format!("a sweep of {DUE} with a restoration of {back} ({way:?}: {restored:?}, {wrote:?})");
        self.wrong.extend(wrong.into_iter().map(|(kind, text)| (kind, format!("{what}: {text}"))));
        self.end(served, data, None);
    }
}

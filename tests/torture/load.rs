//! Workers that write, read and remember what they were told.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    http::{Answer, Http, Reply},
    ledger::{self, Entry, State, Stored, Verdict},
    rng::Rng,
};

/// What the workers do.
#[derive(Debug, Clone)]
pub struct Plan {
    pub tenants: usize,
    pub workers: usize,
    pub seed: u64,
    /// Between two requests of one worker.
    pub pause: Duration,
    /// Only new notes, told apart by their text: for servers that answer without having written.
    pub posts_only: bool,
    /// The longest text.
    pub text: usize,
}

impl Plan {
    pub fn new(seed: u64, tenants: usize) -> Self {
        Self { tenants, workers: 8, seed, pause: Duration::ZERO, posts_only: false, text: 600 }
    }
}

pub struct Worker {
    plan: Plan,
    number: usize,
    rng: Rng,
    next: u64,
    pub entries: Vec<Entry>,
    pub seen: Seen,
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Answers by status; 0 is a cut connection.
    pub statuses: BTreeMap<u16, u64>,
    pub acknowledged: u64,
    /// What no answer should have been.
    pub violations: Vec<String>,
    /// By tenant: the statuses other than 2xx.
    pub refused: HashMap<String, BTreeMap<u16, u64>>,
    pub sample: BTreeMap<u16, String>,
}

/// A worker keeps about so many notes, so that a long run does not grow.
const KEPT: usize = 150;

pub fn workers(plan: &Plan) -> Vec<Worker> {
    (0..plan.workers)
        .map(|number| Worker {
            plan: plan.clone(),
            number,
            rng: Rng::new(plan.seed, number as u64 + 1),
            next: 0,
            entries: Vec::new(),
            seen: Seen::default(),
        })
        .collect()
}

pub fn tenant(number: usize) -> String {
    format!("user_{number}")
}

/// Lets the workers work until `stop`, which runs beside them, returns.
pub fn run<T>(address: SocketAddr, workers: &mut [Worker], stop: impl FnOnce() -> T) -> T {
    run_counted(address, workers, |_| stop())
}

/// The same; `stop` runs once each worker has been answered, on a connection of its own.
pub fn run_once_served<T>(address: SocketAddr, workers: &mut [Worker], stop: impl FnOnce() -> T) -> T {
    let all = workers.len();
    run_counted(address, workers, |served| {
        let until = Instant::now() + Duration::from_secs(20);
        while served.load(Ordering::Relaxed) < all {
            assert!(Instant::now() < until, "not every worker is answered");
            std::thread::sleep(Duration::from_millis(2));
        }
        stop()
    })
}

fn run_counted<T>(address: SocketAddr, workers: &mut [Worker], stop: impl FnOnce(&AtomicUsize) -> T) -> T {
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for worker in workers.iter_mut() {
            let (done, served) = (&done, &served);
            scope.spawn(move || worker.work(address, done, served));
        }
        let result = stop(&served);
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// The same for a time.
pub fn run_for(address: SocketAddr, workers: &mut [Worker], time: Duration) {
    run(address, workers, || std::thread::sleep(time));
}

/// The same, while others read what the workers write. What they were answered before `stop` sets the flag that it is
/// given must be there in the end, whether its writer was answered or not.
pub fn run_watched<T>(
    address: SocketAddr,
    workers: &mut [Worker],
    watchers: usize,
    stop: impl FnOnce(&AtomicBool) -> T,
) -> T {
    let (tenants, seed) = workers.first().map_or((0, 0), |worker| (worker.plan.tenants, worker.plan.seed));
    let over = AtomicBool::new(false);
    let mut read = vec![HashMap::new(); watchers];
    let result = std::thread::scope(|scope| {
        for (number, read) in read.iter_mut().enumerate() {
            let (over, rng) = (&over, Rng::new(seed, 1000 + number as u64));
            scope.spawn(move || watch(address, tenants, rng, over, read));
        }
        run(address, workers, || {
            let result = stop(&over);
            over.store(true, Ordering::SeqCst);
            result
        })
    });
    for entry in workers.iter_mut().flat_map(|worker| &mut worker.entries) {
        for read in &read {
            if let Some(texts) = read.get(&entry.tenant) {
                entry.was_read(texts);
            }
        }
    }
    result
}

/// Reads the newest notes of everybody, by tenant, until it is `over`.
fn watch(
    address: SocketAddr,
    tenants: usize,
    mut rng: Rng,
    over: &AtomicBool,
    read: &mut HashMap<String, HashSet<String>>,
) {
    let mut http = Http::new(address);
    loop {
        let tenant = tenant(rng.index(tenants));
        let reply = http.get(&format!("/{tenant}?limit=40&order=desc"));
        // After a power cut nobody is answered; what the server still says comes from its memory.
        if over.load(Ordering::SeqCst) {
            return;
        }
        match reply {
            Reply::Answer(answer) if answer.status == 200 => {
                let texts = read.entry(tenant).or_default();
                for note in answer.json()["notes"].as_array().into_iter().flatten() {
                    texts.extend(note["text"].as_str().map(str::to_owned));
                }
            }
            Reply::Refused => std::thread::sleep(Duration::from_millis(2)),
            _ => {}
        }
    }
}

/// All that was seen since the last call.
pub fn take_seen(workers: &mut [Worker]) -> Seen {
    let mut all = Seen::default();
    for worker in workers {
        let seen = std::mem::take(&mut worker.seen);
        all.acknowledged += seen.acknowledged;
        all.violations.extend(seen.violations);
        for (status, count) in seen.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
        for (tenant, statuses) in seen.refused {
            for (status, count) in statuses {
                *all.refused.entry(tenant.clone()).or_default().entry(status).or_default() += count;
            }
        }
        all.sample.extend(seen.sample);
    }
    all
}

/// Reads everything back and compares. Tenants for which `leave` holds are left out.
pub fn compare(address: SocketAddr, workers: &mut [Worker], leave: impl Fn(&str) -> bool) -> Verdict {
    let mut http = Http::new(address);
    let tenants = workers.first().map_or(0, |worker| worker.plan.tenants);
    let mut stored = HashMap::new();
    let mut unread = Vec::new();
    for tenant in (0..tenants).map(tenant).filter(|tenant| !leave(tenant)) {
        match read_all(&mut http, &tenant) {
            Ok(notes) => drop(stored.insert(tenant, notes)),
            Err(why) => unread.push(format!("UNREADABLE: {tenant}: {why}")),
        }
        // Each takes its time to be given up.
        if unread.len() == 5 {
            break;
        }
    }
    let entries = workers.iter_mut().flat_map(|worker| &mut worker.entries);
    let mut verdict = ledger::compare(entries.filter(|entry| stored.contains_key(&entry.tenant)), &stored);
    verdict.violations.extend(unread);
    for worker in workers {
        worker.entries.retain(|entry| entry.certain != State::Absent || !entry.is_settled());
    }
    verdict
}

/// Every note of a tenant, page by page. A tenant that never was has none.
pub fn read_all(http: &mut Http, tenant: &str) -> Result<Stored, String> {
    let mut notes = Stored::new();
    let mut path = format!("/{tenant}?limit=500");
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let page = match http.get(&path) {
            Reply::Answer(answer) if answer.status == 200 => answer.json(),
            Reply::Answer(answer) if answer.status == 404 => return Ok(notes),
            // Not ready yet, or out of something: what it says to try again.
            reply if Instant::now() < until && reply.status() != 500 => {
                if reply.clone().answer().is_some_and(|answer| answer.text().contains("quarantined")) {
                    return Err("quarantined".into());
                }
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            reply => return Err(format!("{reply:?}")),
        };
        for note in page["notes"].as_array().into_iter().flatten() {
            let text = |name: &str| note[name].as_str().unwrap_or_default().to_owned();
            notes.insert(text("id"), text("text"));
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/{tenant}?limit=500&cursor={cursor}"),
            None => return Ok(notes),
        }
    }
}

impl Worker {
    pub fn pace(&mut self, pause: Duration) {
        self.plan.pause = pause;
    }

    fn work(&mut self, address: SocketAddr, done: &AtomicBool, served: &AtomicUsize) {
        let mut http = Http::new(address);
        let mut answered = false;
        while !done.load(Ordering::Relaxed) {
            let reply = self.step(&mut http);
            if !answered && matches!(reply, Reply::Answer(_)) {
                answered = true;
                served.fetch_add(1, Ordering::Relaxed);
            }
            match reply {
                // The server is gone; whoever made it go says when this ends.
                Reply::Refused => std::thread::sleep(Duration::from_millis(2)),
                Reply::Answer(answer) if answer.status == 503 => std::thread::sleep(Duration::from_millis(5)),
                _ => {}
            }
            if !self.plan.pause.is_zero() {
                std::thread::sleep(self.plan.pause);
            }
        }
    }

    fn text(&mut self) -> String {
        self.next += 1;
        let len = self.rng.range(0, self.plan.text as u64) as usize;
        format!("{}-{}-{} {}", self.plan.seed, self.number, self.next, self.rng.text(len))
    }

    fn step(&mut self, http: &mut Http) -> Reply {
        let dice = self.rng.range(0, 100);
        // Whoever is past what it keeps removes more than it makes.
        let (patches, deletes) = if self.entries.len() > KEPT { (20, 70) } else { (60, 75) };
        let settled = |entry: &Entry| entry.id.is_some() && entry.certain != State::Absent;
        let chosen = (!self.plan.posts_only && dice >= 45 && !self.entries.is_empty())
            .then(|| self.rng.index(self.entries.len()))
            .filter(|index| settled(&self.entries[*index]));
        match chosen {
            None => self.post(http),
            Some(index) if dice < patches => self.patch(http, index),
            Some(index) if dice < deletes => self.delete(http, index),
            Some(index) => self.read(http, index),
        }
    }

    fn post(&mut self, http: &mut Http) -> Reply {
        let tenant = tenant(self.rng.index(self.plan.tenants));
        let text = self.text();
        let reply = http.post(&format!("/{tenant}"), &json!({ "text": text }));
        let mut entry = Entry { tenant: tenant.clone(), id: None, certain: State::Absent, maybe: vec![] };
        match self.note(&tenant, &reply, &[201]) {
            Some(answer) => {
                let id = answer.json()["note"]["id"].as_str().map(str::to_owned);
                entry.id = id.filter(|_| !self.plan.posts_only);
                entry.acknowledged(State::Text(text));
                self.entries.push(entry);
            }
            None if in_doubt(&reply) => {
                entry.in_doubt(State::Text(text));
                self.entries.push(entry);
            }
            None => {}
        }
        reply
    }

    fn patch(&mut self, http: &mut Http, index: usize) -> Reply {
        let text = self.text();
        let (tenant, path) = self.place(index);
        let reply = http.send("PATCH", &path, &[], Some(&json!({ "text": text })));
        self.wrote(index, &tenant, &reply, State::Text(text));
        reply
    }

    fn delete(&mut self, http: &mut Http, index: usize) -> Reply {
        let (tenant, path) = self.place(index);
        let reply = http.send("DELETE", &path, &[], None);
        self.wrote(index, &tenant, &reply, State::Absent);
        reply
    }

    fn wrote(&mut self, index: usize, tenant: &str, reply: &Reply, state: State) {
        // 404: a deletion that was in doubt happened.
        let gone = reply.status() == 404 && self.entries[index].maybe.contains(&State::Absent);
        let state = if gone { State::Absent } else { state };
        if gone || self.note(tenant, reply, &[200]).is_some() {
            self.entries[index].acknowledged(state);
        } else if in_doubt(reply) {
            self.entries[index].in_doubt(state);
        }
    }

    fn read(&mut self, http: &mut Http, index: usize) -> Reply {
        let (tenant, path) = self.place(index);
        let reply = http.get(&path);
        let settled = self.entries[index].is_settled();
        let expected = if settled { &[200][..] } else { &[200, 404] };
        if let Some(answer) = self.note(&tenant, &reply, expected)
            && settled
        {
            let found = State::Text(answer.json()["note"]["text"].as_str().unwrap_or_default().to_owned());
            if found != self.entries[index].certain {
                self.seen.violations.push(format!("STALE: {path} is not what was acknowledged"));
            }
        }
        reply
    }

    fn place(&self, index: usize) -> (String, String) {
        let entry = &self.entries[index];
        (entry.tenant.clone(), format!("/{}/{}", entry.tenant, entry.id.as_deref().unwrap_or_default()))
    }

    /// Counts a reply; the answer if it is one of `good`.
    fn note<'r>(&mut self, tenant: &str, reply: &'r Reply, good: &[u16]) -> Option<&'r Answer> {
        let status = reply.status();
        if matches!(reply, Reply::Refused) {
            return None;
        }
        *self.seen.statuses.entry(status).or_default() += 1;
        match reply {
            Reply::Answer(answer) if good.contains(&status) => {
                self.seen.acknowledged += 1;
                Some(answer)
            }
            _ => {
                *self.seen.refused.entry(tenant.to_owned()).or_default().entry(status).or_default() += 1;
                if let Reply::Answer(answer) = reply {
                    self.seen.sample.entry(status).or_insert_with(|| answer.text());
                    if !matches!(status, 503 | 507) {
                        self.seen.violations.push(format!("STATUS: {status} for {tenant}: {}", answer.text()));
                    }
                }
                None
            }
        }
    }
}

fn in_doubt(reply: &Reply) -> bool {
    match reply {
        Reply::Cut => true,
        Reply::Answer(answer) => answer.status >= 500,
        Reply::Refused => false,
    }
}

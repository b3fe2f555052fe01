//! Workers that write transactions in SQL over HTTP, in each form that clients send, and remember what they were told.
//!
//! A transaction's rows have one name, and each says how many they are, so half of one is seen; a trigger counts the
//! transactions in a row that all of them write, so a lost one is seen, too.

mod ledger;
mod send;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

pub use self::{
    ledger::{Ledger, Verdict},
    send::empty,
};
use self::{
    ledger::{Outcome, Read},
    send::{Said, batch, bound, close, execute, pipeline, pipeline_path},
};
use crate::{
    http::{Http, Reply},
    load,
    rng::Rng,
};

/// What the users' schema has beside the notes.
pub const SCHEMA: &str = "CREATE TABLE parts (
    name   TEXT    NOT NULL,
    number INTEGER NOT NULL,
    total  INTEGER NOT NULL,
    text   TEXT    NOT NULL,
    PRIMARY KEY (name, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE counted (transactions INTEGER NOT NULL) STRICT;
INSERT INTO counted VALUES (0);
CREATE TRIGGER counts AFTER INSERT ON parts WHEN NEW.number = 1 BEGIN
    UPDATE counted SET transactions = transactions + 1;
END;";

/// Rows of a transaction, at most.
const MOST_ROWS: u64 = 8;

/// How a transaction is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One statement, which writes all rows.
    Single,
    /// A text of several statements.
    Sequence,
    /// A batch, each step under the condition that the one before it succeeded.
    Batch,
    /// The same, answered line by line.
    Cursor,
    /// Requests of one pipeline.
    Pipeline,
    /// Requests one after the other, with a baton.
    Stream,
}

/// How a stream's transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Commit,
    /// In the request of the last row.
    CommitWithLast,
    Rollback,
    /// Not at all: the next request never comes.
    Abandoned,
}

pub struct Worker {
    seed: u64,
    number: usize,
    tenants: usize,
    pub pause: Duration,
    rng: Rng,
    next: u64,
    pub ledger: Ledger,
    pub acknowledged: u64,
    pub violations: Vec<String>,
    /// Batons that no answer came to, or that were left.
    batons: Vec<(String, String)>,
}

pub fn workers(seed: u64, tenants: usize, count: usize) -> Vec<Worker> {
    let worker = |number| Worker {
        seed,
        number,
        tenants,
        pause: Duration::ZERO,
        rng: Rng::new(seed, 2000 + number as u64),
        next: 0,
        ledger: Ledger::default(),
        acknowledged: 0,
        violations: Vec::new(),
        batons: Vec::new(),
    };
    (0..count).map(worker).collect()
}

/// Lets the workers work and others read what they write, until `stop` returns. What was read before it set the flag that
/// it is given must be there in the end.
pub fn run<T>(address: SocketAddr, workers: &mut [Worker], watchers: usize, stop: impl FnOnce(&AtomicBool) -> T) -> T {
    let (tenants, seed) = workers.first().map_or((0, 0), |worker| (worker.tenants, worker.seed));
    let (done, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut reads: Vec<(HashSet<(String, String)>, Vec<String>)> = vec![Default::default(); watchers];
    let result = std::thread::scope(|scope| {
        for worker in workers.iter_mut() {
            let done = &done;
            scope.spawn(move || worker.work(address, done));
        }
        for (number, (read, wrong)) in reads.iter_mut().enumerate() {
            let (over, rng) = (&over, Rng::new(seed, 3000 + number as u64));
            scope.spawn(move || watch(address, tenants, rng, over, read, wrong));
        }
        let result = stop(&over);
        over.store(true, Ordering::SeqCst);
        done.store(true, Ordering::Relaxed);
        result
    });
    for (read, wrong) in reads {
        for worker in workers.iter_mut() {
            worker.ledger.were_read(&read);
        }
        workers[0].violations.extend(wrong);
    }
    result
}

/// Reads everybody's transactions until it is `over`.
fn watch(
    address: SocketAddr,
    tenants: usize,
    mut rng: Rng,
    over: &AtomicBool,
    read: &mut HashSet<(String, String)>,
    wrong: &mut Vec<String>,
) {
    let mut http = Http::new(address);
    while !over.load(Ordering::SeqCst) {
        let tenant = load::tenant(rng.index(tenants));
        let Some(found) = Read::once(&mut http, &tenant) else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        // After a power cut nobody is answered; what the server still says comes from its memory.
        if over.load(Ordering::SeqCst) {
            return;
        }
        wrong.extend(found.halves().map(|what| format!("{what}, as it was read under load")));
        read.extend(found.names().map(|name| (tenant.clone(), name.to_owned())));
    }
}

/// Reads everything back and compares it with what each worker was told; tries the batons of before the restart.
pub fn compare(address: SocketAddr, workers: &mut [Worker]) -> Verdict {
    let mut http = Http::new(address);
    let mut verdict = Verdict::default();
    for worker in workers.iter_mut() {
        for (tenant, baton) in worker.batons.drain(..) {
            let reply = http.post(&pipeline_path(&tenant), &pipeline(Some(&baton), &[execute("COMMIT"), close()]));
            let refused = reply.status() == 400 && reply.to_string().contains("BATON_INVALID");
            verdict.batons += 1;
            if !refused {
                verdict.violations.push(format!("BATON: {tenant}: one of before the restart was answered {reply}"));
            }
        }
    }
    for tenant in (0..workers.first().map_or(0, |worker| worker.tenants)).map(load::tenant) {
        let until = Instant::now() + Duration::from_secs(20);
        let found = loop {
            match Read::once(&mut http, &tenant) {
                Some(found) => break found,
                None if Instant::now() > until => {
                    verdict.violations.push(format!("UNREADABLE: {tenant}"));
                    return verdict;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        verdict.compare(&tenant, &found, workers.iter_mut().map(|worker| &mut worker.ledger));
    }
    verdict
}

impl Worker {
    fn work(&mut self, address: SocketAddr, done: &AtomicBool) {
        let mut http = Http::new(address);
        while !done.load(Ordering::Relaxed) {
            let tenant = load::tenant(self.rng.index(self.tenants));
            self.next += 1;
            let name = format!("{}-{}-{}", self.seed, self.number, self.next);
            let forms =
                [Form::Single, Form::Sequence, Form::Batch, Form::Cursor, Form::Pipeline, Form::Stream, Form::Stream];
            let form = forms[self.rng.index(forms.len())];
            let outcome = self.transact(&mut http, &tenant, &name, form);
            self.acknowledged += u64::from(outcome == Outcome::Committed);
            self.ledger.note(tenant, name, outcome);
            std::thread::sleep(self.pause);
        }
    }

    fn transact(&mut self, http: &mut Http, tenant: &str, name: &str, form: Form) -> Outcome {
        let total = self.rng.range(1, MOST_ROWS + 1);
        let mut rows = Vec::new();
        for number in 1..=total {
            let len = self.rng.range(0, 400) as usize;
            rows.push((name, number, total, self.rng.text(len)));
        }
        let literal =
            |(name, number, total, text): &(&str, u64, u64, String)| format!("('{name}', {number}, {total}, '{text}')");
        let inserts = || {
            rows.iter().map(|(name, number, total, text)| {
                bound("INSERT INTO parts VALUES (?, ?, ?, ?)", name, *number, *total, text)
            })
        };
        let (path, body) = match form {
            Form::Single => {
                let values: Vec<String> = rows.iter().map(literal).collect();
                let insert = execute(&format!("INSERT INTO parts VALUES {}", values.join(", ")));
                (pipeline_path(tenant), pipeline(None, &[insert, close()]))
            }
            Form::Sequence => {
                let inserts: Vec<String> =
                    rows.iter().map(|row| format!("INSERT INTO parts VALUES {};", literal(row))).collect();
                let sql = format!("BEGIN; {} COMMIT", inserts.join(" "));
                (pipeline_path(tenant), pipeline(None, &[json!({"type": "sequence", "sql": sql}), close()]))
            }
            Form::Batch => {
                let batch = json!({"type": "batch", "batch": batch(inserts())});
                (pipeline_path(tenant), pipeline(None, &[batch, close()]))
            }
            Form::Cursor => (format!("/{tenant}/sql/v3/cursor"), json!({"batch": batch(inserts())})),
            Form::Pipeline => {
                let mut requests = vec![execute("BEGIN IMMEDIATE")];
                requests.extend(inserts().map(|stmt| json!({"type": "execute", "stmt": stmt})));
                requests.extend([execute("COMMIT"), close()]);
                (pipeline_path(tenant), pipeline(None, &requests))
            }
            Form::Stream => {
                let inserts: Vec<Value> = inserts().map(|stmt| json!({"type": "execute", "stmt": stmt})).collect();
                return self.stream(http, tenant, &inserts);
            }
        };
        let said = Said::of(&http.post(&path, &body));
        self.look(tenant, form, &said);
        match said {
            Said::Ok(_) => Outcome::Committed,
            Said::Failed(_) | Said::Unsent => Outcome::Not,
            Said::Unknown => Outcome::Unknown,
        }
    }

    /// An interactive transaction: each row in a request of its own.
    fn stream(&mut self, http: &mut Http, tenant: &str, inserts: &[Value]) -> Outcome {
        let ending = match self.rng.range(0, 100) {
            0..=54 => Ending::Commit,
            55..=69 => Ending::CommitWithLast,
            70..=84 => Ending::Rollback,
            _ => Ending::Abandoned,
        };
        let begins = ["BEGIN", "BEGIN IMMEDIATE", "BEGIN DEFERRED"];
        let mut requests = vec![vec![execute(begins[self.rng.index(begins.len())])]];
        requests.extend(inserts.iter().map(|insert| vec![insert.clone()]));
        match ending {
            Ending::Commit => requests.push(vec![execute("COMMIT"), close()]),
            Ending::CommitWithLast => requests.last_mut().unwrap().extend([execute("COMMIT"), close()]),
            Ending::Rollback => requests.push(vec![execute("ROLLBACK"), close()]),
            Ending::Abandoned => {}
        }
        let commits = matches!(ending, Ending::Commit | Ending::CommitWithLast);
        let (all, mut baton) = (requests.len(), None::<String>);
        for (number, requests) in requests.iter().enumerate() {
            let last = number + 1 == all;
            let reply = http.post(&pipeline_path(tenant), &pipeline(baton.as_deref(), requests));
            let said = Said::of(&reply);
            self.look(tenant, Form::Stream, &said);
            match said {
                Said::Ok(next) => {
                    // One that was used is refused, whatever became of its stream.
                    if let Some(used) = baton.filter(|_| last && self.rng.range(0, 8) == 0) {
                        self.use_again(http, tenant, &used);
                    }
                    baton = next;
                }
                Said::Unknown if commits && last => {
                    self.leave(tenant, baton);
                    return Outcome::Unknown;
                }
                // Who did not send COMMIT has nothing stored, whatever became of the request.
                Said::Unknown | Said::Unsent => {
                    self.leave(tenant, baton);
                    return Outcome::Not;
                }
                Said::Failed(_) => return Outcome::Not,
            }
        }
        self.leave(tenant, baton);
        if commits { Outcome::Committed } else { Outcome::Not }
    }

    fn use_again(&mut self, http: &mut Http, tenant: &str, baton: &str) {
        let reply = http.post(&pipeline_path(tenant), &pipeline(Some(baton), &[execute("COMMIT"), close()]));
        if let Reply::Answer(answer) = &reply
            && !matches!(answer.status, 400 | 503)
        {
            self.violations.push(format!("BATON: {tenant}: one that was used was answered {reply}"));
        }
    }

    /// Keeps a baton for after the restart.
    fn leave(&mut self, tenant: &str, baton: Option<String>) {
        const KEPT: usize = 20;
        self.batons.extend(baton.map(|baton| (tenant.to_owned(), baton)));
        let more = self.batons.len().saturating_sub(KEPT);
        self.batons.drain(..more);
    }

    /// A failure that no client made is wrong, unless the transaction was not continued in time.
    fn look(&mut self, tenant: &str, form: Form, said: &Said) {
        if let Said::Failed(why) = said
            && !why.contains("STREAM_EXPIRED")
        {
            self.violations.push(format!("STATUS: {tenant}, {form:?}: {why}"));
        }
    }
}

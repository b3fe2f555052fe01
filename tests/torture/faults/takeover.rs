//! Two servers on one bucket: the first is stopped amid writes and woken when the second, restored from the bucket, has
//! taken over. It refuses writes from then on, and nothing is lost that either has acknowledged.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Report, Setup, folder};
use crate::{
    http::Reply,
    load::{self, Plan},
    replica::{self, Bucket},
    rng::Rng,
    s3::Ignores,
    server::{Node, signal},
};

/// When the first one refuses writes after its next one at the latest.
const REFUSED: Duration = Duration::from_secs(2);

/// For how long that is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Of so many answers of the bucket to writes one is lost.
const LOST: u64 = 6;

/// Users whom the second one does not write to: nobody but the first has opened what is theirs.
const LEFT: usize = 8;

/// What the first one did when it was woken.
struct Woken {
    /// Whom it still acknowledged a note, and which.
    acknowledged: Vec<(String, String)>,
    /// How long it took until it refused one.
    refused: Option<Duration>,
    /// Whether it said why.
    said: bool,
}

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let (folder, data) = folder();
    let bucket = Bucket::start(setup);
    bucket.s3.delay_writes(5..30);
    let mut rng = Rng::new(setup.seed, 0);
    let mut workers = load::workers(&Plan { pause: Duration::from_millis(2), ..Plan::new(setup.seed, 24) });
    let left: Vec<String> = (0..LEFT).map(|nth| format!("left_{nth}")).collect();
    let mut node = bucket.launch(&data, "sync", &[]).start();
    node.ready();
    replica::make(&node, &left);
    let (mut slowest, mut restored) = (Duration::ZERO, Duration::ZERO);
    for round in 1..=setup.count.unwrap_or(if setup.control { 2 } else { 5 }) {
        bucket.s3.lose_answers(LOST, setup.seed + u64::from(round));
        let to = folder.path().join(format!("data-{round}"));
        let half = workers.len() / 2;
        let (first, second) = workers.split_at_mut(half);
        let (life, more) = (rng.range(200, 800), rng.range(200, 800));
        let done = load::run(node.address, first, || {
            std::thread::sleep(Duration::from_millis(life));
            signal(node.id(), "STOP");
            let began = Instant::now();
            let started = bucket.restore(None, &to).map_err(|why| format!("RESTORE: {why}")).and_then(|()| {
                let launch = bucket.launch(&to, "sync", &[]);
                launch.try_start().map_err(|(status, said)| format!("START: {status}: {said}"))
            });
            let outcome = started.map(|next| {
                next.ready();
                restored = restored.max(began.elapsed());
                load::run_for(next.address, second, Duration::from_millis(more));
                if setup.control {
                    // The first one overwrites what fences it.
                    bucket.s3.ignore(Ignores { none_match: true, matches: true });
                }
                signal(node.id(), "CONT");
                let woken = wake(&node, &left, round);
                (next, woken)
            });
            if outcome.is_err() {
                // Who waits for an answer gets it.
                signal(node.id(), "CONT");
            }
            outcome
        });
        report.faults += 1;
        report.violations.extend(node.panics());
        node.kill();
        bucket.s3.ignore(Ignores::default());
        let (next, woken) = match done {
            Ok(done) => done,
            Err(why) => {
                report.wrong(format!("{why} (round {round})"));
                break;
            }
        };
        node = next;
        slowest = slowest.max(woken.refused.unwrap_or(PATIENCE));
        report.expect(woken.refused.is_some_and(|after| after <= REFUSED), || {
            format!("NOT REFUSED: round {round}: the first one refuses writes after {:?}", woken.refused)
        });
        report.expect(woken.said, || format!("SILENT: round {round}: the first one does not say what happened"));
        let verdict = load::compare(node.address, &mut workers, |_| false);
        report.violations.extend(verdict.violations);
        report.saw(load::take_seen(&mut workers));
        for (tenant, text) in woken.acknowledged {
            let notes = load::read_all(&mut node.http(), &tenant).unwrap_or_default();
            report.expect(notes.values().any(|found| *found == text), || {
                format!("LOST: round {round}: {tenant}: {text:?}, which the first one acknowledged when it was woken")
            });
        }
        if !report.violations.is_empty() {
            report.note(format!("stopped after take-over {round}"));
            break;
        }
    }
    report.violations.extend(node.panics());
    report.violations.extend(node.stop().err());
    report.note(format!(
        "refused after at most {slowest:?}; the second one was ready after at most {restored:?}; {} answers of the \
         bucket were lost",
        bucket.s3.lost()
    ));
    report
}

/// Writes to the one that was woken until it refuses.
fn wake(node: &Node, left: &[String], round: u32) -> Woken {
    let mut http = node.http();
    let began = Instant::now();
    let (mut acknowledged, mut refused) = (Vec::new(), None);
    for nth in 0.. {
        let (tenant, text) = (&left[nth % left.len()], format!("woken {round} {nth}"));
        match http.post(&format!("/{tenant}"), &json!({ "text": text })) {
            Reply::Answer(answer) if answer.status == 201 => acknowledged.push((tenant.clone(), text)),
            Reply::Answer(answer) if answer.status == 503 => {
                refused = Some(began.elapsed());
                break;
            }
            _ => {}
        }
        if began.elapsed() > PATIENCE {
            break;
        }
    }
    // Once it has refused, it refuses all.
    for tenant in left {
        let text = format!("woken {round} after all");
        if http.post(&format!("/{tenant}"), &json!({ "text": text })).status() == 201 {
            acknowledged.push((tenant.clone(), text));
        }
    }
    let has_said = || node.log().iter().any(|line| line.contains("has taken over"));
    while !has_said() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    Woken { acknowledged, refused, said: has_said() }
}

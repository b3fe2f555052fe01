//! The data folder is deleted under load. What comes back from the bucket lacks nothing that was acknowledged, or
//! nothing beyond what the mode allows.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Report, Setup, folder};
use crate::{
    http::{Http, Reply},
    load,
    replica::{self, Bucket},
    rng::Rng,
    s3::Failure,
};

const TENANTS: usize = 30;
const WRITERS: u64 = 6;

/// An answer is noted a while after it was sent.
const GRACE: Duration = Duration::from_millis(500);

/// The most that the bucket may be behind while nothing is wrong with it.
const BEHIND: Duration = Duration::from_secs(5);

/// What may be missing of what was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    Nothing,
    /// What was acknowledged within so long.
    Within(Duration),
    /// What is newer than the bucket was behind.
    Behind,
}

/// A note that was acknowledged.
struct Note {
    tenant: String,
    text: String,
    at: Instant,
}

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let modes = match setup.control {
        // One that answers before the bucket has it.
        true => vec![("async", Promise::Nothing)],
        false => vec![
            ("sync", Promise::Nothing),
            ("bounded:1s", Promise::Within(Duration::from_secs(1))),
            ("async", Promise::Behind),
        ],
    };
    for (mode, promise) in modes {
        disasters(setup, mode, promise, &mut report);
    }
    report
}

fn disasters(setup: &Setup, mode: &str, promise: Promise, report: &mut Report) {
    let (folder, mut data) = folder();
    let bucket = Bucket::start(setup);
    bucket.s3.delay_writes(if setup.control { 300..600 } else { 30..80 });
    let mut rng = Rng::new(setup.seed, 0);
    let mut kept = Vec::new();
    let (mut missing, mut slowest) = (0, Duration::ZERO);
    let count = setup.count.unwrap_or(2);
    for round in 1..=count {
        let mut node = match bucket.launch(&data, mode, &[]).try_start() {
            Ok(node) => node,
            Err((status, said)) => {
                report.wrong(format!("START: {mode}, round {round}: {status}: {said}"));
                return;
            }
        };
        node.ready();
        let life = Duration::from_millis(rng.range(500, 2500));
        // In async nothing bounds what is written while the bucket is away.
        let goes_away = promise != Promise::Behind && !setup.control && round % 2 == 0;
        let seed = setup.seed + u64::from(round) * 100;
        let (notes, (killed, behind)) = write(node.address, seed, round, || {
            std::thread::sleep(life);
            if goes_away {
                bucket.s3.fail(Failure::Away);
                std::thread::sleep(Duration::from_millis(2500));
            }
            let behind = replica::status(&mut node.http()).and_then(|status| status["behind_ms"].as_u64());
            let asked = Instant::now();
            node.kill();
            std::fs::remove_dir_all(&data).unwrap();
            (Instant::now(), behind.map(|behind| Duration::from_millis(behind) + asked.elapsed()))
        });
        report.faults += 1;
        report.acknowledged += notes.len() as u64;
        report.violations.extend(node.panics());
        bucket.s3.fail(Failure::None);
        kept.extend(notes);

        data = folder.path().join(format!("data-{round}"));
        let began = Instant::now();
        if let Err(why) = bucket.restore(None, &data) {
            report.wrong(format!("RESTORE: {mode}, round {round}: {why}"));
            return;
        }
        let node = match bucket.launch(&data, mode, &[]).try_start() {
            Ok(node) => node,
            Err((status, said)) => {
                report.wrong(format!("START: {mode}, round {round}: {status}: {said}"));
                return;
            }
        };
        node.ready();
        slowest = slowest.max(began.elapsed());
        let lost = match take_lost(&mut node.http(), &mut kept) {
            Ok(lost) => lost,
            Err(why) => {
                report.wrong(format!("{why} ({mode}, round {round})"));
                return;
            }
        };
        missing += lost.len();
        judge(&format!("{mode}, round {round}"), promise, &lost, killed, behind, report);
        report.violations.extend(node.stop().err());
        if !report.violations.is_empty() {
            break;
        }
    }
    report.note(format!(
        "{mode}: {count} folders, {} notes came back, {missing} did not; serving again after at most {slowest:?}",
        kept.len()
    ));
}

/// Whether less is lost than the promise allows.
fn judge(when: &str, promise: Promise, lost: &[Note], killed: Instant, behind: Option<Duration>, report: &mut Report) {
    let oldest = lost.iter().map(|note| note.at).min();
    let newest = lost.iter().map(|note| note.at).max();
    let (Some(oldest), Some(newest)) = (oldest, newest) else { return };
    let (age, span) = (killed.duration_since(oldest), newest.duration_since(oldest));
    let holds = match promise {
        Promise::Nothing => false,
        // While the bucket is away nothing more is acknowledged, and time passes.
        Promise::Within(bound) => span <= bound + GRACE,
        Promise::Behind => {
            let behind = behind.unwrap_or(Duration::ZERO);
            report.expect(behind <= BEHIND, || format!("BEHIND: {when}: the bucket is behind by {behind:?}"));
            age <= behind + GRACE
        }
    };
    report.expect(holds, || {
        let example = format!("{}: {:?}", lost[0].tenant, lost[0].text);
        format!(
            "LOST: {when}: {} acknowledged notes within {span:?}, the oldest {age:?} before the end: {example}",
            lost.len()
        )
    });
}

/// Takes out what did not come back.
fn take_lost(http: &mut Http, kept: &mut Vec<Note>) -> Result<Vec<Note>, String> {
    let mut found: HashMap<String, HashSet<String>> = HashMap::new();
    for tenant in (0..TENANTS).map(load::tenant) {
        let notes = load::read_all(http, &tenant).map_err(|why| format!("UNREADABLE: {tenant}: {why}"))?;
        found.insert(tenant, notes.into_values().collect());
    }
    let is_lost = |note: &Note| !found.get(&note.tenant).is_some_and(|texts| texts.contains(&note.text));
    let (lost, there) = std::mem::take(kept).into_iter().partition(is_lost);
    *kept = there;
    Ok(lost)
}

/// Lets writers write until `stop` returns; what they were acknowledged.
fn write<T>(address: SocketAddr, seed: u64, round: u32, stop: impl FnOnce() -> T) -> (Vec<Note>, T) {
    let done = AtomicBool::new(false);
    let done = &done;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| scope.spawn(move || notes(address, Rng::new(seed, number), (round, number), done)))
            .collect();
        let result = stop();
        done.store(true, Ordering::Relaxed);
        (writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect(), result)
    })
}

fn notes(address: SocketAddr, mut rng: Rng, (round, number): (u32, u64), done: &AtomicBool) -> Vec<Note> {
    let mut http = Http::new(address);
    let mut acknowledged = Vec::new();
    for nth in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let tenant = load::tenant(rng.index(TENANTS));
        let length = rng.range(0, 500) as usize;
        let text = format!("{round}-{number}-{nth} {}", rng.text(length));
        match http.post(&format!("/{tenant}"), &json!({ "text": text })) {
            Reply::Answer(answer) if answer.status == 201 => {
                acknowledged.push(Note { tenant, text, at: Instant::now() });
            }
            // Refused, or the server is gone.
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    acknowledged
}

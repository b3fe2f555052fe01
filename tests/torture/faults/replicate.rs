//! SIGKILL amid transactions of fifty users whose commits go to a bucket: what comes back from there is, byte for byte,
//! what the server has; at each moment that was remembered it is what it was then; and of a bucket that is damaged
//! nothing comes back that is not so.

mod chain;
mod work;

use std::{collections::BTreeSet, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use self::chain::Cut;
use super::{Report, Setup, file_of, folder, import::operator, migrations};
use crate::{
    check,
    http::Http,
    load,
    replica::{self, Bucket, Restored},
    rng::Rng,
    s3::Failure,
    server::{Launch, Node},
};

const TENANTS: usize = 50;
const WORKERS: usize = 6;

/// After so many kills another program opens and closes the files before the server starts again.
const OPENED: u32 = 4;

/// Of so many answers of the bucket to writes one is lost, in every other round.
const LOST: u64 = 10;

/// Replication that is wrong: for the control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrongly {
    /// A shipper skips a record, and its chain is none the worse.
    Skips,
    /// A restore applies what is there, whether one entry follows the other or not.
    Ignores,
    /// A segment of the log is used again before the bucket has what was in it.
    Reuses,
}

impl Wrongly {
    /// How what it does is called.
    fn caught(self) -> &'static str {
        match self {
            Self::Skips | Self::Reuses => "DIFFERS",
            Self::Ignores => "GUESSED",
        }
    }
}

/// Every user's state while nobody wrote and the bucket had everything.
struct Moment {
    at: i64,
    states: Vec<Vec<String>>,
}

pub fn run(setup: &Setup) -> Report {
    if !setup.control {
        return replicate(setup, None);
    }
    let mut all = Report::default();
    for wrongly in [Wrongly::Skips, Wrongly::Ignores, Wrongly::Reuses] {
        let report = replicate(setup, Some(wrongly));
        let kinds: BTreeSet<&str> = report.violations.iter().filter_map(|what| what.split(':').next()).collect();
        all.note(format!("{wrongly:?}: {} violations: {kinds:?}", report.violations.len()));
        all.notes.extend(report.notes);
        all.faults += report.faults;
        all.acknowledged += report.acknowledged;
        let caught: Vec<_> =
            report.violations.into_iter().filter(|what| what.starts_with(wrongly.caught())).take(1).collect();
        if caught.is_empty() {
            // Each must be caught, and by the check that is for it.
            all.violations.clear();
            break;
        }
        all.violations.extend(caught);
    }
    all
}

fn replicate(setup: &Setup, wrongly: Option<Wrongly>) -> Report {
    let mut report = Report::default();
    let (folder, data) = folder();
    let (schema, _) = migrations(folder.path(), "migrations", Some(("blobs", work::SCHEMA)));
    let bucket = Bucket::start(setup);
    bucket.s3.delay_writes(5..40);
    // Few may be open, and the log begins anew all the time.
    let flags = ["--sql-ddl", "allow", "--max-open", "40", "--idle", "300ms", "--log-segment", "16MiB", "--migrations"];
    let launch = bucket.launch(&data, "async", &[&flags[..], &[schema.to_str().unwrap()]].concat());
    let tenants: Vec<String> = (0..TENANTS).map(load::tenant).collect();
    let mut rng = Rng::new(setup.seed, 0);
    let count = setup.count.unwrap_or(if setup.control { 1 } else { 5 });
    let node = launch.start();
    node.ready();
    replica::make(&node, &tenants);
    let Some((mut node, moments)) = rounds(setup, count, &bucket, &launch, node, &mut rng, &mut report) else {
        return report;
    };
    if wrongly == Some(Wrongly::Reuses) {
        node = reuse_too_early(&bucket, &launch, node, &data);
    }
    report.violations.extend(replica::catch_up(&node).err());
    report.violations.extend(node.panics());
    report.violations.extend(node.stop().err());
    report.violations.extend(check::files(&data, |_| false));
    bucket.s3.lose_answers(0, 0);
    if wrongly == Some(Wrongly::Skips) {
        let skipped = tenants.iter().filter(|tenant| chain::cut(&bucket, tenant, Cut::Forged)).take(5).count();
        report.note(format!("a record of {skipped} users was skipped"));
    }
    let restored = folder.path().join("restored");
    match bucket.restore(None, &restored) {
        Ok(()) => {
            report.violations.extend(replica::compare(&data, &restored, &tenants));
            // Which opens the files.
            if wrongly.is_none() {
                report.violations.extend(check::files(&restored, |_| false));
            }
        }
        Err(why) => report.wrong(format!("RESTORE: {why}")),
    }
    if !report.violations.is_empty() {
        return report;
    }
    if wrongly == Some(Wrongly::Ignores) {
        if let Some(tenant) = tenants.iter().find(|tenant| chain::cut(&bucket, tenant, Cut::Gap)) {
            chain::restore_without_looking(&bucket, tenant, &file_of(&restored, tenant));
        }
        let guessed = replica::compare(&data, &restored, &tenants);
        report.violations.extend(guessed.into_iter().map(|what| format!("GUESSED: {what}")));
    }
    if wrongly.is_none() {
        let sample = (count as usize / 2).clamp(2, 20);
        look_at_moments(&bucket, folder.path(), &moments, sample, &mut rng, &mut report);
        damage(&bucket, folder.path(), &data, &tenants, count.clamp(3, 20), &mut rng, &mut report);
    }
    report
}

/// Kills, and remembers moments. None if the server does not start any more.
fn rounds(
    setup: &Setup,
    count: u32,
    bucket: &Bucket,
    launch: &Launch,
    mut node: Node,
    rng: &mut Rng,
    report: &mut Report,
) -> Option<(Node, Vec<Moment>)> {
    let mut workers = work::workers(setup.seed, TENANTS, WORKERS);
    let (mut moments, mut replaced, mut not_replaced) = (Vec::new(), 0, None);
    for round in 1..=count {
        bucket.s3.lose_answers(if round % 2 == 0 { LOST } else { 0 }, setup.seed + u64::from(round));
        let life = Duration::from_millis(rng.range(100, 900));
        work::run(node.address, &mut workers, || {
            std::thread::sleep(life);
            node.kill();
        });
        report.violations.extend(node.panics());
        report.faults += 1;
        if round % OPENED == 0 {
            check::open_all(&launch.data);
        }
        node = match launch.try_start() {
            Ok(node) => node,
            Err((status, said)) => {
                report.wrong(format!("START: {status}: {said}"));
                return None;
            }
        };
        node.ready();
        let life = Duration::from_millis(rng.range(50, 500));
        work::run(node.address, &mut workers, || std::thread::sleep(life));
        let plain: Vec<usize> = (0..TENANTS).filter(|tenant| work::is_plain(*tenant)).collect();
        match replace(&mut node.http(), plain[rng.index(plain.len())]) {
            Ok(()) => replaced += 1,
            Err(why) => not_replaced = Some(why),
        }
        for worker in &mut workers {
            report.acknowledged += std::mem::take(&mut worker.acknowledged);
            report.violations.append(&mut worker.violations);
        }
        match remember(&node) {
            Ok(moment) => moments.push(moment),
            Err(why) => report.wrong(why),
        }
        if !report.violations.is_empty() {
            report.note(format!("stopped after kill {round}"));
            break;
        }
    }
    report.note(format!("{replaced} users had their file rewritten and imported"));
    report.notes.extend(not_replaced.map(|why| format!("an import was refused: {why}")));
    report.note(format!("{} answers of the bucket were lost", bucket.s3.lost()));
    Some((node, moments))
}

/// Every user's state, once the bucket has it.
fn remember(node: &Node) -> Result<Moment, String> {
    replica::catch_up(node)?;
    let mut http = node.http();
    let states = (0..TENANTS).map(|tenant| work::read(&mut http, tenant)).collect::<Result<_, _>>()?;
    let at = replica::now();
    // What comes next is of another millisecond.
    std::thread::sleep(Duration::from_millis(10));
    Ok(Moment { at, states })
}

/// Takes a user's file out, rewrites all of it, and puts it in the place of what they have.
fn replace(http: &mut Http, tenant: usize) -> Result<(), String> {
    let path = format!("/api/admin/tenants/{}", load::tenant(tenant));
    let export = operator(http, "GET", &format!("{path}/export"), None);
    let Some(answer) = export.clone().answer().filter(|answer| answer.status == 200) else {
        return Err(export.to_string());
    };
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("file.db");
    std::fs::write(&file, &answer.body).unwrap();
    vacuum(&file);
    let body = std::fs::read(&file).unwrap();
    let sent = operator(http, "PUT", &format!("{path}/import?replace=true"), Some(("application/vnd.sqlite3", &body)));
    if sent.status() == 200 { Ok(()) } else { Err(sent.to_string()) }
}

#[expect(clippy::disallowed_methods, reason = "as a program that is not this one")]
fn vacuum(file: &Path) {
    let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    conn.execute_batch("PRAGMA journal_mode = DELETE; VACUUM;").unwrap();
}

/// What a log leaves that uses a segment again before the bucket has what was in it: commits that are in the users'
/// files, and nowhere else.
fn reuse_too_early(bucket: &Bucket, launch: &Launch, mut node: Node, data: &Path) -> Node {
    bucket.s3.fail(Failure::Away);
    let mut http = node.http();
    for tenant in 1..=5 {
        let insert = "INSERT INTO blobs (name, body) VALUES ('missed', randomblob(5000))";
        let done = work::execute(&mut http, tenant, insert);
        assert!(matches!(done, Some(Ok(()))), "a write while the bucket is away: {done:?}");
    }
    node.kill();
    check::open_all(data);
    for entry in std::fs::read_dir(data.join("log")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    bucket.s3.fail(Failure::None);
    let node = launch.start();
    node.ready();
    node
}

/// Restores some of the moments that were remembered.
fn look_at_moments(
    bucket: &Bucket,
    folder: &Path,
    moments: &[Moment],
    sample: usize,
    rng: &mut Rng,
    report: &mut Report,
) {
    let mut left: Vec<&Moment> = moments.iter().collect();
    let mut looked = 0;
    while looked < sample && !left.is_empty() {
        let moment = left.swap_remove(rng.index(left.len()));
        looked += 1;
        let to = folder.join(format!("at-{looked}"));
        if let Err(why) = bucket.restore(Some(moment.at), &to) {
            report.wrong(format!("MOMENT: {}: {why}", moment.at));
            continue;
        }
        for (tenant, expected) in moment.states.iter().enumerate() {
            let found = work::read_file(&file_of(&to, &load::tenant(tenant)));
            let is_it = found.as_ref().is_ok_and(|found| found == expected);
            report.expect(is_it, || {
                let found = found.map(|found| found.len()).map_err(|error| error.to_string());
                format!("MOMENT: {}: user {tenant} had {} rows, and now {found:?}", moment.at, expected.len())
            });
        }
        let _ = std::fs::remove_dir_all(&to);
    }
    report.note(format!("{} states of users at {looked} moments came back", looked * TENANTS));
}

/// Damages the bucket in one place after the other: a restore gives what was there, or refuses.
fn damage(
    bucket: &Bucket,
    folder: &Path,
    data: &Path,
    tenants: &[String],
    count: u32,
    rng: &mut Rng,
    report: &mut Report,
) {
    let whole = bucket.s3.snapshot();
    let mut refused = 0;
    for nth in 0..count {
        let what = match nth % 3 {
            0 => {
                let from = rng.index(tenants.len());
                let mut all = tenants.iter().cycle().skip(from).take(tenants.len());
                let cut = all.find(|tenant| chain::cut(bucket, tenant, Cut::Gap));
                cut.map(|tenant| format!("an entry of {tenant} was deleted"))
            }
            1 => one_of(bucket, rng).filter(|key| bucket.s3.remove(key)).map(|key| format!("{key} was deleted")),
            _ => one_of(bucket, rng).and_then(|key| {
                let length = bucket.s3.content(&key)?.len();
                let at = rng.index(length.max(1));
                bucket.s3.flip(&key, at).then(|| format!("byte {at} of {key} was flipped"))
            }),
        };
        let Some(what) = what else { continue };
        report.faults += 1;
        let to = folder.join(format!("damaged-{nth}"));
        let restored = bucket.restore(None, &to);
        if let Err(why) = &restored {
            refused += 1;
            report.expect(!why.starts_with("signal"), || format!("STUCK: {what}: the restore does not end: {why}"));
        }
        let guessed = not_as_it_was(data, &to, tenants, &restored);
        report.violations.extend(guessed.into_iter().map(|wrong| format!("GUESSED: {what}: {wrong}")));
        let _ = std::fs::remove_dir_all(&to);
        bucket.s3.put_back(whole.clone());
    }
    report.note(format!("a damaged bucket was refused {refused} times of {count}"));
}

/// A key of something that a restore may need.
fn one_of(bucket: &Bucket, rng: &mut Rng) -> Option<String> {
    let kinds = ["/base/", "/big/", "/wal/", "/compacted/", "/manifest/"];
    let keys = bucket.s3.keys(kinds[rng.index(kinds.len())]);
    (!keys.is_empty()).then(|| keys[rng.index(keys.len())].clone())
}

/// What a restore has left that is not what the server had. One that was refused may have left users out.
fn not_as_it_was(data: &Path, restored: &Path, tenants: &[String], outcome: &Restored) -> Vec<String> {
    match outcome {
        Ok(()) => replica::compare(data, restored, tenants),
        Err(_) if !restored.is_dir() => Vec::new(),
        Err(_) => {
            let there = tenants.iter().filter(|tenant| file_of(restored, tenant).exists());
            replica::compare(data, restored, &there.cloned().collect::<Vec<_>>())
        }
    }
}

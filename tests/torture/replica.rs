//! A server that replicates to a bucket of this process, and what comes back from there.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use cubby::clock::{Clock, rfc3339};
use serde_json::Value;

use crate::{
    check,
    faults::{Setup, file_of},
    http::{Http, Reply},
    s3,
    server::{self, Launch, Node},
};

/// The operator's key.
pub const KEY: &str = "an operator's key of some length";

/// How long the bucket may take to have everything.
const CATCH_UP: Duration = Duration::from_secs(120);

/// How long a restore may take.
const RESTORE: Duration = Duration::from_secs(240);

/// A bucket, and a prefix of it.
pub struct Bucket {
    pub s3: s3::Server,
    pub url: String,
    program: PathBuf,
}

/// What a restore came to: nothing, or what it said.
pub type Restored = Result<(), String>;

impl Bucket {
    pub fn start(setup: &Setup) -> Self {
        let s3 = s3::Server::start();
        let url = s3.url("torture");
        Self { s3, url, program: setup.program.clone() }
    }

    /// A server that replicates to it.
    pub fn launch(&self, data: &Path, mode: &str, flags: &[&str]) -> Launch {
        let own = ["--replicate", &self.url, "--replicate-mode", mode, "--admin-api-key", KEY];
        let launch = Launch::real(&self.program, data, &[&own[..], flags].concat());
        self.s3.environment().iter().fold(launch, |launch, (name, value)| launch.with(name, value))
    }

    /// `cubby restore` into an empty folder, as it is or as it was.
    pub fn restore(&self, at: Option<i64>, data: &Path) -> Restored {
        let said = data.with_extension("said");
        let open = || File::options().create(true).append(true).open(&said).unwrap();
        let mut command = server::clean(&self.program);
        command.args(["restore", "--from", &self.url]).arg("--data").arg(data);
        if let Some(at) = at {
            command.arg("--at").arg(rfc3339(at).to_string());
        }
        command.envs(self.s3.environment()).stdin(Stdio::null()).stdout(open()).stderr(open());
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + RESTORE;
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > until => {
                    let _ = child.kill();
                    break child.wait().unwrap();
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        match status.success() {
            true => Ok(()),
            false => Err(format!("{status}: {}", std::fs::read_to_string(&said).unwrap_or_default().trim())),
        }
    }
}

/// What an operator is told of the replication.
pub fn status(http: &mut Http) -> Option<Value> {
    let bearer = format!("Bearer {KEY}");
    let reply = http.send("GET", "/api/admin/replica", &[("authorization", &bearer)], None);
    reply.answer().filter(|answer| answer.status == 200).map(|answer| answer.json())
}

/// Waits until the bucket has everything. Nobody writes meanwhile.
pub fn catch_up(node: &Node) -> Result<(), String> {
    // A commit of this very millisecond is behind by none.
    const AGE: Duration = Duration::from_millis(20);
    let mut http = node.http();
    let until = Instant::now() + CATCH_UP;
    let mut last = None;
    // A base that was begun is seen by the next look at the latest.
    let mut seen = 0;
    while seen < 3 {
        if Instant::now() > until {
            return Err(format!("STUCK: the bucket is behind: {last:?}"));
        }
        std::thread::sleep(AGE);
        last = status(&mut http);
        let is_zero = |name: &str| last.as_ref().is_some_and(|status| status[name] == 0);
        seen = if is_zero("behind_ms") && is_zero("bases_wanted") { seen + 1 } else { 0 };
    }
    Ok(())
}

/// The time, as entries in the bucket have it.
pub fn now() -> i64 {
    Clock::system().now()
}

/// Compares the files of two folders byte for byte. `source` is checkpointed before; no server has either.
pub fn compare(source: &Path, restored: &Path, tenants: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    for tenant in tenants {
        let (from, to) = (file_of(source, tenant), file_of(restored, tenant));
        if let Err(error) = checkpoint(&from) {
            wrong.push(format!("SOURCE: {tenant}: {error}"));
            continue;
        }
        let Ok(back) = std::fs::read(&to) else {
            wrong.push(format!("MISSING: {tenant}: it was not restored"));
            continue;
        };
        if let Some(how) = difference(&std::fs::read(&from).unwrap(), &back) {
            wrong.push(format!("DIFFERS: {tenant}: {how}"));
        }
    }
    wrong
}

fn checkpoint(path: &Path) -> cubby::Result<()> {
    let conn = check::connect(path)?;
    Ok(conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
}

fn difference(source: &[u8], restored: &[u8]) -> Option<String> {
    const PAGE: usize = 4096;
    if source == restored {
        return None;
    }
    let pages = source.chunks(PAGE).zip(restored.chunks(PAGE));
    let others: Vec<usize> = pages.enumerate().filter(|(_, (a, b))| a != b).map(|(nth, _)| nth + 1).collect();
    let first: Vec<_> = others.iter().take(5).collect();
    let (one, other) = (source.len(), restored.len());
    Some(format!("{one} bytes and {other} restored; {} pages differ, first {first:?}", others.len()))
}

/// Every tenant gets a first note, and so a file.
pub fn make(node: &Node, tenants: &[String]) {
    let mut http = node.http();
    for tenant in tenants {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match http.post(&format!("/{tenant}"), &serde_json::json!({"text": "first"})) {
                Reply::Answer(answer) if answer.status == 201 => break,
                reply => assert!(Instant::now() < until, "{tenant} cannot be made: {reply}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

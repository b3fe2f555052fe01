//! One file a fault.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::load::Seen;

pub mod at_once;
pub mod bitflip;
pub mod clock;
pub mod corrupt;
pub mod descriptors;
pub mod disaster;
pub mod export;
pub mod full;
pub mod import;
pub mod kill;
pub mod lifecycle;
pub mod log_disk;
pub mod memory;
pub mod migration;
pub mod pairs;
pub mod power;
pub mod reader;
pub mod readonly;
pub mod reads;
pub mod recycle;
pub mod redo;
pub mod replicate;
pub mod rollout;
pub mod sigterm;
pub mod soak;
pub mod sql;
pub mod steps;
pub mod syscalls;
pub mod takeover;
pub mod twins;

/// What the command line asked for.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    pub count: Option<u32>,
    pub seconds: Option<u64>,
    pub control: bool,
    pub only: Option<String>,
    pub program: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Faults injected.
    pub faults: u64,
    pub acknowledged: u64,
    pub notes: Vec<String>,
    pub violations: Vec<String>,
    pub skipped: Option<String>,
}

impl Report {
    pub fn skipped(why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::default() }
    }

    pub fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    pub fn wrong(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    pub fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(what());
        }
    }

    /// Adds what the workers saw.
    pub fn saw(&mut self, seen: Seen) {
        self.acknowledged += seen.acknowledged;
        self.violations.extend(seen.violations);
    }
}

/// An empty folder for data.
pub fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

/// A folder with the schema that the server ships, and one migration more; the version before that one.
pub fn migrations(folder: &Path, name: &str, more: Option<(&str, &str)>) -> (PathBuf, i32) {
    let target = folder.join(name);
    std::fs::create_dir(&target).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/tenant");
    let mut newest = 0;
    for entry in std::fs::read_dir(shipped).unwrap().map(|entry| entry.unwrap()) {
        let file = entry.file_name().into_string().unwrap();
        newest = newest.max(file[1..].split("__").next().unwrap().parse::<i32>().unwrap());
        std::fs::copy(entry.path(), target.join(file)).unwrap();
    }
    if let Some((name, sql)) = more {
        std::fs::write(target.join(format!("V{}__{name}.sql", newest + 1)), sql).unwrap();
    }
    (target, newest)
}

/// A file's path in a data folder.
pub fn file_of(data: &Path, tenant: &str) -> PathBuf {
    cubby::tenants::disk::path::Layout::at(data.canonicalize().unwrap()).tenant(&tenant.parse().unwrap())
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Why a fault that needs root, or a tool, cannot be injected here.
pub fn lacks(tools: &[&str], root: bool) -> Option<String> {
    if root && !is_root() {
        return Some("needs root".into());
    }
    let missing = |tool: &&&str| crate::mount::run("which", &[tool]).is_err();
    tools.iter().find(missing).map(|tool| format!("needs {tool}: apt-get install it"))
}

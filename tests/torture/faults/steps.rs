//! Power cuts at each step of creating, migrating, deleting and restoring: the command is killed at
//! its first, second, … system call that changes the disk, and the power goes with it.

use std::{path::Path, process::Command, process::Stdio};

use super::{Report, Setup, file_of, lacks};
use crate::{check, mount::Mounted, server};

/// What changes the disk.
const CALLS: &str =
    "fsync,fdatasync,syncfs,pwrite64,write,rename,renameat,renameat2,unlink,unlinkat,ftruncate,mkdir,openat";

const TENANT: &str = "user_1";

pub fn run(setup: &Setup) -> Report {
    if let Some(why) = lacks(&["mkfs.ext4", "losetup", "strace"], true) {
        return Report::skipped(why);
    }
    let mut report = Report::default();
    let disk = match Mounted::ext4(64, "errors=remount-ro") {
        Ok(disk) => disk,
        Err(why) => return Report::skipped(why),
    };
    let data = disk.path().join("data");
    let old = disk.path().join("old");
    std::fs::create_dir(&old).unwrap();
    // The first of the shipped migrations: what an older version had.
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/tenant");
    let mut entries = std::fs::read_dir(&shipped).unwrap().map(|e| e.unwrap().path());
    let first = entries.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("V1__")).unwrap();
    std::fs::copy(&first, old.join(first.file_name().unwrap())).unwrap();
    crate::mount::run("sync", &[]).unwrap();

    let stride = u64::from(setup.count.unwrap_or(1).max(1));
    for step in ["create", "migrate", "delete", "restore"] {
        let mut cuts = 0;
        for nth in (1 + setup.seed % stride..).step_by(stride as usize) {
            prepare(setup, &data, &old, step);
            let before = text_of(&data);
            let ended = killed_at(setup, &data, step, nth);
            disk.cut_power();
            disk.unmount().unwrap();
            disk.mount().unwrap();
            if ended {
                break;
            }
            cuts += 1;
            if setup.control {
                // As if a step were missing: the row says one thing, the files another.
                let _ = std::fs::remove_file(file_of(&data, TENANT));
            }
            inspect(setup, &data, step, nth, &before, &mut report);
            if report.violations.len() > 10 || (setup.control && cuts > 2) {
                break;
            }
        }
        report.faults += cuts;
        report.note(format!("{step}: cut at {cuts} steps"));
    }
    report
}

fn cubby(setup: &Setup, data: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = server::clean(&setup.program).args(arguments).arg("--data").arg(data).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What is there before the step, on the disk.
fn prepare(setup: &Setup, data: &Path, old: &Path, step: &str) {
    let _ = std::fs::remove_dir_all(data);
    let old = old.to_str().unwrap();
    // A folder that has had the newer ones is refused to the older.
    let version: &[&str] = if step == "migrate" { &["--migrations", old] } else { &[] };
    cubby(setup, data, &[&["tenants", "create", "user_0"], version].concat()).unwrap();
    if step != "create" {
        cubby(setup, data, &[&["tenants", "create", TENANT], version].concat()).unwrap();
    }
    if step != "create" {
        let conn = check::connect(&file_of(data, TENANT)).unwrap();
        conn.execute("INSERT INTO notes VALUES ('note_aaaaaaaaaaaaaaaa', 'kept', 1, 1)", []).unwrap();
    }
    if step == "restore" {
        cubby(setup, data, &["tenants", "delete", TENANT]).unwrap();
    }
    crate::mount::run("sync", &["-f", data.to_str().unwrap()]).unwrap();
}

/// Runs the step until its `nth` call. Whether it ended before.
fn killed_at(setup: &Setup, data: &Path, step: &str, nth: u64) -> bool {
    let step: &[&str] = match step {
        "create" => &["tenants", "create", TENANT],
        "migrate" => &["migrate", "--all"],
        "delete" => &["tenants", "delete", TENANT],
        _ => &["tenants", "restore", TENANT],
    };
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-P"])
        .arg(data)
        .args(paths(data).iter().flat_map(|path| ["-P".to_owned(), path.clone()]))
        .arg("-e")
        .arg(format!("trace={CALLS}"))
        .arg("-e")
        .arg(format!("inject={CALLS}:signal=KILL:when={nth}"))
        .arg(&setup.program)
        .args(step)
        .arg("--data")
        .arg(data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    status.code() == Some(0)
}

/// Only calls on these count: what a program reads at its start is no step of ours.
fn paths(data: &Path) -> Vec<String> {
    let live = file_of(data, TENANT);
    let layout = cubby::tenants::disk::path::Layout::at(data.canonicalize().unwrap());
    let trashed = layout.trashed(&TENANT.parse().unwrap());
    let mut paths = Vec::new();
    for file in [&live, &trashed, &layout.catalog(), &layout.tmp().join("0.db")] {
        for ending in ["", "-wal", "-shm"] {
            paths.push(format!("{}{ending}", file.display()));
        }
    }
    paths.push(live.parent().unwrap().display().to_string());
    paths.push(layout.trash().display().to_string());
    let log = layout.log();
    for path in [&log, &log.with_extension("discarded")] {
        paths.push(path.display().to_string());
    }
    paths
}

/// The one note, and the schema, wherever the file is. `None` without a file.
fn text_of(data: &Path) -> Option<(String, i32)> {
    let layout = cubby::tenants::disk::path::Layout::at(data.canonicalize().unwrap());
    let id = TENANT.parse().unwrap();
    let file = [layout.tenant(&id), layout.trashed(&id)].into_iter().find(|path| path.exists())?;
    let conn = check::connect(&file).ok()?;
    let text = conn.query_row("SELECT coalesce(max(text), '') FROM notes", [], |row| row.get(0)).ok()?;
    Some((text, conn.query_row("PRAGMA user_version", [], |row| row.get(0)).ok()?))
}

fn inspect(setup: &Setup, data: &Path, step: &str, nth: u64, before: &Option<(String, i32)>, report: &mut Report) {
    let at = format!("{step}, call {nth}");
    let shown = cubby(setup, data, &["tenants", "show", TENANT, "--json"]);
    let state = match &shown {
        Ok(text) => serde_json::from_str::<serde_json::Value>(text).unwrap()["state"].as_str().unwrap().to_owned(),
        Err(text) if text.contains("is unknown") => "unknown".to_owned(),
        Err(text) => return report.wrong(format!("{at}: {text}")),
    };
    let legal: &[&str] = match step {
        "create" => &["unknown", "active"],
        "migrate" => &["active"],
        _ => &["active", "deleted"],
    };
    report.expect(legal.contains(&state.as_str()), || format!("{at}: the state is {state}"));

    // Then the step is done again, and to its end.
    let done = match (step, state.as_str()) {
        ("create", _) => cubby(setup, data, &["tenants", "create", TENANT]),
        ("migrate", _) => cubby(setup, data, &["migrate", "--all"]),
        ("delete", _) => cubby(setup, data, &["tenants", "delete", TENANT])
            .and_then(|_| cubby(setup, data, &["tenants", "restore", TENANT])),
        (_, "deleted") => cubby(setup, data, &["tenants", "restore", TENANT]),
        _ => Ok(String::new()),
    };
    if let Err(why) = done {
        report.wrong(format!("{at}: not to be completed: {why}"));
    }
    report.violations.extend(check::files(data, |_| false).into_iter().map(|wrong| format!("{at}: {wrong}")));
    let after = text_of(data);
    let text = |found: &Option<(String, i32)>| found.clone().map(|(text, _)| text).unwrap_or_default();
    report.expect(text(&after) == text(before), || format!("{at}: the note is {after:?}, and was {before:?}"));
}

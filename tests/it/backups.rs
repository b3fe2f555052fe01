//! Backups: made while users are served, of what has changed, whole or known not to be, and brought back.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use cubby::{clock::Clock, tenants::disk::path::Layout};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, PATIENCE, Process, Server, cubby, eventually, run, stdout};

const ADMIN: &str = "an operator's key of some length";
const PATH: &str = "/api/admin/backups";
const DAY: i64 = 86_400_000;

/// Two folders: one for data, one above that of backups.
fn folders() -> (TempDir, TempDir) {
    (TempDir::new().unwrap(), TempDir::new().unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder with users of three notes each.
async fn filled(data: &Path, users: &[&str]) {
    let server = Server::on(data, &["--admin-api-key", ADMIN]).await;
    for user in users {
        for n in 0..3 {
            server.client.note(user, &format!("{user} {n}")).await;
        }
    }
    server.stop().await;
}

fn texts_of(user: &str) -> Vec<String> {
    (0..3).map(|n| format!("{user} {n}")).collect()
}

/// Makes all users' files old: what was written just now may be written once more within a tick of the clock.
fn age(data: &Path) {
    let layout = Layout::at(data.to_owned());
    let old = SystemTime::now() - Duration::from_secs(3600);
    for folder in layout.shards().chain([layout.trash()]) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().extension().is_some_and(|ending| ending == "db") {
                fs::File::options().write(true).open(entry.path()).unwrap().set_modified(old).unwrap();
            }
        }
    }
}

/// The report of `cubby backup` on a folder.
fn back_up(data: &Path, more: &[&str]) -> Value {
    let output = run(data, &[&["backup", "--json"][..], more].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn counts(report: &Value) -> [u64; 5] {
    ["handled", "uploaded", "same", "unchanged", "missing"].map(|name| report[name].as_u64().unwrap())
}

fn restore(from: &Path, data: &Path) -> Output {
    run(data, &["restore", "--from", text(from)])
}

/// The manifests in a folder of backups, oldest first.
fn manifests(to: &Path) -> Vec<PathBuf> {
    let folder = to.join("backup");
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path().join("manifest.json.zst")).filter(|path| path.exists()).collect();
    paths.sort();
    paths
}

/// The copies of a user's database.
fn copies(to: &Path, user: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(to.join("base").join(user));
    entries.map_or(Vec::new(), |entries| entries.map(|entry| entry.unwrap().path()).collect())
}

async fn start(operator: &Client, draft: Value) -> String {
    let reply = operator.post(PATH, draft).await.expect(202);
    let name = reply.json()["run"].as_str().unwrap().to_owned();
    assert_eq!(reply.header("location"), format!("{PATH}/{name}"));
    name
}

/// The report of a backup when it is over.
async fn over(operator: &Client, name: &str) -> Value {
    let look = async || operator.get(&format!("{PATH}/{name}")).await.expect(200).json();
    eventually("the backup is over", async || {
        let status = look().await["status"].clone();
        status != "running" && status != "stopping"
    })
    .await;
    look().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_a_backup_comes_back_and_nobody_waits_for_it() {
    let (data, above) = folders();
    let (to, new) = (above.path().join("backups"), above.path().join("new"));
    let users = ["ada", "bob", "cy:1", "dan@example.org", "eve"];
    filled(data.path(), &users).await;
    let server = Server::on(data.path(), &["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    operator.post("/api/admin/tenants/bob/suspend", json!({"reason": "x"})).await.expect(200);
    operator.delete("/api/admin/tenants/eve").await.expect(200);
    let (ends, written) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let writer = {
        let (client, ends, written) = (server.client.clone(), ends.clone(), written.clone());
        tokio::spawn(async move {
            for n in 0.. {
                let text = format!("written {n}");
                client.note("busy", &text).await;
                written.lock().unwrap().push(text);
                if ends.load(Ordering::Relaxed) {
                    return;
                }
            }
        })
    };
    eventually("somebody writes", async || !written.lock().unwrap().is_empty()).await;
    let before = written.lock().unwrap().len();
    let name = start(&operator, json!({"to": text(&to)})).await;
    let report = over(&operator, &name).await;
    let during = written.lock().unwrap().len();
    ends.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [6, 6, 0, 0, 0]), "{report}");
    let trail = operator.get(&format!("/api/admin/audit?target={name}")).await.expect(200).json();
    let lines: Vec<_> =
        trail["audit"].as_array().unwrap().iter().map(|line| (&line["action"], &line["result"])).collect();
    assert_eq!(lines, [(&json!("backup"), &json!("done")), (&json!("backup"), &json!("started"))]);
    server.stop().await;

    let listed = stdout(&run(data.path(), &["backup", "list", "--from", text(&to)]));
    assert!(listed.contains(&name), "{listed}");
    let verified = stdout(&run(data.path(), &["backup", "verify", "--from", text(&to), "--all"]));
    assert!(verified.contains("0 damaged") && verified.contains("6 databases"), "{verified}");
    assert!(stdout(&restore(&to, &new)).contains("6 users"));
    let again = restore(&to, &new);
    assert!(!again.status.success() && said(&again).contains("not empty"), "{}", said(&again));
    assert!(stdout(&run(&new, &["tenants", "restore", "eve"])).contains("eve"));
    stdout(&run(&new, &["tenants", "resume", "bob"]));
    let doctor = run(&new, &["doctor"]);
    assert!(doctor.status.success(), "{}", said(&doctor));
    let server = Server::on(&new, &[]).await;
    for user in users {
        assert_eq!(server.client.texts(user).await, texts_of(user));
    }
    let texts = server.client.texts("busy").await;
    assert!((before..=during + 1).contains(&texts.len()), "{before}, {}, {during}", texts.len());
    let expected: Vec<String> = (0..texts.len()).map(|n| format!("written {n}")).collect();
    assert_eq!(texts, expected);
    server.stop().await;
    // The restored folder goes on with the backups of the one that it was.
    assert_eq!(back_up(&new, &["--to", text(&to)])["status"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_has_not_changed_nothing_is_read_or_written() {
    let (data, above) = folders();
    let to = above.path().join("backups");
    let users = ["ada", "bob", "cy", "dan"];
    filled(data.path(), &users).await;
    stdout(&run(data.path(), &["tenants", "delete", "cy"]));
    stdout(&run(data.path(), &["tenants", "suspend", "dan", "--reason", "x"]));
    age(data.path());
    let report = back_up(data.path(), &["--to", text(&to)]);
    assert_eq!(counts(&report), [4, 4, 0, 0, 0], "{report}");
    let report = back_up(data.path(), &["--to", text(&to)]);
    assert_eq!((counts(&report), &report["bytes_read"]), ([4, 0, 0, 4, 0], &json!(0)), "{report}");

    // Another time on the same bytes: it is read, and not written again.
    age(data.path());
    let report = back_up(data.path(), &["--to", text(&to)]);
    assert_eq!(counts(&report), [4, 0, 4, 0, 0], "{report}");

    let server = Server::on(data.path(), &[]).await;
    server.client.note("ada", "more").await;
    server.stop().await;
    let report = back_up(data.path(), &["--to", text(&to)]);
    assert_eq!(counts(&report), [4, 1, 0, 3, 0], "{report}");
    assert_eq!((copies(&to, "ada").len(), copies(&to, "bob").len(), manifests(&to).len()), (2, 1, 4));

    // A copy that is gone is made good.
    age(data.path());
    back_up(data.path(), &["--to", text(&to)]);
    fs::remove_file(&copies(&to, "bob")[0]).unwrap();
    let report = back_up(data.path(), &["--to", text(&to)]);
    assert_eq!(counts(&report), [4, 1, 0, 3, 0], "{report}");

    // Where it was not finished, what it has done counts all the same.
    let new = above.path().join("new");
    let moment = fs::metadata(manifests(&to)[0].clone()).unwrap().modified().unwrap();
    let moment = humantime::format_rfc3339_seconds(moment - Duration::from_secs(3600)).to_string();
    let early = run(&new, &["restore", "--from", text(&to), "--at", &moment]);
    assert!(!early.status.success() && said(&early).contains("the oldest is"), "{}", said(&early));
    let first = manifests(&to)[0].parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    stdout(&run(&new, &["restore", "--from", text(&to), "--backup", &first]));
    let server = Server::on(&new, &[]).await;
    assert_eq!(server.client.texts("ada").await, texts_of("ada"), "as it was then");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_was_cut_is_refused() {
    let (data, above) = folders();
    let (to, new) = (above.path().join("backups"), above.path().join("new"));
    filled(data.path(), &["ada"]).await;
    back_up(data.path(), &["--to", text(&to)]);
    let manifest = manifests(&to).pop().unwrap();
    let whole = fs::read(&manifest).unwrap();
    for length in [0, 10, whole.len() / 2, whole.len() - 1] {
        fs::write(&manifest, &whole[..length]).unwrap();
        for command in ["list", "verify"] {
            let refused = run(data.path(), &["backup", command, "--from", text(&to)]);
            assert_eq!(refused.status.code(), Some(1), "{length}: {}", said(&refused));
        }
        let refused = restore(&to, &new);
        assert_eq!(refused.status.code(), Some(1), "{length}: {}", said(&refused));
        assert!(!new.exists(), "nothing was begun");
    }
    // The next one is made nevertheless.
    let report = back_up(data.path(), &["--to", text(&to)]);
    assert_eq!(report["status"], "done", "{report}");
    stdout(&restore(&to, &new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_found_by_verify_and_refused_by_restore_for_its_user_alone() {
    let (data, above) = folders();
    let (to, new) = (above.path().join("backups"), above.path().join("new"));
    filled(data.path(), &["ada", "bob", "cy"]).await;
    back_up(data.path(), &["--to", text(&to)]);
    let copy = copies(&to, "bob").pop().unwrap();
    let whole = fs::read(&copy).unwrap();
    let mut bad = whole.clone();
    bad[whole.len() / 2] ^= 1;
    fs::write(&copy, bad).unwrap();
    let found = run(data.path(), &["backup", "verify", "--from", text(&to), "--all"]);
    assert_eq!(found.status.code(), Some(1));
    assert!(said(&found).contains("  bob: ") && said(&found).contains("1 damaged"), "{}", said(&found));
    // One that is not there is found whatever the sample is.
    fs::remove_file(&copies(&to, "cy")[0]).unwrap();
    let found = run(data.path(), &["backup", "verify", "--from", text(&to), "--sample", "1%"]);
    assert!(said(&found).contains("  cy: "), "{}", said(&found));

    let restored = restore(&to, &new);
    assert_eq!(restored.status.code(), Some(1));
    assert!(said(&restored).contains("bob: ") && said(&restored).contains("cy: "), "{}", said(&restored));
    let layout = Layout::at(new.clone());
    let has_file = |user: &str| layout.tenant(&user.parse().unwrap()).exists();
    assert_eq!(["ada", "bob", "cy"].map(has_file), [true, false, false]);
    let server = Server::on(&new, &[]).await;
    assert_eq!(server.client.texts("ada").await, texts_of("ada"));
    server.stop().await;

    // Without the catalog, nothing is served.
    for copy in copies(&to, "@catalog") {
        fs::write(copy, "no catalog").unwrap();
    }
    let other = above.path().join("other");
    assert_eq!(restore(&to, &other).status.code(), Some(1));
    assert!(!other.join("catalog.db").exists());
    let refused = run(&other, &["tenants", "list"]);
    assert!(!refused.status.success() && said(&refused).contains("cut short"), "{}", said(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_cut_short_goes_on() {
    let (data, above) = folders();
    let (to, new) = (above.path().join("backups"), above.path().join("new"));
    filled(data.path(), &["ada", "bob"]).await;
    back_up(data.path(), &["--to", text(&to)]);
    let catalog = copies(&to, "@catalog").pop().unwrap();
    fs::rename(&catalog, above.path().join("away")).unwrap();
    assert_eq!(restore(&to, &new).status.code(), Some(1));
    // A power cut may leave half of what was not flushed.
    let ada = Layout::at(new.clone()).tenant(&"ada".parse().unwrap());
    fs::File::options().write(true).open(ada).unwrap().set_len(100).unwrap();
    fs::rename(above.path().join("away"), &catalog).unwrap();
    // A newer one has come meanwhile, and another one is not mixed with it.
    back_up(data.path(), &["--to", text(&to)]);
    let newest = manifests(&to).pop().unwrap().parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let refused = run(&new, &["restore", "--from", text(&to), "--backup", &newest]);
    assert!(!refused.status.success() && said(&refused).contains("something else"), "{}", said(&refused));
    let done = run(&new, &["restore", "--from", text(&to), "--json"]);
    let done: Value = serde_json::from_str(&stdout(&done)).unwrap();
    assert_eq!((&done["users"], &done["already_there"]), (&json!(2), &json!(1)), "{done}");
    let server = Server::on(&new, &[]).await;
    assert_eq!(server.client.texts("ada").await, texts_of("ada"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_backups_are_removed_with_what_only_they_have() {
    let above = TempDir::new().unwrap();
    let to = above.path().join("backups");
    let began = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let now = Arc::new(AtomicI64::new(began));
    let read = now.clone();
    let clock = Clock::new(move || read.load(Ordering::Relaxed));
    let server = Server::at(&clock, &["--admin-api-key".to_owned(), ADMIN.to_owned()]).await;
    let operator = server.client.bearing(ADMIN);
    server.client.note("still", "x").await;
    for day in 1..=5 {
        server.client.note("ada", &format!("day {day}")).await;
        now.fetch_add(DAY, Ordering::Relaxed);
        let name = start(&operator, json!({"to": text(&to), "keep": "2d"})).await;
        let report = over(&operator, &name).await;
        let removed = u64::from(day > 2);
        assert_eq!((&report["status"], &report["removed"]), (&json!("done"), &json!(removed)), "{report}");
    }
    let left = [manifests(&to).len(), copies(&to, "ada").len(), copies(&to, "still").len()];
    assert_eq!(left, [2, 2, 1]);
    // All that is named is there.
    let verified = run(&server.data(), &["backup", "verify", "--from", text(&to), "--all"]);
    assert!(verified.status.success(), "{}", said(&verified));

    // While somebody else makes one there, everything stays.
    fs::create_dir_all(to.join("running")).unwrap();
    let future = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(began + 9 * DAY).unwrap());
    fs::write(to.join("running/20261123T071500Z-abcdefgh"), "{}").unwrap();
    let other = fs::File::options().write(true).open(to.join("running/20261123T071500Z-abcdefgh")).unwrap();
    other.set_modified(future).unwrap();
    now.fetch_add(DAY, Ordering::Relaxed);
    let name = start(&operator, json!({"to": text(&to), "keep": "1d"})).await;
    assert_eq!(over(&operator, &name).await["removed"], 0);
    assert_eq!(manifests(&to).len(), 3);

    // And while a list that stays cannot be read.
    fs::remove_file(to.join("running/20261123T071500Z-abcdefgh")).unwrap();
    let newest = manifests(&to).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    fs::write(&newest, &whole[..whole.len() / 2]).unwrap();
    now.fetch_add(DAY, Ordering::Relaxed);
    let name = start(&operator, json!({"to": text(&to), "keep": "2d"})).await;
    let report = over(&operator, &name).await;
    assert_eq!((&report["status"], &report["removed"]), (&json!("done"), &json!(0)), "{report}");
    assert!(report["why"].as_str().unwrap().contains("could not be removed"), "{report}");
    assert_eq!(manifests(&to).len(), 4);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_is_gone_on_with() {
    let (data, above) = folders();
    let (to, new) = (above.path().join("backups"), above.path().join("new"));
    let names: Vec<String> = (0..150).map(|n| format!("user_{n:03}")).collect();
    {
        let server = Server::on(data.path(), &[]).await;
        for name in &names {
            server.client.note(name, name).await;
        }
        server.stop().await;
    }
    age(data.path());
    let server = Process::start(data.path(), &["--admin-api-key", ADMIN]);
    let operator = server.client.bearing(ADMIN);
    let name = start(&operator, json!({"to": text(&to)})).await;
    eventually("some are done", async || {
        let report = operator.get(&format!("{PATH}/{name}")).await.expect(200).json();
        report["handled"].as_u64().unwrap() >= 20
    })
    .await;
    server.kill();

    let report = back_up(data.path(), &["--to", text(&to)]);
    let [handled, uploaded, same, unchanged, missing] = counts(&report);
    assert_eq!((&report["status"], handled, missing), (&json!("done"), 150, 0), "{report}");
    assert!(same + unchanged >= 20 && uploaded <= 130, "{report}");
    let all: BTreeSet<_> = names.iter().map(|name| copies(&to, name).len()).collect();
    assert_eq!(all, BTreeSet::from([1]), "each once");
    assert!(!data.path().join("backup.db").exists());
    stdout(&restore(&to, &new));
    let server = Server::on(&new, &[]).await;
    for name in &names {
        assert_eq!(server.client.texts(name).await, [name.as_str()]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_which_is_stopped_when_it_is_asked_to() {
    let above = TempDir::new().unwrap();
    let to = above.path().join("backups");
    let server = Server::with(&["--admin-api-key", ADMIN, "--open-timeout", "60s"]).await;
    let operator = server.client.bearing(ADMIN);
    for user in ["ada", "held"] {
        server.client.note(user, "x").await;
    }
    // The copy waits for the readers of its database.
    let held = server.app.store().lease(&"held".parse().unwrap()).await.unwrap();
    let (mut ends, mut readers) = (Vec::new(), Vec::new());
    for _ in 0..READERS {
        let (end, ended) = mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        ends.push(end);
        let held = held.clone();
        readers.push(tokio::spawn(async move {
            let read = held.read_long(PATIENCE, move |_| {
                let _ = begun.send(());
                let _ = ended.recv();
                Ok(())
            });
            read.await
        }));
        has_begun.await.unwrap();
    }
    let name = start(&operator, json!({"to": text(&to)})).await;
    eventually("the other is done", async || {
        operator.get(&format!("{PATH}/{name}")).await.expect(200).json()["handled"] == 1
    })
    .await;
    let refused = operator.post(PATH, json!({"to": text(&to)})).await.expect(409);
    assert_eq!(refused.code(), "backup_running");
    assert!(refused.json()["detail"].as_str().unwrap().contains(&name));
    let overview = operator.get(PATH).await.expect(200).json();
    assert_eq!((&overview["run"]["run"], &overview["last"]), (&json!(name), &json!([])));
    let stopped = operator.delete(&format!("{PATH}/{name}")).await.expect(200).json();
    assert_eq!(stopped["status"], "stopped", "{stopped}");
    assert_eq!(operator.delete(&format!("{PATH}/{name}")).await.expect(409).code(), "backup_not_running");
    assert_eq!(manifests(&to), Vec::<PathBuf>::new(), "without a list it is none");
    drop(ends);
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
    drop(held);
    let name = start(&operator, json!({"to": text(&to)})).await;
    let report = over(&operator, &name).await;
    assert_eq!((&report["status"], counts(&report)[1]), (&json!("done"), 1), "ada was there: {report}");
    operator.get(&format!("{PATH}/nobody")).await.expect(404);
    for draft in [
        json!({"to": "relative"}),
        json!({"to": "ftp://host"}),
        json!({"to": text(&to), "keep": "7"}),
        json!({"two": "x"}),
        json!({}),
    ] {
        let refused = operator.post(PATH, draft.clone()).await;
        assert!([400, 422].contains(&refused.status), "{draft}: {}", refused.status);
    }
    server.client.post(PATH, json!({"to": text(&to)})).await.expect(401);
    server.stop().await;
}

/// Long reads of one user at once.
const READERS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_makes_them_by_itself_and_not_anew_at_each_start() {
    let (data, above) = folders();
    let to = above.path().join("backups");
    filled(data.path(), &["ada"]).await;
    let flags = ["--admin-api-key", ADMIN, "--backup-to", text(&to), "--backup-every", "1h"];
    let server = Process::start(data.path(), &flags);
    let operator = server.client.bearing(ADMIN);
    let last = async |operator: &Client| operator.get(PATH).await.expect(200).json()["last"].clone();
    eventually("the first is made", async || last(&operator).await[0]["status"] == "done").await;
    assert_eq!(last(&operator).await[0]["by"], "schedule");
    drop(server);

    let server = Process::start(data.path(), &flags);
    let operator = server.client.bearing(ADMIN);
    eventually("it was looked when the newest was made", async || {
        let metrics = String::from_utf8(operator.get("/metrics").await.expect(200).body).unwrap();
        metrics.lines().any(|line| line.starts_with("cubby_backup_newest_timestamp_seconds "))
    })
    .await;
    let overview = operator.get(PATH).await.expect(200).json();
    assert_eq!((&overview["run"], &overview["last"]), (&Value::Null, &json!([])));
    // By hand, from the command line, where the server's go.
    let mut command = cubby();
    command.args(["backup", "--json", "--data"]).arg(data.path());
    command.env("CUBBY_URL", format!("http://{}", server.address)).env("ADMIN_API_KEY", ADMIN);
    let report: Value = serde_json::from_str(&stdout(&command.output().unwrap())).unwrap();
    assert_eq!((&report["status"], &report["by"]), (&json!("done"), &json!("operator, 127.0.0.1")));
    assert_eq!(manifests(&to).len(), 1, "the newest of a day is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_with_a_key_need_it_and_another_folders_place_is_refused() {
    let (data, above) = folders();
    let (to, new) = (above.path().join("backups"), above.path().join("new"));
    filled(data.path(), &["ada"]).await;
    let key = above.path().join("key");
    fs::write(&key, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n").unwrap();
    let with_key = ["--replicate-key", text(&key)];
    back_up(data.path(), &[&["--to", text(&to)][..], &with_key].concat());
    for path in copies(&to, "ada") {
        assert!(text(&path).ends_with(".sealed"), "{}", path.display());
    }
    let refused = restore(&to, &new);
    assert!(!refused.status.success() && said(&refused).contains("CUBBY_REPLICATE_KEY"), "{}", said(&refused));
    stdout(&run(data.path(), &[&["backup", "verify", "--all", "--from", text(&to)][..], &with_key].concat()));
    stdout(&run(&new, &[&["restore", "--from", text(&to)][..], &with_key].concat()));
    let server = Server::on(&new, &[]).await;
    assert_eq!(server.client.texts("ada").await, texts_of("ada"));
    server.stop().await;

    let other = TempDir::new().unwrap();
    filled(other.path(), &["bob"]).await;
    let report = back_up(other.path(), &[&["--to", text(&to)][..], &with_key].concat());
    assert_eq!(report["status"], "failed");
    assert!(report["why"].as_str().unwrap().contains("another data folder"), "{report}");
    let nothing = run(&new, &["backup", "list", "--from", text(&above.path().join("not-there"))]);
    assert!(!nothing.status.success() && said(&nothing).contains("no folder"), "{}", said(&nothing));
    assert!(!above.path().join("not-there").exists());
}

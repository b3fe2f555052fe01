//! Migrations of all users by a running server: a few first, stopped by failures, paused, resumed, cut short.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use cubby::tenants::options::shipped_schema;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    harness::{Client, Process, Reply, Server, cubby, eventually, migrations, run, stdout},
    migrations::{UNIQUE, file, folder_with, shown, v1},
};

const ADMIN: &str = "an operator's key of some length";
const PATH: &str = "/api/admin/migrations";

/// Takes a second or so on a file with this note.
pub const SLOW: (&str, &str) = (
    "V3__slow.sql",
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 4000000)
        UPDATE notes SET text = (SELECT max(x) FROM n) WHERE text = 'slow';",
);

async fn start(operator: &Client, query: &str) -> Value {
    let reply = operator.post(&format!("{PATH}?{query}"), json!({})).await.expect(202);
    let report = reply.json();
    assert_eq!(reply.header("location"), format!("{PATH}/{}", report["run"].as_str().unwrap()));
    report
}

fn at(report: &Value, verb: &str) -> String {
    format!("{PATH}/{}{verb}", report["run"].as_str().unwrap())
}

async fn look(operator: &Client, report: &Value) -> Value {
    operator.get(&at(report, "")).await.expect(200).json()
}

/// The report of a run that is over.
async fn over(operator: &Client, report: &Value) -> Value {
    eventually("the run is over", async || {
        let status = look(operator, report).await["status"].clone();
        status != "running" && status != "pausing"
    })
    .await;
    look(operator, report).await
}

fn counts(report: &Value) -> [u64; 5] {
    ["handled", "migrated", "already_current", "failed", "still_quarantined"].map(|name| report[name].as_u64().unwrap())
}

async fn schema_of(operator: &Client, user: &str) -> Value {
    operator.get(&format!("/api/admin/tenants/{user}")).await.expect(200).json()["schema_version"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_users_are_migrated_while_they_are_served() {
    let names: Vec<String> = (0..30).map(|n| format!("user_{n:02}")).collect();
    let users: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &["x"][..])).collect();
    let folder = folder_with(v1(), &users).await;
    let server = Server::on(folder.path(), &["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    // Open, so it is migrated already, and its requests need not wait.
    assert_eq!(server.client.texts("user_07").await, ["x"]);
    let before = operator.get(PATH).await.expect(200).json();
    assert_eq!((&before["schema"], &before["run"]), (&json!(2), &Value::Null));

    let report = over(&operator, &start(&operator, "canary=3&jobs=3").await).await;
    assert_eq!((&report["status"], &report["canaries"], &report["phase"]), (&json!("done"), &json!(3), &json!("all")));
    // Whether the catalog knew already of the one that was open is a matter of time.
    let [handled, migrated, current, failed, _] = counts(&report);
    assert_eq!((migrated, migrated + current, failed), (29, handled, 0), "{report}");
    assert_eq!(report["total"], handled, "{report}");
    let after = operator.get(PATH).await.expect(200).json();
    assert_eq!(after["schemas"], json!([{"schema": 2, "users": 30, "quarantined": 0}]));
    assert_eq!(after["run"], report);
    assert_eq!(server.client.texts("user_29").await, ["x"]);

    // Nobody is left.
    let again = over(&operator, &start(&operator, "").await).await;
    assert_eq!((counts(&again), &again["status"]), ([0; 5], &json!("done")));
    let trail = operator.get("/api/admin/audit").await.expect(200).json();
    let lines: Vec<_> =
        trail["audit"].as_array().unwrap().iter().map(|line| (&line["action"], &line["result"])).collect();
    let (action, done, started) = (json!("migrate"), json!("done"), json!("started"));
    assert_eq!(
        lines,
        [(&action, &done), (&action, &started), (&action, &done), (&action, &started)],
        "a run is one change"
    );
    server.stop().await;
}

/// A server whose new migration fails for some users.
async fn with_bad_ones(users: &[&str], bad: &[&str]) -> (TempDir, TempDir, Server) {
    let texts = |user: &&str| -> &[&str] { if bad.contains(user) { &["same", "same"] } else { &["x"] } };
    let users: Vec<(&str, &[&str])> = users.iter().map(|user| (*user, texts(user))).collect();
    let folder = folder_with(shipped_schema().unwrap(), &users).await;
    let custom = migrations(&[UNIQUE]);
    let flags = ["--migrations", custom.path().to_str().unwrap(), "--admin-api-key", ADMIN];
    let server = Server::on(folder.path(), &flags).await;
    (folder, custom, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_among_the_first_stops_the_run_until_it_is_resumed() {
    let (_folder, _custom, server) = with_bad_ones(&["ada", "bad", "cy"], &["bad"]).await;
    let operator = server.client.bearing(ADMIN);
    let started = start(&operator, "canary=3&jobs=1").await;
    let report = over(&operator, &started).await;
    assert_eq!((&report["status"], &report["phase"]), (&json!("stopped"), &json!("canary")), "{report}");
    assert_eq!(report["reason"], "1 of the first 2 failed");
    assert_eq!(counts(&report), [2, 1, 0, 1, 0]);
    let failure = &report["failures"][0];
    assert_eq!((&failure["count"], &failure["tenants"]), (&json!(1), &json!(["bad"])));
    assert!(failure["error"].as_str().unwrap().contains("UNIQUE constraint failed"), "{report}");
    assert_eq!(schema_of(&operator, "cy").await, 2, "not begun");

    operator.post(&at(&report, "/resume"), json!({})).await.expect(202);
    let report = over(&operator, &started).await;
    assert_eq!((&report["status"], &report["reason"]), (&json!("done"), &Value::Null), "{report}");
    assert_eq!(counts(&report), [3, 2, 0, 1, 0], "who was quarantined is tried again, and counted once");
    assert_eq!((&report["total"], &report["failures"][0]["tenants"]), (&json!(3), &json!(["bad"])), "{report}");
    assert_eq!(schema_of(&operator, "cy").await, 3);
    assert_eq!(operator.post(&at(&report, "/resume"), json!({})).await.expect(409).code(), "migration_not_resumable");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_failures_stop_the_run() {
    let (_folder, _custom, server) = with_bad_ones(&["u0", "u1", "u2", "u3", "u4"], &["u0", "u1"]).await;
    let operator = server.client.bearing(ADMIN);
    let started = start(&operator, "canary=0&jobs=1&max_failures=1").await;
    assert_eq!(started["options"], json!({"canary": 0, "jobs": 1, "max_failures": "1"}));
    let report = over(&operator, &started).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("stopped"), [2, 0, 0, 2, 0]), "{report}");
    assert_eq!(report["reason"], "2 of 2 failed, more than max_failures (1) allows");
    operator.post(&at(&report, "/resume"), json!({})).await.expect(202);
    let report = over(&operator, &started).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [5, 3, 0, 2, 0]), "{report}");
    let schemas = operator.get(PATH).await.expect(200).json()["schemas"].clone();
    assert_eq!(
        schemas,
        json!([{"schema": 2, "users": 2, "quarantined": 2}, {"schema": 3, "users": 3, "quarantined": 0}])
    );
    server.stop().await;
}

pub async fn slow_folder() -> (TempDir, TempDir) {
    let texts: [(&str, &[&str]); 4] = [("t0", &["quick"]), ("t1", &["slow"]), ("t2", &["quick"]), ("t3", &["quick"])];
    (folder_with(shipped_schema().unwrap(), &texts).await, migrations(&[SLOW]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_paused_and_resumed_and_there_is_one_at_a_time() {
    let (folder, custom) = slow_folder().await;
    let flags = ["--migrations", custom.path().to_str().unwrap(), "--admin-api-key", ADMIN];
    let server = Server::on(folder.path(), &flags).await;
    let operator = server.client.bearing(ADMIN);
    let started = start(&operator, "canary=0&jobs=1").await;
    eventually("the slow one is under way", async || look(&operator, &started).await["handled"] == 1).await;
    assert_eq!(operator.post(PATH, json!({})).await.expect(409).code(), "migration_running");
    assert_eq!(operator.post(&at(&started, "/resume"), json!({})).await.expect(409).code(), "migration_not_resumable");
    operator.post(&at(&started, "/pause"), json!({})).await.expect(200);
    let report = over(&operator, &started).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("paused"), [2, 2, 0, 0, 0]), "what was begun is finished");
    assert_eq!(schema_of(&operator, "t2").await, 2);
    assert_eq!(operator.post(&at(&started, "/pause"), json!({})).await.expect(409).code(), "migration_not_running");

    operator.post(&at(&started, "/resume"), json!({})).await.expect(202);
    let report = over(&operator, &started).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [4, 4, 0, 0, 0]), "{report}");
    let newer = over(&operator, &start(&operator, "").await).await;
    assert_eq!(look(&operator, &started).await, report, "older runs are remembered");
    assert_eq!(operator.post(&at(&started, "/resume"), json!({})).await.expect(409).code(), "migration_not_resumable");
    assert_ne!(newer["run"], report["run"]);
    for verb in ["", "/pause", "/resume"] {
        let path = format!("{PATH}/run_nobody{verb}");
        let reply = if verb.is_empty() { operator.get(&path).await } else { operator.post(&path, json!({})).await };
        assert_eq!(reply.expect(404).code(), "not_found");
        assert!([401, 404, 405].contains(&server.client.get(&path).await.status));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_cut_short_goes_on_where_it_was_and_only_when_told_to() {
    let (folder, custom) = slow_folder().await;
    let flags = ["--migrations", custom.path().to_str().unwrap(), "--admin-api-key", ADMIN];
    let process = Process::start(folder.path(), &flags);
    let operator = process.client.bearing(ADMIN);
    let started = start(&operator, "canary=0&jobs=1").await;
    eventually("the slow one is under way", async || look(&operator, &started).await["handled"] == 1).await;
    process.kill();

    let process = Process::start(folder.path(), &flags);
    let operator = process.client.bearing(ADMIN);
    assert_eq!(look(&operator, &started).await["status"], "interrupted");
    assert_eq!(schema_of(&operator, "t3").await, 2, "nothing goes on by itself");
    operator.post(&at(&started, "/resume"), json!({})).await.expect(202);
    let report = over(&operator, &started).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [4, 4, 0, 0, 0]), "what it did is counted");
    let schemas = operator.get(PATH).await.expect(200).json()["schemas"].clone();
    assert_eq!(schemas, json!([{"schema": 3, "users": 4, "quarantined": 0}]));
}

/// From now on the catalog refuses these updates.
pub async fn refuse(server: &Server, updates: &str) {
    let sql = format!("CREATE TRIGGER refused BEFORE UPDATE {updates} BEGIN SELECT RAISE(ABORT, 'refused'); END");
    server.app.store().catalog().write(move |tx| tx.execute_batch(&sql)).await.unwrap();
}

pub async fn refuse_no_more(server: &Server) {
    server.app.store().catalog().write(|tx| tx.execute_batch("DROP TRIGGER refused")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_not_done_while_somebody_is_left_who_failed_and_is_not_quarantined() {
    let users: [(&str, &[&str]); 4] = [("t0", &["x"]), ("t1", &["x"]), ("t2", &["x"]), ("t3", &["x"])];
    let folder = folder_with(v1(), &users).await;
    let server = Server::on(folder.path(), &["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    refuse(&server, "OF schema_version ON tenants WHEN new.id = 't1'").await;
    let started = start(&operator, "canary=0&jobs=1&max_failures=5").await;
    let report = over(&operator, &started).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("stopped"), [4, 3, 0, 1, 0]), "counted once: {report}");
    assert_eq!((&report["failures"][0]["count"], &report["failures"][0]["tenants"]), (&json!(1), &json!(["t1"])));
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.starts_with("somebody is left who is not quarantined: t1 ("), "{reason}");
    assert!(reason.contains("refused"), "{reason}");
    assert_eq!((&report["after"], &report["total"]), (&json!("t3"), &json!(4)));

    let path = at(&report, "/resume");
    assert_eq!(operator.post(&path, json!({})).await.expect(202).json()["total"], 5, "one is left");
    let report = over(&operator, &started).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("stopped"), [4, 3, 0, 1, 0]), "{report}");
    assert_eq!(report["total"], 4, "{report}");

    refuse_no_more(&server).await;
    operator.post(&path, json!({})).await.expect(202);
    let report = over(&operator, &started).await;
    assert_eq!((&report["status"], &report["reason"]), (&json!("done"), &Value::Null), "{report}");
    // Its file was migrated, and the catalog did not know.
    assert_eq!(counts(&report), [4, 3, 1, 0, 0]);
    assert_eq!((&report["total"], &report["failures"]), (&json!(4), &json!([])), "{report}");
    let schemas = operator.get(PATH).await.expect(200).json()["schemas"].clone();
    assert_eq!(schemas, json!([{"schema": 2, "users": 4, "quarantined": 0}]), "nobody is left");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_once_and_not_again_has_not_failed() {
    let users: [(&str, &[&str]); 4] = [("t0", &["x"]), ("t1", &["x"]), ("t2", &["x"]), ("t3", &["x"])];
    let folder = folder_with(v1(), &users).await;
    let server = Server::on(folder.path(), &["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    // Until all others have the schema.
    let once = "OF schema_version ON tenants WHEN new.id IN ('t1', 't2')
        AND (SELECT count(*) FROM tenants WHERE schema_version = 2) < 2";
    refuse(&server, once).await;
    let report = over(&operator, &start(&operator, "canary=0&jobs=1&max_failures=5").await).await;
    assert_eq!((&report["status"], &report["reason"]), (&json!("done"), &Value::Null), "{report}");
    // Their files were migrated, and the catalog did not know.
    assert_eq!(counts(&report), [4, 2, 2, 0, 0], "{report}");
    assert_eq!((&report["total"], &report["failures"]), (&json!(4), &json!([])), "{report}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_be_recorded_is_told_and_recorded_later() {
    let (folder, custom, server) = with_bad_ones(&["ada", "bad", "cy"], &["bad"]).await;
    let operator = server.client.bearing(ADMIN);
    refuse(&server, "ON migration_runs WHEN new.ended IS NOT NULL").await;
    let started = start(&operator, "canary=3&jobs=1").await;
    let report = over(&operator, &started).await;
    let (stopped, why) = (json!("stopped"), json!("1 of the first 2 failed"));
    assert_eq!((&report["status"], &report["reason"]), (&stopped, &why), "{report}");
    assert_eq!(operator.get(PATH).await.expect(200).json()["run"], report);
    for path in [PATH.to_owned(), at(&report, "/resume")] {
        let refused = operator.post(&path, json!({})).await;
        assert!(refused.status >= 500, "{path}: nothing can be recorded, {}", refused.status);
    }
    assert_eq!(look(&operator, &started).await, report);

    refuse_no_more(&server).await;
    for _ in 0..2 {
        assert_eq!(look(&operator, &started).await, report);
    }
    let trail = operator.get("/api/admin/audit").await.expect(200).json();
    let lines = trail["audit"].as_array().unwrap();
    let lines: Vec<_> =
        lines.iter().map(|line| &line["result"]).filter(|result| !result.to_string().contains("500")).collect();
    assert_eq!(lines, [&stopped, &json!("started")], "once");
    server.stop().await;
    let flags = ["migrate", "status", "--json", "--migrations", custom.path().to_str().unwrap()];
    let overview: Value = serde_json::from_str(&stdout(&run(folder.path(), &flags))).unwrap();
    assert_eq!(overview["run"], report, "it is in the catalog");
}

/// Takes minutes on a file with this note.
const ENDLESS: (&str, &str) = (
    "V3__slow.sql",
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 4000000000)
        UPDATE notes SET text = (SELECT max(x) FROM n) WHERE text = 'slow';",
);

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_one_keeps_no_other_back_and_a_server_that_ends_does_not_wait_for_it() {
    let texts: [(&str, &[&str]); 5] =
        [("t0", &["quick"]), ("t1", &["slow"]), ("t2", &["quick"]), ("t3", &["quick"]), ("t4", &["quick"])];
    let folder = folder_with(shipped_schema().unwrap(), &texts).await;
    let endless = migrations(&[ENDLESS]);
    let flags = ["--migrations", endless.path().to_str().unwrap(), "--admin-api-key", ADMIN];
    let server = Server::on(folder.path(), &[&flags[..], &["--drain-timeout", "100s"]].concat()).await;
    let operator = server.client.bearing(ADMIN);
    let started = start(&operator, "canary=0&jobs=2").await;
    eventually("all others are done", async || look(&operator, &started).await["handled"] == 4).await;
    let began = std::time::Instant::now();
    server.stop().await;
    assert!(began.elapsed().as_secs() < 50, "it does not wait for the deadline");
    let status = run(folder.path(), &["migrate", "status", "--json", "--migrations", flags[1]]);
    let overview: Value = serde_json::from_str(&stdout(&status)).unwrap();
    assert_eq!((&overview["run"]["status"], counts(&overview["run"])), (&json!("interrupted"), [4, 4, 0, 0, 0]));
    assert_eq!(overview["run"]["total"], 5);

    // It may be resumed, and goes on with whom it has left.
    let server = Server::on(folder.path(), &flags).await;
    let operator = server.client.bearing(ADMIN);
    assert_eq!(schema_of(&operator, "t1").await, 2);
    let path = at(&started, "/resume");
    let (one, other) = tokio::join!(operator.post(&path, json!({})), operator.post(&path, json!({})));
    let mut codes = [one.status, other.status];
    codes.sort_unstable();
    assert_eq!(codes, [202, 409], "one of two");
    assert_eq!(counts(&look(&operator, &started).await), [4, 4, 0, 0, 0]);
    server.stop().await;
}

/// Whether a process has this file open, and ends no more when it gets SIGTERM or SIGINT for the first time.
fn is_at(process: u32, file: &Path) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let both = (1 << (15 - 1)) | (1 << (2 - 1));
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
    u64::from_str_radix(caught.trim(), 16).unwrap() & both == both
        && open.map(|entry| std::fs::read_link(entry.path())).any(|link| link.is_ok_and(|link| link == file))
}

#[tokio::test]
async fn a_second_signal_ends_a_command_at_once_whatever_it_waits_for() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["slow"])]).await;
    let endless = migrations(&[ENDLESS]);
    let flags = ["--migrations", endless.path().to_str().unwrap()];
    let mut command = cubby();
    command.args(["migrate", "--all"]).args(flags).arg("--data").arg(folder.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let file = file(folder.path(), "ada");
    eventually("the slow one is under way", async || is_at(child.id(), &file)).await;
    // Two that come together may be one.
    let mut ended = None;
    eventually("it ends", async || {
        for signal in ["-TERM", "-INT"] {
            assert!(Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap().success());
        }
        ended = child.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    assert_eq!(ended.unwrap().code(), Some(130));
    assert_eq!(shown(folder.path(), "ada", &flags)["schema_version"], 2, "its file is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_just_before_a_kill_is_counted() {
    let texts: [(&str, &[&str]); 4] =
        [("t0", &["quick"]), ("t1", &["same", "same"]), ("t2", &["slow"]), ("t3", &["quick"])];
    let folder = folder_with(shipped_schema().unwrap(), &texts).await;
    let custom = migrations(&[UNIQUE, ("V4__slow.sql", ENDLESS.1)]);
    let flags = ["--migrations", custom.path().to_str().unwrap(), "--admin-api-key", ADMIN];
    let process = Process::start(folder.path(), &flags);
    let operator = process.client.bearing(ADMIN);
    let started = start(&operator, "canary=0&jobs=1&max_failures=5").await;
    eventually("the slow one is under way", async || look(&operator, &started).await["handled"] == 2).await;
    process.kill();

    let process = Process::start(folder.path(), &flags);
    let operator = process.client.bearing(ADMIN);
    let report = look(&operator, &started).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("interrupted"), [2, 1, 0, 1, 0]), "{report}");
    assert_eq!((&report["total"], report["failures"].as_array().unwrap().len()), (&json!(4), 1), "{report}");
    let failure = &report["failures"][0];
    assert_eq!((&failure["count"], &failure["tenants"]), (&json!(1), &json!(["t1"])));
    assert!(failure["error"].as_str().unwrap().contains("UNIQUE constraint failed"), "{report}");

    let resumed = operator.post(&at(&started, "/resume"), json!({})).await.expect(202).json();
    assert_eq!(counts(&resumed), [2, 1, 0, 1, 0], "{resumed}");
    let now = look(&operator, &started).await;
    assert_eq!((&now["failed"], &now["failures"]), (&json!(1), &report["failures"]), "once: {now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_canary_is_of_those_who_can_be_migrated() {
    let names: Vec<String> = (0..3).map(|n| format!("a_{n}")).chain((0..9).map(|n| format!("bad_{n}"))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (_folder, _custom, server) = with_bad_ones(&names, &names[3..]).await;
    let operator = server.client.bearing(ADMIN);
    for bad in &names[3..] {
        operator.post(&format!("/api/admin/tenants/{bad}/migrate"), json!({})).await.expect(409);
    }
    let report = over(&operator, &start(&operator, "canary=2").await).await;
    assert_eq!((&report["status"], &report["canaries"]), (&json!("done"), &json!(2)), "{report}");
    assert_eq!(counts(&report), [12, 3, 0, 0, 9]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_counted_when_the_progress_cannot_be_recorded() {
    let texts: [(&str, &[&str]); 4] = [("t0", &["slow"]), ("t1", &["slow"]), ("t2", &["slow"]), ("t3", &["slow"])];
    let folder = folder_with(shipped_schema().unwrap(), &texts).await;
    let custom = migrations(&[SLOW]);
    let flags = ["--migrations", custom.path().to_str().unwrap(), "--admin-api-key", ADMIN];
    let server = Server::on(folder.path(), &flags).await;
    let refuse = "CREATE TRIGGER refused BEFORE UPDATE ON migration_runs WHEN new.ended IS NULL AND
        new.report NOT LIKE '%\"handled\":0,%' BEGIN SELECT RAISE(ABORT, 'refused'); END";
    server.app.store().catalog().write(move |tx| tx.execute_batch(refuse)).await.unwrap();
    let operator = server.client.bearing(ADMIN);
    let report = over(&operator, &start(&operator, "canary=0&jobs=2").await).await;
    assert_eq!(report["status"], "stopped", "{report}");
    let [handled, migrated, ..] = counts(&report);
    assert_eq!(handled, migrated, "{report}");
    let schemas = operator.get(PATH).await.expect(200).json()["schemas"].clone();
    let newest = schemas.as_array().unwrap().iter().find(|share| share["schema"] == 3).unwrap();
    assert_eq!(newest["users"], json!(handled), "all that are done are counted: {report}");
    server.stop().await;
}

#[tokio::test]
async fn a_run_that_cannot_be_is_refused() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    server.client.post(PATH, json!({})).await.expect(401);
    for query in ["jobs=0", "jobs=65", "canary=-1", "canary=100001", "max_failures=x", "max_failures=101%25"] {
        operator.post(&format!("{PATH}?{query}"), json!({})).await.expect(400);
    }
    assert_eq!(operator.post(&format!("{PATH}?canry=1"), json!({})).await.expect(422).json()["field"], "canry");
    assert_eq!(operator.get(PATH).await.expect(200).json()["run"], Value::Null);
    server.stop().await;
}

fn ask(data: &Path, server: &Process, arguments: &[&str]) -> Output {
    let mut command = cubby();
    command.args(arguments).arg("--data").arg(data);
    command.env("CUBBY_URL", format!("http://{}", server.address)).env("ADMIN_API_KEY", ADMIN).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_has_a_running_server_migrate() {
    let users: [(&str, &[&str]); 4] = [("ada", &["x"]), ("bad", &["same", "same"]), ("cy", &["x"]), ("di", &["x"])];
    let folder = folder_with(shipped_schema().unwrap(), &users).await;
    let custom = migrations(&[UNIQUE]);
    let flags = ["--migrations", custom.path().to_str().unwrap(), "--admin-api-key", ADMIN];
    let server = Process::start(folder.path(), &flags);
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();

    assert_eq!(ask(folder.path(), &server, &["migrate", "resume"]).status.code(), Some(1), "there is no run");
    let one = stdout(&ask(folder.path(), &server, &["migrate", "ada"]));
    assert_eq!(one, "schema 3: 1 migrated, 0 were there already, 0 failed\n");
    let some = ask(folder.path(), &server, &["migrate", "ada", "bad", "nobody"]);
    let told = text(&some);
    assert_eq!(some.status.code(), Some(1), "{told}");
    assert!(told.contains("0 migrated, 1 were there already, 2 failed"), "{told}");
    assert!(told.contains("bad: ") && told.contains("UNIQUE constraint failed") && told.contains("nobody: "), "{told}");

    let all = ask(folder.path(), &server, &["migrate", "--all", "--canary", "1"]);
    assert_eq!(all.status.code(), Some(1), "one is still quarantined: {all:?}");
    let told = text(&all);
    assert!(told.contains(" is done: ") && told.contains("2 migrated"), "{told}");
    assert!(told.contains("1 were quarantined before, and still are"), "{told}");
    let status = stdout(&ask(folder.path(), &server, &["migrate", "status"]));
    assert!(status.contains("the newest schema is 3") && status.contains(" is done: "), "{status}");
    let again = ask(folder.path(), &server, &["migrate", "--all", "--json"]);
    let report: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [1, 0, 0, 0, 1]));

    let dry = ask(folder.path(), &server, &["migrate", "--all", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&dry.stderr).contains("needs the data folder for itself"), "{dry:?}");
    let mixed = ask(folder.path(), &server, &["migrate", "--all", "status"]);
    assert_eq!(mixed.status.code(), Some(2), "{mixed:?}");
    let _: Reply = server.client.get("/healthz").await.expect(200);
}

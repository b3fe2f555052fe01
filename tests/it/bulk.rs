//! One change of many users: no more than were confirmed, told truthfully, stopped when asked to.

mod confirmation;
mod unrecorded;

use std::{
    io::Write,
    path::Path,
    process::{Output, Stdio},
};

use cubby::{
    Store,
    catalog::{
        model::{Profile, State},
        queries,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    harness::{Client, Process, Server, blocked::Blocked, cubby, eventually, run, stdout, terminal::Terminal},
    rollout::slow_folder,
};

pub const ADMIN: &str = "an operator's key of some length";
const PATH: &str = "/api/admin/bulk";
const DRY: &str = "/api/admin/bulk?dry_run=true";

/// Users without files, `prefix_0000` and so on: what is not opened is not missed.
pub async fn fill(store: &Store, prefix: &str, count: u32) {
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})
         INSERT INTO tenants (id, state, created) SELECT printf('{prefix}_%04d', i), 'active', 1000 + i FROM n"
    );
    store.catalog().write(move |tx| tx.execute_batch(&sql)).await.unwrap();
}

pub async fn over(operator: &Client) -> Value {
    eventually("the run is over", async || {
        let status = operator.get(PATH).await.expect(200).json()["run"]["status"].clone();
        status != "running" && status != "stopping"
    })
    .await;
    operator.get(PATH).await.expect(200).json()["run"].clone()
}

fn counts(report: &Value) -> [u64; 6] {
    ["total", "handled", "changed", "unchanged", "gone", "failed"].map(|name| report[name].as_u64().unwrap())
}

async fn in_state(store: &Store, state: State) -> u64 {
    store.list(Some(state), None, 100_000).await.unwrap().len() as u64
}

/// The draft with what a dry run answers.
async fn counted(operator: &Client, mut draft: Value) -> Value {
    let preview = operator.post(DRY, draft.clone()).await.expect(200).json();
    for name in ["count", "as_of", "digest"] {
        draft[name] = preview[name].clone();
    }
    draft
}

/// Counts, and starts what was counted.
async fn confirmed(operator: &Client, draft: Value) -> Value {
    let draft = counted(operator, draft).await;
    let reply = operator.post(PATH, draft).await.expect(202);
    assert_eq!(reply.header("location"), PATH);
    over(operator).await
}

async fn create(server: &Server, ids: &[&str]) {
    let operator = server.client.bearing(ADMIN);
    for id in ids {
        operator.post("/api/admin/tenants", json!({"id": id, "email": format!("{id}@example.org")})).await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_match_are_changed_each_with_its_line_in_the_trail() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let (operator, store) = (server.client.bearing(ADMIN), server.app.store());
    assert_eq!(operator.get(PATH).await.expect(200).json(), json!({"run": null}));
    // More than a page of the walk.
    fill(store, "user", 1203).await;
    fill(store, "other", 7).await;
    let draft = json!({"action": "suspend", "reason": "ended", "filter": {"state": "active", "q": "user_"}});
    let preview = operator.post(DRY, draft.clone()).await.expect(200).json();
    assert_eq!(preview["count"], 1203);
    assert_eq!(preview["some"].as_array().unwrap().len(), 10);
    assert_eq!(in_state(store, State::Active).await, 1210, "a dry run changes nothing");
    let report = confirmed(&operator, draft.clone()).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [1203, 1203, 1203, 0, 0, 0]), "{report}");
    assert_eq!(in_state(store, State::Suspended).await, 1203);
    assert_eq!(report["by"], "operator, 127.0.0.1");

    // The walk by state goes on although each that is changed leaves it.
    let report = confirmed(&operator, json!({"action": "resume", "filter": {"state": "suspended"}})).await;
    assert_eq!(counts(&report), [1203, 1203, 1203, 0, 0, 0], "{report}");
    let one = operator.get("/api/admin/audit?target=user_0700").await.expect(200).json();
    let lines: Vec<_> = one["audit"].as_array().unwrap().iter().map(|line| (&line["actor"], &line["action"])).collect();
    let who = json!("operator");
    assert_eq!(lines, [(&who, &json!("tenants resume")), (&who, &json!("tenants suspend"))]);
    let trail = operator.get(&format!("/api/admin/audit?target={}", report["run"].as_str().unwrap())).await;
    let trail = trail.expect(200).json();
    let lines: Vec<_> = trail["audit"].as_array().unwrap().iter().map(|l| (&l["action"], &l["result"])).collect();
    assert_eq!(lines, [(&json!("bulk resume"), &json!("done")), (&json!("bulk resume"), &json!("started"))]);

    // Nothing is left to do.
    let preview = operator.post(DRY, json!({"action": "resume", "filter": {}})).await.expect(200).json();
    assert_eq!((&preview["count"], &preview["left_out"]), (&json!(0), &json!(1210)));
    let report = confirmed(&operator, json!({"action": "resume", "filter": {}})).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [0; 6]), "{report}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_some_ids_are_deleted_and_the_unknown_are_passed_over() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    create(&server, &["ada", "bob", "cy", "di"]).await;
    operator.delete("/api/admin/tenants/cy").await.expect(200);
    let draft = json!({"action": "delete", "ids": ["ada", "bob", "cy", "nobody", "ada"]});
    let preview = operator.post(DRY, draft.clone()).await.expect(200).json();
    assert_eq!((&preview["count"], &preview["unknown"]), (&json!(4), &json!(["nobody"])));
    assert_eq!(preview["left_out"], 1, "cy");
    let report = confirmed(&operator, draft).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [4, 4, 2, 1, 1, 0]), "{report}");
    assert_eq!(in_state(server.app.store(), State::Active).await, 1);

    let report = confirmed(&operator, json!({"action": "migrate", "ids": ["di", "ada"]})).await;
    assert_eq!(counts(&report), [2, 2, 0, 1, 1, 0], "it has the newest schema, the other is deleted: {report}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_changed_beyond_those_that_were_confirmed() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let (operator, store) = (server.client.bearing(ADMIN), server.app.store());
    fill(store, "user", 5).await;
    let mut draft = json!({"action": "suspend", "reason": "x", "filter": {"state": "active"}});
    let preview = operator.post(DRY, draft.clone()).await.expect(200).json();
    (draft["count"], draft["as_of"]) = (preview["count"].clone(), preview["as_of"].clone());

    // Made after the count: left alone.
    fill(store, "new", 3).await;
    operator.post(PATH, draft.clone()).await.expect(202);
    assert_eq!(counts(&over(&operator).await), [5, 5, 5, 0, 0, 0]);
    assert_eq!(in_state(store, State::Active).await, 3);

    // There before and matching since: the number is not what was confirmed.
    let preview = operator.post(DRY, draft.clone()).await.expect(200).json();
    assert_eq!(preview["count"], 3);
    (draft["count"], draft["as_of"]) = (preview["count"].clone(), preview["as_of"].clone());
    operator.post("/api/admin/tenants/user_0000/resume", json!({})).await.expect(200);
    for filter in [json!({"state": "active"}), json!({})] {
        draft["filter"] = filter;
        let refused = operator.post(PATH, draft.clone()).await.expect(409);
        assert_eq!(refused.code(), "bulk_grew");
        assert!(refused.json()["detail"].as_str().unwrap().contains("more than the 3"), "{refused:?}");
    }
    assert_eq!(in_state(store, State::Active).await, 4, "nothing was changed");
    server.stop().await;
}

/// A run that cannot go on until it is let go: the second of its users is in use.
async fn held(server: &Server, filter: Value) -> Blocked {
    create(server, &["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9"]).await;
    let tenant = server.app.store().lease(&"u1".parse().unwrap()).await.unwrap();
    let blocked = Blocked::start(tenant).await;
    let operator = server.client.bearing(ADMIN);
    let draft = counted(&operator, json!({"action": "delete", "filter": filter})).await;
    operator.post(PATH, draft).await.expect(202);
    eventually("the first is handled", async || operator.get(PATH).await.expect(200).json()["run"]["handled"] == 1)
        .await;
    blocked
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_match_any_more_when_reached_is_left_alone() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let (operator, store) = (server.client.bearing(ADMIN), server.app.store());
    let blocked = held(&server, json!({"q": "@EXAMPLE.org"})).await;
    // Four at a time: the last has not been begun.
    let id = "u9".parse().unwrap();
    let renamed = Profile { email: Some("u9@elsewhere.net".into()), ..Profile::default() };
    assert!(store.catalog().write(move |tx| queries::set_profile(tx, &id, &renamed)).await.unwrap());
    blocked.end().await;
    let report = over(&operator).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [10, 10, 9, 1, 0, 0]), "{report}");
    assert_eq!(operator.get("/api/admin/tenants/u9").await.expect(200).json()["state"], "active");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_run_at_a_time_and_whoever_stops_it_names_it() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    assert_eq!(operator.delete(PATH).await.expect(409).code(), "bulk_not_running");
    let blocked = held(&server, json!({})).await;
    let running = operator.get(PATH).await.expect(200).json()["run"].clone();
    assert_eq!((&running["status"], &running["total"]), (&json!("running"), &json!(10)));
    assert!(running["seconds_left"].is_u64(), "{running}");
    let refused = operator.post(PATH, json!({"action": "delete", "ids": ["u9"]})).await.expect(409);
    assert_eq!(refused.code(), "bulk_running");
    assert!(refused.json()["detail"].as_str().unwrap().contains(running["run"].as_str().unwrap()), "{refused:?}");
    // A page of an earlier run does not stop this one.
    assert_eq!(operator.delete(&format!("{PATH}?run=run_other")).await.expect(409).code(), "bulk_not_running");
    let stop = {
        let (operator, run) = (operator.clone(), running["run"].as_str().unwrap().to_owned());
        tokio::spawn(async move { operator.delete(&format!("{PATH}?run={run}")).await.expect(200) })
    };
    eventually("it is stopping", async || operator.get(PATH).await.expect(200).json()["run"]["status"] == "stopping")
        .await;
    blocked.end().await;
    stop.await.unwrap();
    let report = over(&operator).await;
    assert_eq!(report["status"], "stopped");
    assert_eq!(report["why"], "stopped by operator, 127.0.0.1");
    let [total, handled, changed, ..] = counts(&report);
    assert!(total == 10 && handled == changed && handled < 10, "what was begun is finished, no more: {report}");
    assert_eq!(in_state(server.app.store(), State::Deleted).await, changed);
    let trail = operator.get(&format!("/api/admin/audit?target={}", report["run"].as_str().unwrap())).await;
    assert_eq!(trail.expect(200).json()["audit"][0]["action"], "bulk stop");
    server.stop().await;
}

/// More than are under way at once; the second takes a while.
fn many() -> Value {
    json!({"action": "migrate", "ids": ["t0", "t1", "t2", "t3", "n4", "n5", "n6", "n7", "n8", "n9"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_its_server_did_not_survive_is_told_as_interrupted() {
    let (folder, custom) = slow_folder().await;
    let flags = ["--migrations", custom.path().to_str().unwrap(), "--admin-api-key", ADMIN];
    let process = Process::start(folder.path(), &flags);
    let operator = process.client.bearing(ADMIN);
    operator.post(PATH, many()).await.expect(202);
    eventually("the slow one is under way", async || {
        operator.get(PATH).await.expect(200).json()["run"]["handled"] == 1
    })
    .await;
    process.kill();

    let process = Process::start(folder.path(), &flags);
    let operator = process.client.bearing(ADMIN);
    let report = operator.get(PATH).await.expect(200).json()["run"].clone();
    assert_eq!((&report["status"], &report["total"]), (&json!("interrupted"), &json!(10)), "{report}");
    assert!(report["handled"].as_u64().unwrap() <= 1, "{report}");
    assert!(report["why"].as_str().unwrap().contains("the audit trail has each change"), "{report}");
    let again = confirmed(&operator, many()).await;
    assert_eq!((&again["status"], &again["handled"]), (&json!("done"), &json!(10)), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_ends_its_run_and_knows_what_was_done() {
    let (folder, custom) = slow_folder().await;
    let flags = ["--migrations", custom.path().to_str().unwrap(), "--admin-api-key", ADMIN];
    let server = Server::on(folder.path(), &flags).await;
    let operator = server.client.bearing(ADMIN);
    operator.post(PATH, many()).await.expect(202);
    eventually("the slow one is under way", async || {
        operator.get(PATH).await.expect(200).json()["run"]["handled"] == 1
    })
    .await;
    server.stop().await;
    let status = run(folder.path(), &["tenants", "bulk", "status", "--json", "--migrations", flags[1]]);
    let report: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(1), "{report}");
    let [total, handled, changed, unchanged, gone, failed] = counts(&report);
    assert_eq!((&report["status"], total, failed), (&json!("interrupted"), 10, 0), "{report}");
    // Those of the four that were begun have a file; the others are unknown.
    assert!(handled < 10 && handled == changed + unchanged + gone && changed == handled.min(4), "{report}");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_and_changes_nobody() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    fill(server.app.store(), "user", 3).await;
    server.client.post(PATH, json!({"action": "delete", "filter": {}})).await.expect(401);
    let many: Vec<String> = (0..10_001).map(|n| format!("user_{n}")).collect();
    let long = "x".repeat(201);
    for (draft, status, field) in [
        (json!({"action": "delete"}), 422, "ids"),
        (json!({"action": "delete", "ids": []}), 422, "ids"),
        (json!({"action": "delete", "ids": ["a"], "filter": {}}), 422, "ids"),
        (json!({"action": "delete", "ids": many}), 422, "ids"),
        (json!({"action": "delete", "ids": ["a"], "count": 2}), 422, "count"),
        (json!({"action": "delete", "filter": {}}), 422, "count"),
        (json!({"action": "delete", "filter": {}, "count": 3}), 422, "as_of"),
        (json!({"action": "delete", "filter": {"q": " "}, "count": 3, "as_of": 3}), 422, "q"),
        (json!({"action": "delete", "filter": {"q": long}, "count": 3, "as_of": 3}), 422, "q"),
        (json!({"action": "suspend", "ids": ["a"]}), 422, "reason"),
        (json!({"action": "delete", "ids": ["a"], "reason": "x"}), 422, "reason"),
        (json!({"action": "suspend", "ids": ["a"], "reason": " "}), 422, "reason"),
        (json!({"action": "suspend", "ids": ["a"], "reason": "é".repeat(501)}), 422, "reason"),
        (json!({"action": "suspend", "ids": ["a"], "reason": "a\u{1b}[2Jb"}), 422, "reason"),
    ] {
        let refused = operator.post(PATH, draft.clone()).await.expect(status);
        assert_eq!(refused.json()["field"], field, "{draft}");
    }
    for draft in [
        json!({"action": "purge", "filter": {}}),
        json!({"action": "delete", "ids": ["<script>"]}),
        json!({"action": "delete", "ids": ["a\u{202e}b"]}),
        json!({"action": "delete", "ids": ["x".repeat(10_000)]}),
        json!({"action": "delete", "filter": {"sate": "active"}}),
        json!({"action": "delete", "filter": {"state": "gone"}}),
        json!([]),
    ] {
        let refused = operator.post(PATH, draft.clone()).await;
        assert!([400, 422].contains(&refused.status), "{draft}: {refused:?}");
        let dry = operator.post(DRY, draft).await;
        assert!([400, 422].contains(&dry.status), "{dry:?}");
    }
    let draft = json!({"action": "delete", "filter": {}, "count": 3, "as_of": 3});
    operator.post(&format!("{PATH}?dryrun=true"), draft).await.expect(422);
    assert_eq!(in_state(server.app.store(), State::Active).await, 3);
    let trail = operator.get("/api/admin/audit").await.expect(200).json();
    let refused = trail["audit"].as_array().unwrap().iter().filter(|line| line["action"] == "bulk").count();
    assert_eq!(refused, 22, "attempts to change are in the trail, dry runs are not: {trail}");
    server.stop().await;
}

fn ask(data: &Path, server: &Process, arguments: &[&str], input: &str) -> Output {
    let mut command = cubby();
    command.args(arguments).arg("--data").arg(data);
    command.env("CUBBY_URL", format!("http://{}", server.address)).env("ADMIN_API_KEY", ADMIN);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_changes_many_by_a_running_server_once_the_number_is_confirmed() {
    let folder = TempDir::new().unwrap();
    for id in ["ada", "bob", "cy"] {
        stdout(&run(folder.path(), &["tenants", "create", id]));
    }
    let server = Process::start(folder.path(), &["--admin-api-key", ADMIN]);
    let bulk = |arguments: &[&str], input: &str| {
        let arguments: Vec<&str> = ["tenants", "bulk"].iter().chain(arguments).copied().collect();
        ask(folder.path(), &server, &arguments, input)
    };
    let errors = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();

    assert_eq!(bulk(&["status"], "").status.code(), Some(1), "there was none");
    assert_eq!(bulk(&["delete"], "").status.code(), Some(2), "nobody is meant by saying nothing");
    assert_eq!(bulk(&["suspend", "--all"], "").status.code(), Some(2), "a reason is needed");
    assert_eq!(bulk(&["ruin", "--all"], "").status.code(), Some(2));
    let dry = stdout(&bulk(&["delete", "--all", "--dry-run"], ""));
    assert_eq!(dry, "delete 3 users; nothing was changed\n  ada, bob, cy\n");
    let unconfirmed = bulk(&["delete", "--all"], "");
    assert_eq!(unconfirmed.status.code(), Some(2));
    assert!(errors(&unconfirmed).contains("--confirm 3"), "{unconfirmed:?}");
    let wrong = bulk(&["delete", "--all", "--confirm", "2"], "");
    assert!(wrong.status.code() == Some(1) && errors(&wrong).contains("nothing was changed"), "{wrong:?}");

    let done = stdout(&bulk(&["suspend", "--state", "active", "--reason", "x", "--confirm", "3"], ""));
    assert!(done.contains("is done: 3 of 3 users handled") && done.contains("3 suspended, 0 needed nothing"), "{done}");
    let resumed = bulk(&["resume", "-", "--confirm", "2", "--json"], "ada\n\n bob \nada\n");
    let report: Value = serde_json::from_str(&stdout(&resumed)).unwrap();
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [2, 2, 2, 0, 0, 0]));
    let hostile = bulk(&["resume", "-", "--confirm", "1"], "a\u{1b}[2J\u{202e}b\n");
    assert_eq!(hostile.status.code(), Some(1));
    assert!(!errors(&hostile).contains(['\u{1b}', '\u{202e}']), "{hostile:?}");
    assert!(stdout(&bulk(&["status"], "")).contains("2 resumed"));
    assert_eq!(bulk(&["stop"], "").status.code(), Some(1), "nothing runs");
    let nobody = bulk(&["delete", "--search", "zzz", "--confirm", "0"], "");
    assert!(nobody.status.success() && errors(&nobody).contains("nobody matches"), "{nobody:?}");
}

#[test]
fn the_command_line_asks_at_a_terminal_and_works_on_a_folder() {
    let folder = TempDir::new().unwrap();
    for id in ["ada", "bob"] {
        stdout(&run(folder.path(), &["tenants", "create", id]));
    }
    let ask = |typed: &str| {
        let mut command = cubby();
        command.args(["tenants", "bulk", "delete", "ada", "bob", "--data"]).arg(folder.path());
        let mut terminal = Terminal::start(command);
        terminal.sees("type \"delete 2\" to do it: ");
        terminal.enters(typed);
        terminal.ends()
    };
    let (told, status) = ask("yes");
    assert!(told.contains("nothing was changed") && status.code() == Some(1), "{told}");
    let (told, status) = ask("delete 2");
    assert!(told.contains("2 deleted, 0 needed nothing") && status.success(), "{told}");
    let listed = stdout(&run(folder.path(), &["tenants", "list"]));
    assert!(listed.contains("0 active, 0 suspended, 2 deleted"), "{listed}");
}

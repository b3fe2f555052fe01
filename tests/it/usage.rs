//! What users used, by day: counted, kept, and shown to an operator.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use cubby::{
    Store,
    catalog::{
        queries::usage,
        usage::{Count, DayUse, KEPT_DAYS},
    },
    clock::{Clock, day::Day},
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, Server, cubby, run, stdout};

const ADMIN: &str = "an operator's key of some length";
const DAY: i64 = 86_400_000;

/// A clock that the test sets, at noon of 2026-11-10.
fn clock() -> (Arc<AtomicI64>, Clock) {
    let day: Day = "2026-11-10".parse().unwrap();
    let now = Arc::new(AtomicI64::new(day.number() * DAY + DAY / 2));
    let clock = now.clone();
    (now, Clock::new(move || clock.load(Ordering::SeqCst)))
}

async fn at(clock: &Clock) -> (Server, Client) {
    let server = Server::at(clock, &["--admin-api-key", ADMIN].map(str::to_owned)).await;
    let operator = server.client.bearing(ADMIN);
    (server, operator)
}

async fn flush(store: &Store) {
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.flush_usage()).await.unwrap();
}

/// Ends the day. What is counted between midnight and the first flush after it may be of the day before.
async fn tomorrow(now: &AtomicI64, store: &Store) {
    now.fetch_add(DAY, Ordering::SeqCst);
    flush(store).await;
}

/// The rows without their sizes, of which only that they are is certain.
async fn shown(operator: &Client, query: &str) -> Vec<(String, String, u64, u64)> {
    let usage = operator.get(&format!("/api/admin/usage{query}")).await.expect(200).json();
    let row = |row: &Value| {
        assert!(row["bytes"].as_u64().unwrap() > 0, "{row}");
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        (text("day"), text("user_id"), row["requests"].as_u64().unwrap(), row["writes"].as_u64().unwrap())
    };
    usage["usage"].as_array().unwrap().iter().map(row).collect()
}

fn row(day: &str, user: &str, requests: u64, writes: u64) -> (String, String, u64, u64) {
    (day.to_owned(), user.to_owned(), requests, writes)
}

async fn add(store: &Store, rows: Vec<DayUse>) {
    store.catalog().write(move |tx| usage::add(tx, &rows, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_writes_are_counted_by_user_and_day() {
    let (now, clock) = clock();
    let (server, operator) = at(&clock).await;
    let note = server.client.note("ada", "x").await;
    server.client.note("ada", "y").await;
    server.client.get("/ada").await.expect(200);
    server.client.get("/ada/nothing").await.expect(404);
    server.client.note("eve", "z").await;
    server.client.get("/nobody").await;
    operator.get("/api/admin/tenants/eve").await.expect(200);
    flush(server.app.store()).await;
    let today = [row("2026-11-10", "ada", 4, 2), row("2026-11-10", "eve", 1, 1)];
    assert_eq!(shown(&operator, "").await, today);

    tomorrow(&now, server.app.store()).await;
    server.client.delete(&format!("/ada/{note}")).await.expect(200);
    flush(server.app.store()).await;
    flush(server.app.store()).await;
    let both = [&today[..], &[row("2026-11-11", "ada", 1, 1)]].concat();
    assert_eq!(shown(&operator, "").await, both);
    assert_eq!(shown(&operator, "?from=2026-11-11").await, both[2..]);
    assert_eq!(shown(&operator, "?from=2026-11-10&to=2026-11-10").await, both[..2]);
    assert_eq!(shown(&operator, "?user=ada").await, [both[0].clone(), both[2].clone()]);
    assert_eq!(shown(&operator, "?user=nobody").await, []);
    assert_eq!(shown(&operator, "?from=2026-10-01&to=2026-10-31").await, []);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_is_there_after_a_restart_and_after_a_close() {
    let folder = TempDir::new().unwrap();
    let flags = ["--admin-api-key", ADMIN, "--max-open", "1"];
    let server = Server::on(folder.path(), &flags).await;
    for user in ["ada", "eve", "ada"] {
        server.client.note(user, "x").await;
    }
    server.stop().await;
    let server = Server::on(folder.path(), &flags).await;
    server.client.note("ada", "x").await;
    flush(server.app.store()).await;
    let rows = shown(&server.client.bearing(ADMIN), "?to=9000-01-01&from=8999-12-01").await;
    assert_eq!(rows, []);
    let count = |rows: &[(String, String, u64, u64)], user: &str| -> u64 {
        rows.iter().filter(|row| row.1 == user).map(|row| row.3).sum()
    };
    let today = Day::of(server.app.clock().now());
    let rows = shown(&server.client.bearing(ADMIN), &format!("?from={}", today.before(1))).await;
    assert_eq!((count(&rows, "ada"), count(&rows, "eve")), (3, 1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_comes_in_pages_and_is_whole_in_both_forms() {
    let (_, clock) = clock();
    let (server, operator) = at(&clock).await;
    let day: Day = "2026-11-01".parse().unwrap();
    // A page is 1,000 rows: less, exactly, and more.
    for users in [999, 1000, 2001] {
        let store = server.app.store();
        let id = |n: usize| format!("user_{n:05}");
        store
            .catalog()
            .write(move |tx| {
                for n in 0..users {
                    tx.execute(
                        "INSERT INTO tenants (id, state, created) VALUES (?1, 'active', 1) ON CONFLICT DO NOTHING",
                        [format!("user_{n:05}")],
                    )?;
                }
                tx.execute("DELETE FROM usage_days", []).map(drop)
            })
            .await
            .unwrap();
        let count = Count { requests: 3, writes: 2 };
        let rows = (0..users).map(|n| DayUse { day, user_id: id(n).parse().unwrap(), bytes: 1 + n as u64, count });
        add(store, rows.collect()).await;
        let json = operator.get("/api/admin/usage").await.expect(200).json();
        assert_eq!(json["usage"].as_array().unwrap().len(), users);
        let csv = operator.get("/api/admin/usage?format=csv").await.expect(200);
        assert!(csv.header("content-type").starts_with("text/csv"));
        assert_eq!(csv.header("content-disposition"), "attachment; filename=\"usage-2026-11-01-2026-11-10.csv\"");
        let mut reader = csv::Reader::from_reader(&*csv.body);
        assert_eq!(reader.headers().unwrap(), vec!["day", "user_id", "bytes", "requests", "writes"]);
        let read: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(read.len(), users);
        for (n, record) in read.iter().enumerate() {
            assert_eq!(record, &vec!["2026-11-01", &id(n), &(n + 1).to_string(), "3", "2"]);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn days_that_cannot_be_are_refused() {
    let (_, clock) = clock();
    let (server, operator) = at(&clock).await;
    for (query, status, field) in [
        ("?from=yesterday", 400, "from"),
        ("?to=2026-02-30", 400, "to"),
        ("?from=2026-11-02&to=2026-11-01", 422, "from"),
        ("?from=2020-01-01", 422, "from"),
        ("?format=xml", 400, "format"),
        ("?user=%2e%2e", 400, "user"),
    ] {
        let refused = operator.get(&format!("/api/admin/usage{query}")).await;
        assert_eq!((refused.status, &refused.json()["field"]), (status, &json!(field)), "{query}");
    }
    server.client.get("/api/admin/usage").await.expect(401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_users_usage_is_erased_and_does_not_come_back() {
    let (now, clock) = clock();
    let (server, operator) = at(&clock).await;
    for _ in 0..2 {
        server.client.note("ada", "x").await;
        server.client.note("eve", "x").await;
        flush(server.app.store()).await;
        tomorrow(&now, server.app.store()).await;
    }
    server.client.note("ada", "counted and not written").await;
    operator.post("/api/admin/tenants/ada/purge", json!({"yes": true})).await.expect(200);
    flush(server.app.store()).await;
    let day: Day = "2026-11-10".parse().unwrap();
    add(server.app.store(), vec![DayUse { day, user_id: "ada".parse().unwrap(), bytes: 1, count: Count::default() }])
        .await;
    let rows = shown(&operator, "").await;
    assert_eq!(rows, [row("2026-11-10", "eve", 1, 1), row("2026-11-11", "eve", 1, 1)]);
    server.stop().await;
}

#[tokio::test]
async fn usage_of_more_than_a_year_ago_is_forgotten_some_at_a_time() {
    let (_, clock) = clock();
    let (server, _) = at(&clock).await;
    server.client.note("ada", "x").await;
    let today = Day::of(clock.now());
    let use_of = |days: i64| DayUse {
        day: today.before(days),
        user_id: "ada".parse().unwrap(),
        bytes: 1,
        count: Count::default(),
    };
    add(server.app.store(), [0, 1, KEPT_DAYS, KEPT_DAYS + 1, KEPT_DAYS + 2, 1000].map(use_of).to_vec()).await;
    let forget = async || {
        let first = today.before(KEPT_DAYS);
        server.app.store().catalog().write(move |tx| usage::forget(tx, first, 2)).await.unwrap()
    };
    assert_eq!([forget().await, forget().await, forget().await], [2, 1, 0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_from_the_command_line() {
    let folder = TempDir::new().unwrap();
    let data = folder.path();
    let server = Server::on(data, &["--admin-api-key", ADMIN]).await;
    server.client.note("ada", "x").await;
    flush(server.app.store()).await;
    let asked = |more: &[&str]| {
        let url = format!("http://{}", server.address);
        let mut command = cubby();
        command.args(["usage", "--url", &url, "--admin-api-key", ADMIN, "--data"]).arg(data).args(more);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let csv = stdout(&asked(&[]).await.unwrap());
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "day,user_id,bytes,requests,writes");
    assert!(lines.len() == 2 && lines[1].contains(",ada,") && lines[1].ends_with(",1,1"), "{csv}");
    let json: Value = serde_json::from_str(&stdout(&asked(&["--format", "json"]).await.unwrap())).unwrap();
    assert_eq!(json["usage"][0]["user_id"], "ada");
    server.stop().await;

    let out = folder.path().join("usage.csv");
    std::fs::write(&out, "of last month").unwrap();
    let written = run(data, &["usage", "--out", out.to_str().unwrap()]);
    assert_eq!((written.status.code(), &*stdout(&written)), (Some(0), ""));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), csv);
    let refused = run(data, &["usage", "--from", "2020-01-01", "--out", out.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), csv, "what was there stays");
    let other = TempDir::new().unwrap();
    let path = |name: &str| other.path().join(name);
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, path("pipe"), FileType::Fifo, mode, 0).unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    std::os::unix::fs::symlink("nowhere.csv", path("dangling")).unwrap();
    for name in ["pipe", "folder", "dangling"] {
        let before = std::fs::symlink_metadata(path(name)).unwrap().file_type();
        let refused = run(data, &["usage", "--out", path(name).to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(2), "{name}: {refused:?}");
        assert_eq!(std::fs::symlink_metadata(path(name)).unwrap().file_type(), before, "{name}");
    }
    assert!(!path("nowhere.csv").exists());
    std::os::unix::fs::symlink(&out, path("link")).unwrap();
    std::fs::write(&out, "of last month").unwrap();
    stdout(&run(data, &["usage", "--out", path("link").to_str().unwrap()]));
    assert!(std::fs::symlink_metadata(path("link")).unwrap().is_symlink());
    assert_eq!(std::fs::read_to_string(&out).unwrap(), csv);

    let left = std::fs::read_dir(data)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".part"));
    assert_eq!(left.count(), 0);
    assert_eq!(run(data, &["usage", "--from", "monday"]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_before_an_import_is_not_forgotten() {
    let (_, clock) = clock();
    let (server, operator) = at(&clock).await;
    server.client.note("ada", "x").await;
    server.client.note("eve", "y").await;
    let file = operator.get("/api/admin/tenants/ada/export").await.expect(200).body;
    let put = operator.request("PUT", "/api/admin/tenants/eve/import?replace=true").body(file);
    operator.send(put).await.expect(200);
    flush(server.app.store()).await;
    let rows = shown(&operator, "?user=eve").await;
    assert_eq!(rows, [row("2026-11-10", "eve", 1, 1)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_closed_database_was_used_for_before_midnight_is_of_that_day() {
    let (now, clock) = clock();
    let (server, operator) = at(&clock).await;
    server.client.note("ada", "x").await;
    now.fetch_add(DAY, Ordering::SeqCst);
    // Closes it.
    operator.post("/api/admin/tenants/ada/suspend", json!({"reason": "x"})).await.expect(200);
    operator.post("/api/admin/tenants/ada/resume", json!({})).await.expect(200);
    server.client.note("ada", "y").await;
    operator.post("/api/admin/tenants/ada/suspend", json!({"reason": "x"})).await.expect(200);
    flush(server.app.store()).await;
    assert_eq!(shown(&operator, "").await, [row("2026-11-10", "ada", 1, 1), row("2026-11-11", "ada", 1, 1)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_seen_is_the_time_of_the_last_request_of_one_whose_database_stays_open_too() {
    let (now, clock) = clock();
    let (server, operator) = at(&clock).await;
    let create = json!({"id": "bob"});
    operator.post("/api/admin/tenants", create).await.expect(201);
    server.client.note("ada", "one").await;
    flush(server.app.store()).await;
    let seen = async |user: &str| {
        let shown = operator.get(&format!("/api/admin/tenants/{user}")).await.expect(200).json();
        shown["last_seen"].as_str().map(str::to_owned)
    };
    assert_eq!(seen("bob").await, None, "bob has not used it");
    assert_eq!(seen("ada").await.unwrap(), "2026-11-10T12:00:00.000Z");
    // Requests within minutes write nothing.
    for (later, expected) in [(60_000, "2026-11-10T12:00:00.000Z"), (600_000, "2026-11-10T12:11:00.000Z")] {
        now.fetch_add(later, Ordering::SeqCst);
        server.client.texts("ada").await;
        flush(server.app.store()).await;
        assert_eq!(seen("ada").await.unwrap(), expected);
    }
    // What an operator does is no use.
    now.fetch_add(600_000, Ordering::SeqCst);
    operator.get("/api/admin/tenants/ada/export").await.expect(200);
    flush(server.app.store()).await;
    assert_eq!(seen("ada").await.unwrap(), "2026-11-10T12:11:00.000Z");
}

//! Catalog and provider come to agree, and nobody is lost because the provider answered badly.

use cubby::catalog::model::State;
use serde_json::{Value, json};

use crate::harness::{
    self, Reply, Server,
    clerk::{Clerk, Fault},
    sender::{SECRET, deliver, event, gone, user},
};

pub const ADMIN: &str = "an operator's key of some length";

async fn server(clerk: &Clerk, more: &[&str]) -> Server {
    let flags = clerk.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--admin-api-key", ADMIN, "--clerk-webhook-secret", SECRET, "--provisioning", "webhook"]);
    if !more.contains(&"--provider-retries") {
        flags.extend(["--provider-retries", "3"]);
    }
    flags.extend(more);
    Server::with(&flags).await
}

async fn sync(server: &Server, query: &str) -> Reply {
    let request = server.client.request("POST", &format!("/api/admin/sync-users{query}")).bearer_auth(ADMIN);
    server.client.send(request).await
}

async fn live(server: &Server) -> Vec<String> {
    let rows = server.app.store().list(Some(State::Active), None, 100_000).await.unwrap();
    rows.into_iter().map(|row| row.id.to_string()).collect()
}

fn counts(report: &Value) -> [u64; 5] {
    ["created", "updated", "restored", "deleted", "unchanged"].map(|name| match &report[name] {
        Value::Number(number) => number.as_u64().unwrap(),
        tally => tally["count"].as_u64().unwrap(),
    })
}

#[tokio::test]
async fn a_reconcile_creates_updates_restores_and_deletes() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    let client = &server.client;
    for (id, name) in [("user_same", "same"), ("user_old", "before"), ("user_back", "back"), ("user_gone", "gone")] {
        deliver(client, id, &event("user.created", user(id, name, 10), 1)).await;
        client.note(id, "kept").await;
    }
    deliver(client, "late", &event("user.deleted", gone("user_back"), 2)).await;
    clerk.add(user("user_new", "new", 10));
    clerk.add(user("user_same", "same", 10));
    clerk.add(user("user_old", "after", 20));
    clerk.add(user("user_back", "back", 10));

    let report = sync(&server, "").await.expect(200).json();
    assert_eq!(report["outcome"], "done", "{report}");
    assert_eq!(counts(&report), [1, 1, 1, 1, 1], "{report}");
    assert_eq!(report["deleted"]["named"], json!(["user_gone"]));
    assert_eq!(live(&server).await, ["user_back", "user_new", "user_old", "user_same"]);
    assert_eq!(client.texts("user_back").await, ["kept"], "what was deleted is back with its data");
    client.note("user_new", "hello").await;
    client.get("/user_gone").await.expect(404);
    let row = server.app.store().find(&"user_old".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.profile.first_name.as_deref(), Some("after"));

    let again = sync(&server, "").await.expect(200).json();
    assert_eq!(counts(&again), [0, 0, 0, 0, 4], "a second run finds nothing: {again}");
    let look = client.send(client.request("GET", "/api/admin/sync-users").bearer_auth(ADMIN)).await.expect(200).json();
    assert_eq!(look["running"], Value::Null);
    assert_eq!(look["last"]["unchanged"], 4);
    server.stop().await;
}

#[tokio::test]
async fn a_dry_run_tells_and_changes_nothing_at_all() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_gone", "gone", 10), 1)).await;
    deliver(&server.client, "m2", &event("user.created", user("user_old", "before", 10), 1)).await;
    clerk.add(user("user_new", "new", 10));
    clerk.add(user("user_old", "after", 20));
    let rows = async || serde_json::to_value(server.app.store().list(None, None, 100).await.unwrap()).unwrap();
    let (before, files) = (rows().await, harness::tree(&server.data()));

    let report = sync(&server, "?dry_run=true").await.expect(200).json();
    assert_eq!(counts(&report), [1, 1, 0, 1, 0], "{report}");
    assert_eq!(report["dry_run"], true);
    assert_eq!(rows().await, before);
    assert_eq!(harness::tree(&server.data()), files, "no file came, went, or grew");
    server.stop().await;
}

#[tokio::test]
async fn every_page_is_read_to_a_short_one() {
    let clerk = Clerk::start().await;
    // Ids against the order of creation, and a last page that is exactly full.
    for n in 0..1000 {
        clerk.add(user(&format!("user_{:04}", 999 - n), "x", 10));
    }
    let server = server(&clerk, &[]).await;
    let report = sync(&server, "?dry_run=true").await.expect(200).json();
    assert_eq!((report["provider_listed"].as_u64(), counts(&report)[0]), (Some(1000), 1000));
    assert_eq!(clerk.asked("/users?"), 3, "two full pages and an empty one");
    server.stop().await;
}

#[tokio::test]
async fn more_deletions_than_allowed_are_held_back_until_forced() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &["--sync-max-delete", "2"]).await;
    for n in 0..5 {
        let id = format!("user_{n}");
        deliver(&server.client, &id, &event("user.created", user(&id, "x", 10), 1)).await;
    }
    clerk.add(user("user_0", "x", 10));
    clerk.add(user("user_1", "x", 10));
    clerk.add(user("user_9", "new", 10));

    let report = sync(&server, "").await.expect(200).json();
    assert_eq!((report["outcome"].as_str(), report["held"]["count"].as_u64()), (Some("held"), Some(3)), "{report}");
    assert_eq!(live(&server).await.len(), 6, "the rest was done");
    let report = sync(&server, "?force=true").await.expect(200).json();
    assert_eq!((report["outcome"].as_str(), report["deleted"]["count"].as_u64()), (Some("done"), Some(3)), "{report}");
    assert_eq!(live(&server).await, ["user_0", "user_1", "user_9"]);
    server.stop().await;
}

#[tokio::test]
async fn bad_answers_are_borne_and_then_stop_the_run_before_anybody_is_deleted() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_1", "x", 10), 1)).await;
    clerk.add(user("user_2", "x", 10));

    clerk.fault(&[Fault::TooMany(0), Fault::Broken, Fault::CutOff]);
    let report = sync(&server, "").await.expect(200).json();
    assert_eq!(counts(&report), [1, 0, 0, 1, 0], "a few are borne: {report}");
    clerk.add(user("user_1", "x", 10));
    sync(&server, "").await.expect(200);

    clerk.remove("user_1");
    for fault in [Fault::Broken, Fault::Nonsense, Fault::LostOnTheWay, Fault::TooMany(0), Fault::CutOff] {
        clerk.world.lock().always = Some(fault);
        let report = sync(&server, "?force=true").await.expect(502).json();
        assert_eq!(report["outcome"], "failed", "{fault:?}");
        assert!(!report["error"].as_str().unwrap().is_empty(), "{fault:?}");
        assert_eq!(live(&server).await, ["user_1", "user_2"], "{fault:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_provider_that_falls_silent_stops_the_run() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &["--provider-timeout", "50ms", "--provider-retries", "1"]).await;
    clerk.world.lock().always = Some(Fault::Silence);
    let report = sync(&server, "").await.expect(502).json();
    assert!(report["error"].as_str().unwrap().contains("cannot be reached"), "{report}");
    server.stop().await;
}

#[tokio::test]
async fn a_list_shorter_than_the_count_deletes_nobody() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_1", "x", 10), 1)).await;
    clerk.add(user("user_2", "x", 10));
    clerk.world.lock().overcount = 50;
    let report = sync(&server, "?force=true").await.expect(502).json();
    assert!(report["error"].as_str().unwrap().contains("listed 1 of the 51"), "{report}");
    assert_eq!(live(&server).await, ["user_1"]);

    clerk.world.lock().overcount = 0;
    clerk.remove("user_2");
    let report = sync(&server, "").await.expect(502).json();
    assert!(report["error"].as_str().unwrap().contains("another instance"), "{report}");
    assert_eq!(live(&server).await, ["user_1"]);
    server.stop().await;
}

#[tokio::test]
async fn who_is_left_out_of_the_list_but_known_by_name_is_left_alone() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    for id in ["user_1", "user_2", "user_3"] {
        deliver(&server.client, id, &event("user.created", user(id, "x", 10), 1)).await;
        clerk.add(user(id, "x", 10));
    }
    clerk.remove("user_3");
    clerk.world.lock().unlisted.push("user_2".into());
    let report = sync(&server, "").await.expect(200).json();
    assert_eq!(report["unlisted"]["named"], json!(["user_2"]));
    assert_eq!(live(&server).await, ["user_1", "user_2"]);
    server.stop().await;
}

#[tokio::test]
async fn conflicts_orphans_and_unusable_ids_are_reported() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    clerk.add(user("user_1", "twin", 10));
    clerk.add(user("user_2", "twin", 10));
    clerk.add(user("user/3", "x", 10));
    let orphan = server.app.store().layout().tenant(&"user_lost".parse().unwrap());
    std::fs::write(&orphan, b"whose?").unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    std::fs::File::options().write(true).open(&orphan).unwrap().set_modified(long_ago).unwrap();

    let report = sync(&server, "").await.expect(200).json();
    assert_eq!(report["shared_emails"]["named"], json!(["twin@example.com (2 users)"]));
    assert_eq!(report["unusable_ids"]["named"], json!(["user/3"]));
    assert_eq!(report["orphan_files"]["named"], json!([orphan.file_name().unwrap().to_str().unwrap()]));
    assert_eq!(live(&server).await, ["user_1", "user_2"], "both live: an address is no key");
    server.stop().await;
}

#[tokio::test]
async fn one_run_at_a_time_and_only_for_the_operator() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &["--provider-timeout", "30s"]).await;
    let client = &server.client;
    let path = "/api/admin/sync-users";
    client.post(path, json!({})).await.expect(401);
    let wrong = client.send(client.request("POST", path).bearer_auth("another key of some length")).await;
    assert_eq!(wrong.expect(401).header("www-authenticate"), "Bearer realm=\"cubby admin\"");
    assert_eq!(sync(&server, "?dryrun=true").await.expect(422).json()["field"], "dryrun", "a misspelling is no run");
    assert_eq!(clerk.asked("/"), 0);

    clerk.fault(&[Fault::Silence]);
    let first = tokio::spawn({
        let (client, request) = (client.clone(), client.request("POST", path).bearer_auth(ADMIN));
        async move { client.try_send(request).await }
    });
    harness::eventually("the first run asks Clerk", async || clerk.asked("/users/count") == 1).await;
    assert_eq!(sync(&server, "").await.expect(409).code(), "sync_running");
    first.abort();
    server.stop().await;
}

#[tokio::test]
async fn without_a_secret_key_a_run_says_what_is_missing() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let problem = sync(&server, "").await.expect(503);
    assert_eq!(problem.code(), "provider_not_configured");
    assert!(problem.json()["detail"].as_str().unwrap().contains("CLERK_SECRET_KEY"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_reconciles_too() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "ada", 10));
    let folder = tempfile::TempDir::new().unwrap();
    let flags = clerk.flags();
    let run = async |more: &'static [&'static str]| {
        let (path, flags) = (folder.path().to_owned(), flags.clone());
        let arguments = move || {
            let all: Vec<&str> =
                ["sync"].into_iter().chain(flags.iter().map(String::as_str)).chain(more.iter().copied()).collect();
            harness::run(&path, &all)
        };
        tokio::task::spawn_blocking(arguments).await.unwrap()
    };
    let report: Value = serde_json::from_str(&harness::stdout(&run(&["--dry-run", "--json"]).await)).unwrap();
    assert_eq!(counts(&report), [1, 0, 0, 0, 0]);
    let text = harness::stdout(&run(&[]).await);
    assert!(text.contains("1 created") && text.contains("user_1"), "{text}");
    clerk.world.lock().always = Some(Fault::Nonsense);
    let failed = run(&[]).await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stdout).contains("stopped: "), "{failed:?}");
}

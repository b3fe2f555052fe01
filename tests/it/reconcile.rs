//! Catalog and provider come to agree, and nobody is lost because the provider answered badly.

use cubby::catalog::model::State;
use serde_json::{Value, json};

use crate::harness::{
    self, Reply, Server,
    clerk::{Clerk, Fault},
    sender::{SECRET, deliver, event, gone, user},
};

pub const ADMIN: &str = "an operator's key of some length";

pub async fn server(clerk: &Clerk, more: &[&str]) -> Server {
    let flags = clerk.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--admin-api-key", ADMIN, "--clerk-webhook-secret", SECRET, "--provisioning", "webhook"]);
    if !more.contains(&"--provider-retries") {
        flags.extend(["--provider-retries", "3"]);
    }
    flags.extend(more);
    Server::with(&flags).await
}

pub async fn sync(server: &Server, query: &str) -> Reply {
    let request = server.client.request("POST", &format!("/api/admin/sync-users{query}")).bearer_auth(ADMIN);
    server.client.send(request).await
}

pub async fn live(server: &Server) -> Vec<String> {
    let rows = server.app.store().list(Some(State::Active), None, 100_000).await.unwrap();
    rows.into_iter().map(|row| row.id.to_string()).collect()
}

pub fn counts(report: &Value) -> [u64; 5] {
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
async fn a_dry_run_reports_and_changes_nothing() {
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
async fn a_plan_is_applied_as_it_was_told_or_not_at_all() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    for id in ["user_gone", "user_old"] {
        deliver(&server.client, id, &event("user.created", user(id, "before", 10), 1)).await;
    }
    clerk.add(user("user_new", "new", 10));
    clerk.add(user("user_old", "after", 20));
    let look = async || sync(&server, "?dry_run=true").await.expect(200).json()["plan"].as_str().unwrap().to_owned();
    let plan = look().await;
    assert_eq!(look().await, plan, "the same differences are the same plan");

    // One more at the provider.
    clerk.add(user("user_newer", "newer", 10));
    let refused = sync(&server, &format!("?plan={plan}")).await.expect(409);
    assert_eq!(refused.code(), "sync_changed");
    let report = refused.json();
    assert_eq!((&report["outcome"], counts(&report)), (&json!("changed"), [0; 5]), "{report}");
    assert!(report["detail"].as_str().unwrap().contains("nothing was changed"), "{report}");
    assert_eq!(live(&server).await, ["user_gone", "user_old"]);
    // One who comes back is not deleted.
    let newer = look().await;
    assert_ne!(newer, plan);
    clerk.add(user("user_gone", "before", 10));
    assert_eq!(sync(&server, &format!("?plan={newer}")).await.expect(409).code(), "sync_changed");
    assert_eq!(live(&server).await, ["user_gone", "user_old"]);
    clerk.remove("user_gone");
    assert_eq!(look().await, newer);

    let report = sync(&server, &format!("?plan={newer}")).await.expect(200).json();
    assert_eq!((&report["outcome"], counts(&report)), (&json!("done"), [2, 1, 0, 1, 0]), "{report}");
    assert_eq!(report["plan"], newer);
    assert_eq!(live(&server).await, ["user_new", "user_newer", "user_old"]);
    assert_eq!(sync(&server, &format!("?plan={newer}")).await.expect(409).code(), "sync_changed", "it is done already");
    for wrong in ["", "x", &newer[1..], &format!("{newer}&dry_run=true")] {
        assert_eq!(sync(&server, &format!("?plan={wrong}")).await.expect(422).json()["field"], "plan", "{wrong}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_plan_holds_deletions_back_as_a_run_does_and_spares_whom_the_provider_knows() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &["--sync-max-delete", "1"]).await;
    for n in 0..5 {
        let id = format!("user_{n}");
        deliver(&server.client, &id, &event("user.created", user(&id, "x", 10), 1)).await;
    }
    clerk.add(user("user_0", "x", 10));
    clerk.add(user("user_new", "x", 10));
    let held = sync(&server, "?dry_run=true").await.expect(200).json();
    assert_eq!((&held["outcome"], &held["held"]["count"]), (&json!("held"), &json!(4)), "{held}");
    let plan = held["plan"].as_str().unwrap();
    // With force it is another plan.
    assert_eq!(sync(&server, &format!("?plan={plan}&force=true")).await.expect(409).code(), "sync_changed");
    let report = sync(&server, &format!("?plan={plan}")).await.expect(200).json();
    assert_eq!((&report["outcome"], counts(&report)), (&json!("held"), [1, 0, 0, 0, 1]), "{report}");
    assert_eq!(live(&server).await.len(), 6);
    let forced = sync(&server, "?dry_run=true&force=true").await.expect(200).json();
    let plan = forced["plan"].as_str().unwrap();
    assert_eq!(sync(&server, &format!("?plan={plan}")).await.expect(409).code(), "sync_changed");
    let report = sync(&server, &format!("?plan={plan}&force=true")).await.expect(200).json();
    assert_eq!(counts(&report), [0, 0, 0, 4, 2], "{report}");

    let past = server.client.bearing(ADMIN).get("/api/admin/sync-users/runs?limit=2").await.expect(200).json();
    let runs = past["runs"].as_array().unwrap();
    assert_eq!((&runs[0]["outcome"], &runs[0]["deleted"], runs.len()), (&json!("done"), &json!(4), 2), "{past}");
    assert_eq!(runs[1]["outcome"], "changed");
    let next = format!("/api/admin/sync-users/runs?before={}", past["next_before"]);
    let older = server.client.bearing(ADMIN).get(&next).await.expect(200).json();
    assert_eq!((older["runs"].as_array().unwrap().len(), &older["next_before"]), (2, &Value::Null), "{older}");
    assert_eq!(older["runs"][0]["held"], 4);
    server.stop().await;
}

#[tokio::test]
async fn pages_are_read_up_to_one_that_is_not_full() {
    let clerk = Clerk::start().await;
    // Ids against the order of creation, and a last page that is exactly full.
    for n in 0..1000 {
        clerk.add(user(&format!("user_{:04}", 999 - n), "x", 10));
    }
    let server = server(&clerk, &[]).await;
    let report = sync(&server, "?dry_run=true").await.expect(200).json();
    assert_eq!((report["provider_listed"].as_u64(), counts(&report)[0]), (Some(1000), 1000));
    assert_eq!(clerk.asked("/users?"), 4, "two full pages, an empty one, and whether it is empty for good");
    server.stop().await;
}

#[tokio::test]
async fn a_list_continues_when_the_user_of_its_cursor_is_deleted() {
    // The last of a page; the last three; all of the second page; all but one of the first.
    let gone: [Vec<usize>; 4] =
        [vec![499], (497..500).collect(), (500..1000).collect(), (0..500).filter(|n| *n != 130).collect()];
    for lenient in [false, true] {
        for gone in &gone {
            let clerk = Clerk::start().await;
            // Ids against the order of creation; one of them cannot be a tenant's.
            let id = |n: usize| format!("user_{:04}{}", 1300 - n, if n == 130 { "/" } else { "" });
            for n in 0..1300 {
                clerk.add(user(&id(n), "x", 10));
            }
            let server = server(&clerk, &[]).await;
            {
                let mut world = clerk.world.lock();
                world.vanish = gone.iter().map(|n| id(*n)).collect();
                world.lenient = lenient;
            }
            let report = sync(&server, "?dry_run=true").await;
            if lenient && gone.len() > 1 {
                // Two empty pages in a row look like the end: too few to be believed.
                assert_eq!(report.expect(502).json()["stopped"], "listing");
            } else {
                let report = report.expect(200).json();
                assert_eq!(report["provider_listed"], 1300, "{gone:?}: {report}");
                assert_eq!(counts(&report)[0], 1299, "who was listed is counted once, whoever was listed twice");
                assert_eq!(report["unusable_ids"]["count"], 1);
            }
            server.stop().await;
        }
    }
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
async fn a_user_missing_in_the_list_but_known_by_id_is_not_deleted() {
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
    assert_eq!(report["shared_emails"], json!({"count": 1, "named": ["user_1, user_2"]}));
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
async fn a_run_started_without_waiting_is_found_by_its_id() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "x", 10));
    let server = server(&clerk, &["--provider-timeout", "30s"]).await;
    let look = async |path: &str| {
        server
            .client
            .send(server.client.request("GET", &format!("/api/admin/sync-users/{path}")).bearer_auth(ADMIN))
            .await
    };
    look("run_nobody").await.expect(404);
    server.client.get("/api/admin/sync-users/run_nobody").await.expect(401);

    for (query, count) in [("?dry_run=true&wait=false", 1), ("?wait=false", 1), ("?wait=false", 0)] {
        let accepted = sync(&server, query).await.expect(202);
        let run = accepted.json()["run"].as_str().unwrap().to_owned();
        assert_eq!(accepted.header("location"), format!("/api/admin/sync-users/{run}"));
        harness::eventually("the run ends", async || look(&run).await.expect(200).json()["status"] == "ended").await;
        let report = look(&run).await.json()["report"].clone();
        assert_eq!((&report["run"], counts(&report)[0]), (&json!(run), count), "{report}");
    }
    clerk.fault(&[Fault::Silence]);
    let run = sync(&server, "?wait=false").await.json()["run"].as_str().unwrap().to_owned();
    harness::eventually("it asks Clerk", async || clerk.asked("/users/count") == 4).await;
    let seen = look(&run).await.expect(200).json();
    assert_eq!((&seen["status"], &seen["progress"]["phase"]), (&json!("running"), &json!("listing")));
    server.stop().await;
}

#[tokio::test]
async fn after_a_restart_reports_are_found_and_an_interrupted_run_is_lost() {
    let clerk = Clerk::start().await;
    let folder = tempfile::TempDir::new().unwrap();
    let flags =
        [clerk.flags(), ["--admin-api-key", ADMIN, "--provider-timeout", "30s"].map(str::to_owned).to_vec()].concat();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let process = harness::Process::start(folder.path(), &flags);
    let ask = async |client: &harness::Client, method: &str, path: &str| {
        client.send(client.request(method, &format!("/api/admin/sync-users{path}")).bearer_auth(ADMIN)).await
    };
    let done = ask(&process.client, "POST", "").await.expect(200).json()["run"].as_str().unwrap().to_owned();
    clerk.fault(&[Fault::Silence]);
    let cut = ask(&process.client, "POST", "?wait=false").await.expect(202).json()["run"].as_str().unwrap().to_owned();
    harness::eventually("it asks Clerk", async || clerk.asked("/users/count") == 2).await;
    process.kill();

    let process = harness::Process::start(folder.path(), &flags);
    let seen = ask(&process.client, "GET", &format!("/{done}")).await.expect(200).json();
    assert_eq!((&seen["status"], &seen["report"]["outcome"]), (&json!("ended"), &json!("done")));
    assert_eq!(ask(&process.client, "GET", &format!("/{cut}")).await.expect(200).json(), json!({"status": "lost"}));
}

#[tokio::test]
async fn the_schedule_starts_a_run() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "x", 10));
    let server = server(&clerk, &["--sync-every", "1ms"]).await;
    harness::eventually("it ran", async || live(&server).await == ["user_1"]).await;
    clerk.remove("user_1");
    clerk.add(user("user_2", "x", 10));
    harness::eventually("it ran again", async || live(&server).await == ["user_2"]).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_waits_for_a_servers_run_to_end() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "ada", 10));
    let folder = tempfile::TempDir::new().unwrap();
    // A request may take a tenth of a second here; the run takes longer.
    let more = ["--admin-api-key", ADMIN, "--request-timeout", "100ms", "--provider-timeout", "700ms"];
    let flags = [clerk.flags(), more.map(str::to_owned).to_vec()].concat();
    let server = harness::Process::start(folder.path(), &flags.iter().map(String::as_str).collect::<Vec<_>>());
    let url = format!("http://{}", server.address);
    for (more, word) in [(&["--dry-run"][..], "1 to create"), (&[], "1 created")] {
        // The first question is never answered; the second one is.
        clerk.fault(&[Fault::Silence]);
        let (path, url) = (folder.path().to_owned(), url.clone());
        let output = tokio::task::spawn_blocking(move || {
            harness::run(&path, &[&["sync", "--url", &url, "--admin-api-key", ADMIN], more].concat())
        });
        let text = harness::stdout(&output.await.unwrap());
        assert!(text.contains(word) && text.contains("user_1"), "{text}");
    }
    server.client.get("/user_1").await.expect(200);
}

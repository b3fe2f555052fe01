//! What watches the server sees: the health of keeping in step, and Prometheus' page.

use serde_json::json;

use crate::harness::{
    self, Server,
    clerk::{Clerk, Fault},
    sender::{Message, SECRET, deliver, event, user},
};

const ADMIN: &str = "an operator's key of some length";

async fn server(clerk: &Clerk, more: &[&str]) -> Server {
    let flags = clerk.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--clerk-webhook-secret", SECRET, "--admin-api-key", ADMIN]);
    flags.extend(more);
    Server::with(&flags).await
}

#[tokio::test]
async fn both_sides_agreeing_is_healthy_and_a_difference_a_warning() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "ada", 10));
    let server = server(&clerk, &["--sync-warn", "1"]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
    let seen = server.client.get("/api/health/user-sync").await.expect(200).json();
    assert_eq!((&seen["status"], &seen["warnings"]), (&json!("healthy"), &json!([])));
    assert_eq!(
        (&seen["provider_count"], &seen["local_count"], &seen["discrepancy"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert!(seen["last_delivery_age"].as_u64().is_some());

    for _ in 0..20 {
        server.client.get("/api/health/user-sync").await.expect(200);
    }
    assert_eq!(clerk.asked("/users/count"), 1, "the provider is not asked each time");

    for id in ["user_2", "user_3"] {
        deliver(&server.client, id, &event("user.created", user(id, "x", 10), 1)).await;
    }
    let seen = server.client.get("/api/health/user-sync").await.expect(200).json();
    assert_eq!((&seen["status"], &seen["discrepancy"]), (&json!("warning"), &json!(2)));
    server.stop().await;
}

#[tokio::test]
async fn failing_deliveries_and_a_provider_that_is_down_are_warnings() {
    let clerk = Clerk::start().await;
    clerk.world.lock().always = Some(Fault::Nonsense);
    let server = server(&clerk, &["--provider-retries", "0"]).await;
    let shard = server.app.store().layout().tenant(&"user_1".parse().unwrap());
    std::fs::remove_dir(shard.parent().unwrap()).unwrap();
    let message = Message::new("m1", &event("user.created", user("user_1", "ada", 10), 1));
    message.send(&server.client).await.expect(500);
    let seen = server.client.get("/api/health/user-sync").await.expect(200).json();
    assert_eq!((&seen["status"], &seen["failing_deliveries"]), (&json!("warning"), &json!(1)));
    assert_eq!(seen["warnings"].as_array().unwrap().len(), 2, "{seen}");

    std::fs::create_dir(shard.parent().unwrap()).unwrap();
    message.send(&server.client).await.expect(200);
    let seen = server.client.get("/api/health/user-sync").await.expect(200).json();
    assert_eq!(seen["failing_deliveries"], 0, "a success in the end is no failure");
    server.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_fell_silent_is_a_warning_for_as_long_as_it_lasts() {
    let clerk = Clerk::start().await;
    let folder = tempfile::TempDir::new().unwrap();
    let warned = async |server: &Server, word: &str| {
        let seen = server.client.get("/api/health/user-sync").await.expect(200).json();
        seen["warnings"].as_array().unwrap().iter().any(|warning| warning.as_str().unwrap().contains(word))
    };
    let flags = [clerk.flags(), ["--clerk-webhook-secret", SECRET].map(str::to_owned).to_vec()].concat();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::on(folder.path(), &[&flags[..], &["--sync-silence", "1s"]].concat()).await;
    harness::eventually("it says that nothing ever came", async || warned(&server, "ever").await).await;
    for id in ["m1", "m2"] {
        deliver(&server.client, id, &event("user.created", user("user_1", "ada", 10), 1)).await;
    }
    assert!(!warned(&server, "delivery").await);
    server.stop().await;

    // Long after the deliveries themselves were forgotten.
    let server =
        Server::on(folder.path(), &[&flags[..], &["--sync-silence", "1s", "--delivery-retention", "0s"]].concat())
            .await;
    harness::eventually("it says that nothing comes any more", async || warned(&server, "too long").await).await;
    let kept = server.app.store().catalog().query(|conn| {
        let mut rows = conn.prepare("SELECT svix_id, body FROM deliveries").unwrap();
        rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<Vec<u8>>>(1)?)))
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
    });
    assert_eq!(kept.await.unwrap(), [("m2".to_owned(), None)], "the newest stays, without its body");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_shows_where_only_the_metrics_are_looked_at() {
    let clerk = Clerk::start().await;
    for n in 0..3 {
        clerk.add(user(&format!("user_{n}"), "x", 10));
    }
    let folder = tempfile::TempDir::new().unwrap();
    // In a process of its own: the numbers are one set a process.
    let server = harness::Process::start(folder.path(), &clerk.flags().iter().map(String::as_str).collect::<Vec<_>>());
    let shows = async || {
        let page = server.client.get("/metrics").await.expect(200).body;
        String::from_utf8(page).unwrap().lines().any(|line| line == "cubby_sync_discrepancy 3")
    };
    harness::eventually("the page has the difference", shows).await;
    for _ in 0..20 {
        assert!(shows().await);
    }
    assert_eq!(clerk.asked("/users/count"), 1, "the provider is not asked each time");
}

#[tokio::test]
async fn the_metrics_page_has_every_documented_name() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
    deliver(&server.client, "m2", &event("something.odd", json!({}), 1)).await;
    let request = server.client.request("POST", "/api/admin/sync-users?dry_run=true").bearer_auth(ADMIN);
    server.client.send(request).await;
    server.client.get("/api/health/user-sync").await.expect(200);

    let page = server.client.get("/metrics").await.expect(200);
    assert!(page.header("content-type").starts_with("text/plain"));
    let text = String::from_utf8(page.body).unwrap();
    for line in [
        "cubby_deliveries_total{type=\"user.created\",outcome=\"created\"}",
        "cubby_deliveries_total{type=\"other\",outcome=\"ignored\"}",
        "cubby_delivery_duration_seconds_bucket{le=\"0.05\"}",
        "cubby_delivery_age_seconds ",
        "cubby_on_demand_total{result=\"created\"}",
        "cubby_on_demand_total{result=\"refused\"}",
        "cubby_sync_runs_total{outcome=\"failed\"}",
        "cubby_sync_duration_seconds_count",
        "cubby_sync_discrepancy ",
        "cubby_tenants{state=\"active\"}",
        "cubby_open_tenants ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("something.odd"), "a type from outside is no label");
    assert!(!text.contains("user_1"), "nobody is named");

    let operations = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/OPERATIONS.md")).unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(operations.contains(&format!("`{name}`")), "docs/OPERATIONS.md does not explain {name}");
    }
    server.stop().await;
}

#[cfg(feature = "replicate")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_elsewhere_is_measured_and_nobody_is_named() {
    let folder = tempfile::TempDir::new().unwrap();
    let backups = folder.path().join("backups");
    let flags =
        ["--replicate", "memory:///watched", "--backup-to", backups.to_str().unwrap(), "--admin-api-key", ADMIN];
    let server = Server::with(&flags).await;
    server.client.note("user_1", "x").await;
    server.app.replica().unwrap().flush(std::time::Duration::from_secs(60)).await.unwrap();
    let text = String::from_utf8(server.client.get("/metrics").await.expect(200).body).unwrap();
    for name in [
        "cubby_replica_behind_seconds ",
        "cubby_replica_waiting_tenants ",
        "cubby_replica_log_bytes ",
        "cubby_replica_log_limit_bytes ",
        "cubby_replica_stuck_shards 0",
        "cubby_replica_bases_wanted ",
        "cubby_replica_fallen_out_total ",
        "cubby_replica_taken_over 0",
        "cubby_replica_restoring ",
        "cubby_replica_batches_total ",
        "cubby_replica_batch_bytes_total ",
        "cubby_replica_batch_failures_total ",
        "cubby_replica_requests_total{kind=\"put\"}",
        "cubby_replica_request_failures_total ",
        "cubby_replica_bytes_total{direction=\"out\"}",
        "cubby_backups_total{outcome=\"failed\"}",
        "cubby_backup_running ",
        "cubby_backup_interval_seconds ",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in\n{text}");
    }
    assert!(!text.contains("user_1") && !text.contains("watched"), "nobody is named");
    let operations = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/OPERATIONS.md")).unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(operations.contains(&format!("`{name}`")), "docs/OPERATIONS.md does not explain {name}");
    }
    let ready = server.client.get("/readyz").await.expect(200).json();
    assert_eq!(ready["warnings"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn where_callers_show_who_they_are_so_must_whoever_watches() {
    let flags = ["--auth", "jwt", "--issuer", "https://clerk.example.com", "--jwks-url"];
    let mut flags = flags.to_vec();
    flags.extend(["https://clerk.example.invalid/jwks.json", "--admin-api-key", ADMIN]);
    let server = Server::with(&flags).await;
    for path in ["/metrics", "/api/health/user-sync"] {
        server.client.get(path).await.expect(401);
        server.client.send(server.client.request("GET", path).bearer_auth(ADMIN)).await.expect(200);
    }
    server.stop().await;
}

//! What one user may use, over the settings for all: set by an operator, or by the provider's metadata.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    self, Client, Server,
    clerk::Clerk,
    eventually, run,
    sender::{SECRET, deliver, event, user},
    stdout,
};

const ADMIN: &str = "an operator's key of some length";
const LONG: usize = 20_000;

async fn server(more: &[&str]) -> (Server, Client) {
    let server = Server::with(&[&["--admin-api-key", ADMIN], more].concat()).await;
    let operator = server.client.bearing(ADMIN);
    (server, operator)
}

async fn set(operator: &Client, user: &str, quota: Value) -> Value {
    operator.post(&format!("/api/admin/tenants/{user}/quota"), quota).await.expect(200).json()
}

/// How many long notes fit, of ten; and the figure of the refusal.
async fn fit(client: &Client, user: &str) -> (usize, String) {
    let text = "x".repeat(LONG);
    for count in 0..10 {
        let reply = client.post(&format!("/{user}"), json!({"text": text})).await;
        if reply.status != 201 {
            let refused = reply.expect(507);
            assert_eq!(refused.code(), "quota_exceeded");
            return (count, refused.json()["detail"].as_str().unwrap().to_owned());
        }
    }
    (10, String::new())
}

/// How many of ten requests at once are let in.
async fn let_in(client: &Client, user: &str) -> usize {
    let mut count = 0;
    for _ in 0..10 {
        let reply = client.get(&format!("/{user}")).await;
        match reply.status {
            200 => count += 1,
            _ => assert_eq!(reply.expect(429).code(), "rate_limited"),
        }
    }
    count
}

#[tokio::test]
async fn a_users_own_bytes_count_at_once_and_more_or_less_than_those_for_all() {
    let (server, operator) = server(&["--quota", "128KiB"]).await;
    for user in ["ada", "eve"] {
        server.client.note(user, "x").await;
    }
    let (of_all, figure) = fit(&server.client, "ada").await;
    assert!(of_all < 10 && figure.contains("131072 bytes"), "{of_all}: {figure}");

    let more = set(&operator, "ada", json!({"bytes": 1 << 20})).await;
    assert_eq!(
        (&more["bytes"], &more["bytes_by"], &more["rate_by"]),
        (&json!(1 << 20), &json!("operator"), &json!("settings"))
    );
    assert_eq!(fit(&server.client, "ada").await.0, 10);
    let (of_all, _) = fit(&server.client, "eve").await;
    assert!(of_all < 10, "another user's is another matter");

    let less = set(&operator, "ada", json!({"bytes": 65_536})).await;
    assert_eq!(less["bytes"], 65_536);
    let (none, figure) = fit(&server.client, "ada").await;
    assert_eq!(none, 0, "it is beyond its quota already");
    assert!(figure.contains("65536 bytes"), "{figure}");
    assert!(server.client.texts("ada").await.len() > 10, "what is there can be read");

    assert_eq!(set(&operator, "ada", json!({"bytes": 0})).await["bytes"], 0);
    assert_eq!(fit(&server.client, "ada").await.0, 10, "no bound");
    let back = set(&operator, "ada", json!({"bytes": null})).await;
    assert_eq!((&back["bytes"], &back["bytes_by"]), (&json!(null), &json!("settings")));
    assert!(fit(&server.client, "ada").await.1.contains("131072 bytes"));
    server.stop().await;
}

#[tokio::test]
async fn a_users_own_rate_counts_where_there_is_one_for_all_and_where_there_is_none() {
    for (flags, of_all) in [(&["--tenant-rate", "1/h:4"][..], 4), (&[], 10)] {
        let (server, operator) = server(flags).await;
        for user in ["ada", "eve"] {
            operator.post("/api/admin/tenants", json!({"id": user})).await.expect(201);
        }
        set(&operator, "ada", json!({"rate": "1/h:7"})).await;
        // Its rate is known from when its database is open.
        server.app.store().lease(&"ada".parse().unwrap()).await.unwrap();
        assert_eq!(let_in(&server.client, "ada").await, 7);
        assert_eq!(let_in(&server.client, "eve").await, of_all);
        set(&operator, "ada", json!({"rate": "off"})).await;
        server.app.store().lease(&"ada".parse().unwrap()).await.unwrap();
        assert_eq!(let_in(&server.client, "ada").await, 10);
        set(&operator, "ada", json!({"rate": null})).await;
        server.app.store().lease(&"ada".parse().unwrap()).await.unwrap();
        assert_eq!(let_in(&server.client, "ada").await, of_all);
        server.stop().await;
    }
}

#[tokio::test]
async fn two_who_set_a_quota_change_what_each_of_them_names() {
    let (server, operator) = server(&[]).await;
    server.client.note("ada", "x").await;
    let other = operator.clone();
    let (bytes, rate) =
        tokio::join!(set(&operator, "ada", json!({"bytes": 1 << 20})), set(&other, "ada", json!({"rate": "5/s:9"})));
    assert_eq!((&bytes["bytes"], &rate["rate"]), (&json!(1 << 20), &json!("5/s:9")));
    let row = operator.get("/api/admin/tenants/ada").await.expect(200).json();
    assert_eq!(row["quota"], json!({"bytes": 1 << 20, "rate": "5/s:9"}));
    assert_eq!((&row["may_use"]["bytes"], &row["may_use"]["rate_by"]), (&json!(1 << 20), &json!("operator")));
    let trail = operator.get("/api/admin/audit").await.expect(200).json();
    let lines = trail["audit"].as_array().unwrap().iter().filter(|line| line["action"] == "tenants quota");
    assert_eq!(lines.filter(|line| line["target"] == "ada" && line["result"] == "done").count(), 2);
    server.stop().await;
}

#[tokio::test]
async fn a_quota_that_cannot_be_is_refused_and_changes_nothing() {
    let (server, operator) = server(&[]).await;
    server.client.note("ada", "x").await;
    for (quota, status) in [
        (json!({}), 422),
        (json!({"bytes": -1}), 400),
        (json!({"bytes": "1GiB"}), 400),
        (json!({"bytes": u64::MAX}), 422),
        (json!({"rate": "fast"}), 400),
        (json!({"rate": 5}), 400),
        (json!({"bits": 5}), 400),
    ] {
        let reply = operator.post("/api/admin/tenants/ada/quota", quota.clone()).await;
        assert!([status, 400, 422].contains(&reply.status), "{quota}: {}", reply.status);
    }
    operator.post("/api/admin/tenants/nobody/quota", json!({"bytes": 1})).await.expect(404);
    operator.delete("/api/admin/tenants/ada").await.expect(200);
    operator.post("/api/admin/tenants/ada/quota", json!({"bytes": 1})).await.expect(409);
    let row = operator.get("/api/admin/tenants/ada").await.expect(200).json();
    assert_eq!(row["quota"], json!({"bytes": null, "rate": null}));
    server.stop().await;
}

#[tokio::test]
async fn a_purged_user_has_no_quota_left() {
    let (server, operator) = server(&[]).await;
    server.client.note("ada", "x").await;
    set(&operator, "ada", json!({"bytes": 1 << 20, "rate": "5/s"})).await;
    operator.post("/api/admin/tenants/ada/purge", json!({"yes": true})).await.expect(200);
    let row = operator.get("/api/admin/tenants/ada").await.expect(200).json();
    assert_eq!(row["quota"], json!({"bytes": null, "rate": null}));
    server.stop().await;
}

fn with_plan(plan: Value, updated: i64) -> Value {
    let mut data = user("user_1", "ada", updated);
    data["public_metadata"] = json!({"cubby": plan});
    data
}

async fn may_use(operator: &Client) -> Value {
    operator.get("/api/admin/tenants/user_1").await.expect(200).json()["may_use"].clone()
}

#[tokio::test]
async fn the_providers_metadata_set_a_quota_in_whatever_order_deliveries_come() {
    let flags = ["--clerk-webhook-secret", SECRET, "--metadata-quota", "--quota", "128KiB"];
    let (server, operator) = server(&flags).await;
    deliver(&server.client, "m1", &event("user.created", with_plan(json!({"quota": "64KiB"}), 10), 10)).await;
    let (_, figure) = fit(&server.client, "user_1").await;
    assert!(figure.contains("65536 bytes"), "{figure}");

    deliver(&server.client, "m3", &event("user.updated", with_plan(json!({"quota": "1MiB"}), 30), 30)).await;
    deliver(&server.client, "m2", &event("user.updated", with_plan(json!({"quota": "32KiB"}), 20), 20)).await;
    let seen = may_use(&operator).await;
    assert_eq!((&seen["bytes"], &seen["bytes_by"]), (&json!(1 << 20), &json!("metadata")));
    eventually("the open database has it", async || {
        server.client.post("/user_1", json!({"text": "x".repeat(LONG)})).await.status == 201
    })
    .await;

    set(&operator, "user_1", json!({"bytes": 65_536})).await;
    assert_eq!(may_use(&operator).await["bytes_by"], "operator", "an operator's counts more");
    assert_eq!(fit(&server.client, "user_1").await.0, 0);
    set(&operator, "user_1", json!({"bytes": null})).await;

    deliver(&server.client, "m4", &event("user.updated", with_plan(json!({"quota": "lots"}), 40), 40)).await;
    assert_eq!(may_use(&operator).await["bytes_by"], "settings", "what is no quota is none");
    server.stop().await;
}

#[tokio::test]
async fn the_providers_metadata_count_only_where_the_setting_says_so() {
    let (server, operator) = server(&["--clerk-webhook-secret", SECRET]).await;
    deliver(&server.client, "m1", &event("user.created", with_plan(json!({"quota": 1}), 10), 10)).await;
    assert_eq!(fit(&server.client, "user_1").await.0, 10);
    assert_eq!(may_use(&operator).await["bytes_by"], "settings");
    server.stop().await;
}

#[tokio::test]
async fn a_reconcile_brings_a_quota_that_no_delivery_brought() {
    let clerk = Clerk::start().await;
    clerk.add(with_plan(json!({"rate": "1/h:3"}), 10));
    let flags = clerk.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--metadata-quota"]).collect();
    let (server, operator) = server(&flags).await;
    operator.post("/api/admin/tenants", json!({"id": "user_1"})).await.expect(201);
    server.app.store().lease(&"user_1".parse().unwrap()).await.unwrap();
    assert_eq!(let_in(&server.client, "user_1").await, 10);
    operator.post("/api/admin/sync-users", json!({})).await.expect(200);
    let seen = may_use(&operator).await;
    assert_eq!((&seen["rate"], &seen["rate_by"]), (&json!("1/h:3"), &json!("metadata")));
    eventually("the open database has it", async || server.client.get("/user_1").await.status == 429).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_from_the_command_line() {
    let folder = TempDir::new().unwrap();
    let data = folder.path();
    run(data, &["tenants", "create", "ada"]);
    let quota = |more: &[&str]| stdout(&run(data, &[&["tenants", "quota", "ada"], more].concat()));
    assert!(quota(&[]).contains("as CUBBY_QUOTA of the server says"));
    let set = quota(&["--bytes", "5GiB", "--rate", "200/s"]);
    assert!(set.contains("5368709120 bytes, set by an operator") && set.contains("200/s:400, set by an"), "{set}");
    assert!(quota(&["--bytes", "0"]).contains("no bound, set by an operator"));
    let json: Value = serde_json::from_str(&quota(&["--rate", "default", "--json"])).unwrap();
    assert_eq!(json, json!({"bytes": 0, "rate": null, "bytes_by": "operator", "rate_by": "settings"}));
    assert!(stdout(&run(data, &["tenants", "show", "ada"])).contains("no bound, set by an operator"));
    for wrong in [["--bytes", "much"], ["--rate", "fast"]] {
        let refused = run(data, &[&["tenants", "quota", "ada"][..], &wrong].concat());
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
    }
    let refused = run(data, &["tenants", "quota", "nobody"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("\"nobody\" is unknown"));

    // A server holds the folder: the command asks it.
    let server = harness::Process::start(data, &["--admin-api-key", ADMIN]);
    let asked = harness::cubby()
        .args(["tenants", "quota", "ada", "--bytes", "default", "--data"])
        .arg(data)
        .args(["--url", &format!("http://{}", server.address), "--admin-api-key", ADMIN])
        .output()
        .unwrap();
    assert!(stdout(&asked).contains("as CUBBY_QUOTA of the server says"));
}

//! The end of a user's data: purging, retention, and data that goes to a new id.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use cubby::{
    Store, StoreOptions, TenantId,
    catalog::model::{Profile, State},
    clock::Clock,
};
use serde_json::{Value, json};

use crate::harness::{
    self, Server, author,
    sender::{SECRET, deliver, event, gone, user},
};

const DAY: i64 = 86_400_000;

fn id(text: &str) -> TenantId {
    text.parse().unwrap()
}

/// Whether a text is anywhere in a folder's files.
fn holds(folder: &Path, text: &str) -> bool {
    harness::tree(folder).into_iter().any(|(path, ..)| {
        path.is_file() && std::fs::read(&path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
    })
}

async fn with_users(folder: &Path) {
    let server = Server::on(folder, &["--clerk-webhook-secret", SECRET]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_old", "ada", 10), 1)).await;
    server.client.note("user_old", "an old note").await;
    deliver(&server.client, "m2", &event("user.created", user("user_new", "ada", 20), 2)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_leaves_a_tombstone_and_nothing_personal() {
    let folder = tempfile::TempDir::new().unwrap();
    with_users(folder.path()).await;
    let asked = harness::run(folder.path(), &["tenants", "purge", "user_old"]);
    assert_eq!(asked.status.code(), Some(2), "it wants a yes");
    assert!(String::from_utf8_lossy(&asked.stderr).contains("--yes"));

    assert_eq!(
        harness::stdout(&harness::run(folder.path(), &["tenants", "purge", "user_old", "--yes"])),
        "user_old is purged\n"
    );
    let shown: Value = serde_json::from_str(&harness::stdout(&harness::run(
        folder.path(),
        &["tenants", "show", "user_old", "--json"],
    )))
    .unwrap();
    assert_eq!(
        (&shown["state"], &shown["email"], &shown["file_bytes"]),
        (&json!("deleted"), &Value::Null, &Value::Null)
    );
    let delivery = harness::stdout(&harness::run(folder.path(), &["deliveries", "show", "m1", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&delivery).unwrap()["body"], Value::Null);
    let replay = harness::run(folder.path(), &["deliveries", "replay", "m1"]);
    assert_eq!(replay.status.code(), Some(1), "what is no longer kept is not replayed");
    assert!(!holds(folder.path(), "an old note"));

    let server = Server::on(folder.path(), &["--clerk-webhook-secret", SECRET]).await;
    let late = deliver(&server.client, "m9", &event("user.updated", user("user_old", "ada", 99), 9)).await;
    assert_eq!(late["status"], "ignored");
    let row = server.app.store().find(&id("user_old")).await.unwrap().unwrap();
    assert_eq!(row.profile.email, None, "nothing of them is stored again");
    let session = json!({"id": "sess_1", "user_id": "user_old", "client_ip": "203.0.113.7"});
    deliver(&server.client, "m10", &event("session.created", session, 9)).await;
    for late in ["m9", "m10"] {
        let body =
            server.app.store().catalog().query(move |conn| cubby::catalog::queries::deliveries::body(conn, late));
        assert_eq!(body.await.unwrap(), None, "nor what was said of them");
    }
    let trail = server.app.store().catalog().query(|conn| {
        conn.query_row("SELECT count(*) FROM audit WHERE action = 'tenants purge' AND target = 'user_old'", [], |row| {
            row.get::<_, i64>(0)
        })
    });
    assert_eq!(trail.await.unwrap(), 2, "its start and its end");
    server.stop().await;

    let restore = harness::run(folder.path(), &["tenants", "restore", "user_old"]);
    assert!(String::from_utf8_lossy(&restore.stderr).contains("tenants revive"));
    harness::stdout(&harness::run(folder.path(), &["tenants", "revive", "user_old"]));
    let server = Server::on(folder.path(), &[]).await;
    assert!(server.client.texts("user_old").await.is_empty());
    server.client.note("user_old", "anew").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_purge_no_file_holds_a_trace_of_the_person() {
    let folder = tempfile::TempDir::new().unwrap();
    let server = Server::on(folder.path(), &["--clerk-webhook-secret", SECRET]).await;
    for n in 0..20 {
        let name = format!("neighbour{n}");
        deliver(&server.client, &name, &event("user.created", user(&format!("user_{n}"), &name, 10), 1)).await;
    }
    deliver(&server.client, "m1", &event("user.created", user("user_ada", "lovelace", 10), 1)).await;
    deliver(&server.client, "m2", &event("user.updated", user("user_ada", "lovelace-king", 20), 2)).await;
    server.client.note("user_ada", "a note on the engine").await;
    server.stop().await;
    assert!(holds(folder.path(), "lovelace@example.com") && holds(folder.path(), "lovelace-king"));
    harness::stdout(&harness::run(folder.path(), &["tenants", "purge", "user_ada", "--yes"]));
    for trace in ["lovelace", "a note on the engine", "img.example.com/user_ada"] {
        assert!(!holds(folder.path(), trace), "{trace}");
    }
    assert!(holds(folder.path(), "neighbour7@example.com"));
}

#[tokio::test]
async fn a_deleted_users_file_is_kept_until_its_retention_ends_and_not_longer() {
    let folder = tempfile::TempDir::new().unwrap();
    let now = Arc::new(AtomicI64::new(1_700_000_000_000));
    let told = now.clone();
    let mut options = StoreOptions::new(folder.path());
    options.clock = Clock::new(move || told.load(Ordering::SeqCst));
    let store = Store::open(options).unwrap();
    for name in ["user_1", "user_2", "user_3"] {
        store
            .create(&id(name), Profile { email: Some("ada@example.com".into()), ..Profile::default() }, &author())
            .await
            .unwrap();
    }
    store.delete(&id("user_1"), &author()).await.unwrap();
    now.fetch_add(10 * DAY, Ordering::SeqCst);
    store.delete(&id("user_2"), &author()).await.unwrap();

    now.fetch_add(20 * DAY - 1, Ordering::SeqCst);
    assert_eq!(store.purge_due().await.unwrap(), 0);
    assert!(store.layout().trashed(&id("user_1")).exists());
    now.fetch_add(1, Ordering::SeqCst);
    assert_eq!(store.purge_due().await.unwrap(), 1);
    assert!(!store.layout().trashed(&id("user_1")).exists());
    let row = store.find(&id("user_1")).await.unwrap().unwrap();
    assert_eq!((row.state, row.profile.email, row.purged.is_some()), (State::Deleted, None, true));
    assert_eq!(store.purge_due().await.unwrap(), 0, "once is enough");

    store.restore(&id("user_2"), &author()).await.unwrap();
    now.fetch_add(100 * DAY, Ordering::SeqCst);
    assert_eq!(store.purge_due().await.unwrap(), 0, "who was restored in time is kept");
    assert!(store.layout().tenant(&id("user_2")).exists() && store.layout().tenant(&id("user_3")).exists());
    store.close(tokio::time::Instant::now() + harness::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_signed_up_again_gets_their_old_data() {
    let folder = tempfile::TempDir::new().unwrap();
    with_users(folder.path()).await;
    let adopt = ["tenants", "adopt", "user_new", "--from", "user_old"];
    let refused = harness::run(folder.path(), &adopt);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("tenants delete user_old"), "who lives keeps their data");

    harness::stdout(&harness::run(folder.path(), &["tenants", "delete", "user_old"]));
    assert_eq!(harness::stdout(&harness::run(folder.path(), &adopt)), "user_new is active\n");
    let server = Server::on(folder.path(), &[]).await;
    assert_eq!(server.client.texts("user_new").await, ["an old note"]);
    server.client.note("user_new", "a new note").await;
    assert!(server.app.store().find(&id("user_old")).await.unwrap().unwrap().purged.is_some());
    assert!(!server.app.store().layout().trashed(&id("user_old")).exists());
    server.stop().await;
    let doctor = harness::run(folder.path(), &["doctor"]);
    assert_eq!(doctor.status.code(), Some(0), "the file says that it is the new user's: {doctor:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_ones_own_is_given_up_only_when_told() {
    let folder = tempfile::TempDir::new().unwrap();
    with_users(folder.path()).await;
    let server = Server::on(folder.path(), &["--clerk-webhook-secret", SECRET]).await;
    server.client.note("user_new", "already mine").await;
    deliver(&server.client, "m3", &event("user.deleted", gone("user_old"), 3)).await;
    server.stop().await;
    let adopt = ["tenants", "adopt", "user_new", "--from", "user_old"];
    let refused = harness::run(folder.path(), &adopt);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--replace"), "{refused:?}");
    let server = Server::on(folder.path(), &[]).await;
    assert_eq!(server.client.texts("user_new").await, ["already mine"], "a refusal changes nothing");
    server.stop().await;
    harness::stdout(&harness::run(folder.path(), &[&adopt[..], &["--replace"]].concat()));
    let server = Server::on(folder.path(), &[]).await;
    assert_eq!(server.client.texts("user_new").await, ["an old note"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_listed_shown_and_replayed() {
    let folder = tempfile::TempDir::new().unwrap();
    with_users(folder.path()).await;
    let list = |more: &[&str]| {
        let text = harness::stdout(&harness::run(folder.path(), &[&["deliveries", "list", "--json"], more].concat()));
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let ids =
        |found: Vec<Value>| found.iter().map(|one| one["svix_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(list(&[])).len(), 2);
    assert_eq!(ids(list(&["--user", "user_old"])), ["m1"]);
    assert_eq!(ids(list(&["--outcome", "failed"])), [""; 0]);
    let shown = harness::stdout(&harness::run(folder.path(), &["deliveries", "show", "m1"]));
    assert!(shown.contains("created") && shown.contains("ada@example.com"), "{shown}");

    let replay = harness::stdout(&harness::run(folder.path(), &["deliveries", "replay", "m1"]));
    assert_eq!(serde_json::from_str::<Value>(&replay).unwrap(), json!({"status": "exists", "user_id": "user_old"}));
    assert_eq!(list(&["--user", "user_old"])[0]["attempts"], 2);
    assert_eq!(harness::run(folder.path(), &["deliveries", "show", "nope"]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_does_what_the_commands_ask_of_its_folder() {
    const ADMIN: &str = "an operator's key of some length";
    let folder = tempfile::TempDir::new().unwrap();
    with_users(folder.path()).await;
    let server = harness::Process::start(folder.path(), &["--admin-api-key", ADMIN]);
    let url = format!("http://{}", server.address);
    let run = |arguments: &[&str]| {
        harness::stdout(&harness::run(folder.path(), &[arguments, &["--url", &url, "--admin-api-key", ADMIN]].concat()))
    };
    assert_eq!(run(&["deliveries", "list", "--json", "--user", "user_old"]).lines().count(), 1);
    assert!(run(&["deliveries", "show", "m1"]).contains("ada@example.com"));
    assert!(run(&["deliveries", "replay", "m1"]).contains("exists"));
    run(&["tenants", "delete", "user_old"]);
    assert_eq!(run(&["tenants", "adopt", "user_new", "--from", "user_old"]), "user_new is active\n");
    assert_eq!(server.client.texts("user_new").await, ["an old note"]);
    assert_eq!(run(&["tenants", "purge", "user_new", "--yes"]), "user_new is purged\n");
    assert_eq!(run(&["tenants", "revive", "user_new"]), "user_new is active\n");
    assert!(server.client.texts("user_new").await.is_empty());
    let trail = server.client.send(server.client.request("GET", "/api/admin/audit").bearer_auth(ADMIN)).await.json();
    let lines = trail["audit"].as_array().unwrap();
    for (action, results) in
        [("adopt", &["done, from user_old"][..]), ("purge", &["done", "started"]), ("revive", &["done"])]
    {
        let of: Vec<&Value> = lines.iter().filter(|line| line["action"] == format!("tenants {action}")).collect();
        assert_eq!(of.iter().map(|line| line["result"].as_str().unwrap()).collect::<Vec<_>>(), results);
        for line in of {
            assert_eq!(
                (&line["actor"], &line["origin"], &line["target"]),
                (&json!("operator"), &json!("127.0.0.1"), &json!("user_new"))
            );
        }
    }
    let refused = harness::run(
        folder.path(),
        &["tenants", "adopt", "user_new", "--from", "user_new", "--url", &url, "--admin-api-key", ADMIN],
    );
    assert_eq!(refused.status.code(), Some(1));
    let trail = server.client.send(server.client.request("GET", "/api/admin/audit?limit=1").bearer_auth(ADMIN)).await;
    assert_eq!(trail.json()["audit"][0]["result"], "422 invalid_field", "a refusal is recorded too");

    let doctor = harness::run(folder.path(), &["doctor"]);
    assert_eq!(doctor.status.code(), Some(2));
    let said = String::from_utf8_lossy(&doctor.stderr).into_owned();
    assert!(said.contains("stop the server") && said.contains("sync --dry-run"), "{said}");
    let refused = harness::run(folder.path(), &["sync", "--url", &url, "--admin-api-key", ADMIN]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("CLERK_SECRET_KEY"), "{refused:?}");
}

//! What is written here is in the bucket, and comes back from there byte for byte.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cubby::{
    app::App,
    replica::{
        remote::faulty::{Failure, Faulty},
        restore::{self, source::Source},
        running::Replica,
    },
};
use serde_json::json;
use tempfile::TempDir;

use super::harness::{Server, author, eventually};

/// As long as a test may take: nothing waits for it.
const LONG: Duration = Duration::from_secs(60);

/// A bucket of the test's own.
fn bucket(name: &str) -> (String, Arc<Faulty>) {
    (format!("memory:///{name}"), Faulty::named(name))
}

fn replica(app: &App) -> Arc<Replica> {
    app.replica().expect("it replicates").clone()
}

/// Waits until the bucket has everything, bases too.
async fn settled(app: &App) {
    let replica = replica(app);
    eventually("the bucket has everything", async || {
        replica.flush(LONG).await.unwrap();
        let shared = replica.shared();
        let id = |row: &cubby::Row| row.id.to_string();
        let rows = app.store().list(None, None, 1000).await.unwrap();
        let ids = rows.iter().filter(|row| row.purged.is_none()).map(id).chain(["@catalog".to_owned()]).collect();
        shared.wanted.count() == 0 && shared.state.without_chain(ids).unwrap().is_empty()
    })
    .await;
    replica.flush(LONG).await.unwrap();
}

/// A tenant as it is in the bucket.
async fn restored(app: &App, tenant: &str, into: &Path) -> cubby::Result<Vec<u8>> {
    let replica = replica(app);
    let source = Source::of_server(replica.remote().clone(), replica.seal().clone(), replica.shards().clone());
    let (tenant, path) = (tenant.to_owned(), into.to_owned());
    replica.run(async move { restore::fetch(&source, &tenant, None, &path).await }).await?;
    Ok(std::fs::read(into).unwrap())
}

/// A tenant's own file after a checkpoint.
async fn own(app: &App, tenant: &str) -> Vec<u8> {
    use std::io::Read;
    let mut copy = app.store().snapshot(&tenant.parse().unwrap(), LONG, || Ok(())).await.unwrap();
    let mut bytes = Vec::new();
    copy.file.read_to_end(&mut bytes).unwrap();
    bytes
}

async fn assert_same(app: &App, tenants: &[&str]) {
    settled(app).await;
    let folder = TempDir::new().unwrap();
    for tenant in tenants {
        let restored = restored(app, tenant, &folder.path().join("restored.db")).await.unwrap();
        assert!(restored == own(app, tenant).await, "{tenant} is not the same in the bucket");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_is_in_the_bucket_byte_for_byte() {
    let (url, _) = bucket("every-commit");
    let server = Server::with(&["--replicate", &url]).await;
    for n in 0..30 {
        for user in ["ada", "bob"] {
            server.client.note(user, &format!("note {n} of {user} {}", "long ".repeat(n * 40))).await;
        }
        if n % 10 == 0 {
            replica(&server.app).flush(LONG).await.unwrap();
        }
    }
    assert_same(&server.app, &["ada", "bob"]).await;
    // Closed and opened again, and with a table more.
    let tenant = server.app.store().lease(&"ada".parse().unwrap()).await.unwrap();
    tenant
        .write(|tx| Ok(tx.execute_batch("CREATE TABLE more (x); INSERT INTO more VALUES (zeroblob(3000000))")?))
        .await
        .unwrap();
    drop(tenant);
    assert_same(&server.app, &["ada", "bob"]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_there_before_is_copied_and_goes_on_after_a_restart() {
    let (url, faulty) = bucket("there-before");
    let folder = TempDir::new().unwrap();
    let server = Server::on(folder.path(), &[]).await;
    server.client.note("ada", "before").await;
    server.client.note("bob", "before").await;
    server.stop().await;
    let server = Server::on(folder.path(), &["--replicate", &url]).await;
    assert_same(&server.app, &["ada", "bob"]).await;
    server.client.note("ada", "after").await;
    assert_same(&server.app, &["ada", "bob"]).await;
    server.stop().await;
    let bases =
        |name: &str| faulty.objects().iter().filter(|(path, _)| path.contains(&format!("base/{name}/"))).count();
    let before = (bases("ada"), bases("bob"));
    let server = Server::on(folder.path(), &["--replicate", &url]).await;
    server.client.note("ada", "later").await;
    assert_same(&server.app, &["ada", "bob"]).await;
    assert_eq!((bases("ada"), bases("bob")), before, "a clean restart needs no base");
    server.stop().await;
    // Nobody replicates what this one writes.
    let server = Server::on(folder.path(), &[]).await;
    server.client.note("bob", "unseen").await;
    server.stop().await;
    let server = Server::on(folder.path(), &["--replicate", &url]).await;
    assert_same(&server.app, &["ada", "bob"]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_away_costs_no_write_and_has_everything_later() {
    let (url, faulty) = bucket("away");
    let server = Server::with(&["--replicate", &url]).await;
    server.client.note("ada", "before").await;
    settled(&server.app).await;
    faulty.fail(Some(Failure::Unavailable));
    for n in 0..20 {
        server.client.note("ada", &format!("while it is away {n}")).await;
        server.client.note("new", &format!("while it is away {n}")).await;
    }
    faulty.fail(None);
    assert_same(&server.app, &["ada", "new"]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_suspended_deleted_or_replaced_is_copied_anew_and_what_is_purged_is_erased() {
    let (url, faulty) = bucket("states");
    let server = Server::with(&["--replicate", &url]).await;
    let (store, author) = (server.app.store().clone(), author());
    for user in ["ada", "bob", "eve"] {
        server.client.note(user, "hers").await;
    }
    settled(&server.app).await;
    let [ada, bob, eve] = ["ada", "bob", "eve"].map(|id| id.parse::<cubby::TenantId>().unwrap());
    store.suspend(&ada, "a test", &author).await.unwrap();
    store.delete(&bob, &author).await.unwrap();
    store.delete(&eve, &author).await.unwrap();
    assert_same(&server.app, &["ada", "bob"]).await;
    store.resume(&ada, &author).await.unwrap();
    store.restore(&bob, &author).await.unwrap();
    server.client.note("ada", "more").await;
    assert_same(&server.app, &["ada", "bob"]).await;
    store.purge(&eve, &author).await.unwrap();
    replica(&server.app).shared().wanted.look_at_all();
    let folder = TempDir::new().unwrap();
    let path: PathBuf = folder.path().join("eve.db");
    eventually("eve is erased", async || {
        restored(&server.app, "eve", &path).await.is_err_and(|error| error.kind() == cubby::ErrorKind::NotFound)
    })
    .await;
    assert!(faulty.objects().iter().all(|(path, _)| !path.contains("base/eve/")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_sync_mode_a_write_is_answered_when_the_bucket_has_it() {
    let (url, faulty) = bucket("sync");
    let server = Server::with(&["--replicate", &url, "--replicate-mode", "sync"]).await;
    server.client.note("ada", "first").await;
    settled(&server.app).await;
    faulty.fail(Some(Failure::Unavailable));
    let client = server.client.clone();
    let waits = tokio::spawn(async move { client.post("/ada", json!({ "text": "second" })).await });
    let shared = replica(&server.app).shared().clone();
    eventually("the write waits", async || shared.slot("ada").pending.lock().is_awaited()).await;
    assert!(!waits.is_finished());
    faulty.fail(None);
    assert_eq!(waits.await.unwrap().status, 201);
    assert_same(&server.app, &["ada"]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_over_stops_the_writes_of_the_one_before() {
    let (url, _) = bucket("takeover");
    let first = Server::with(&["--replicate", &url]).await;
    first.client.note("ada", "first").await;
    settled(&first.app).await;
    // The same folder elsewhere, as after a restore.
    let folder = TempDir::new().unwrap();
    std::fs::copy(first.data().join("replica.json"), folder.path().join("replica.json")).unwrap();
    let second = Server::on(folder.path(), &["--replicate", &url]).await;
    second.client.note("eve", "second").await;
    settled(&second.app).await;
    for user in ["ada", "eve", "bob", "kay", "lee", "max", "ned", "ole"] {
        second.client.note(user, "takes the shard").await;
    }
    settled(&second.app).await;
    // Not refused at once: it does not know yet.
    let _ = first.client.post("/ada", json!({ "text": "too late" })).await;
    eventually("the first notices", async || replica(&first.app).is_taken_over()).await;
    let refused = first.client.post("/ada", json!({ "text": "refused" })).await;
    assert_eq!(refused.status, 503, "{}", String::from_utf8_lossy(&refused.body));
    assert!(
        String::from_utf8_lossy(&refused.body).contains("taken over"),
        "{}",
        String::from_utf8_lossy(&refused.body)
    );
    second.client.note("ada", "still").await;
    assert_same(&second.app, &["eve"]).await;
    second.stop().await;
    first.stop().await;
}

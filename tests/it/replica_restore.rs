//! A server that restores its data folder from the bucket while it serves.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use cubby::{
    ErrorKind, TenantId,
    app::App,
    replica::{remote::faulty::Faulty, running::Replica},
};
use serde_json::json;
use tempfile::TempDir;

use super::harness::{Server, author, eventually};

/// As long as a test may take: nothing waits for it.
const LONG: Duration = Duration::from_secs(60);

/// What says that not all files are there.
const MARKER: &str = "restore.serving";

fn bucket(name: &str) -> (String, Arc<Faulty>) {
    (format!("memory:///{name}"), Faulty::named(name))
}

fn replica(app: &App) -> Arc<Replica> {
    app.replica().expect("it replicates").clone()
}

fn id(text: &str) -> TenantId {
    text.parse().unwrap()
}

/// Waits until the bucket has everything, bases too.
async fn settled(app: &App) {
    let replica = replica(app);
    eventually("the bucket has everything", async || {
        replica.flush(LONG).await.unwrap();
        let rows = app.store().list(None, None, 1000).await.unwrap();
        let ids = rows.iter().filter(|row| row.purged.is_none()).map(|row| row.id.to_string());
        let ids = ids.chain(["@catalog".to_owned()]).collect();
        let shared = replica.shared();
        shared.wanted.count() == 0 && shared.state.without_chain(ids).unwrap().is_empty()
    })
    .await;
    replica.flush(LONG).await.unwrap();
}

/// Users in all states, of whom zoe has a base: she can be held back.
async fn users(server: &Server) {
    for user in ["ada", "bob", "eve", "zoe"] {
        server.client.note(user, "hers").await;
    }
    let (store, author) = (server.app.store(), author());
    store.suspend(&id("bob"), "a test", &author).await.unwrap();
    store.delete(&id("eve"), &author).await.unwrap();
    store.delete(&id("zoe"), &author).await.unwrap();
    store.restore(&id("zoe"), &author).await.unwrap();
    settled(&server.app).await;
}

/// How many bases the bucket has of each user.
fn bases(faulty: &Faulty) -> Vec<usize> {
    let of = |user: &str| faulty.objects().iter().filter(|(path, _)| path.contains(&format!("base/{user}/"))).count();
    ["ada", "bob", "eve", "zoe"].map(of).to_vec()
}

async fn ended(server: &Server) {
    let marker = server.data().join(MARKER);
    eventually("the restore ends", async || !marker.exists()).await;
    let replica = replica(&server.app);
    eventually("it is over", async || replica.restoring().is_none()).await;
}

/// As a crash leaves a folder at this moment.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match path.is_dir() {
            true => copy(&path, &to),
            false => match fs::copy(&path, &to) {
                // What is in tmp/ comes and goes.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => assert!(copied.is_ok(), "{copied:?}"),
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_served_before_the_files_of_others_are_there() {
    let (url, faulty) = bucket("restore-serves");
    let first = Server::with(&["--replicate", &url]).await;
    users(&first).await;
    first.stop().await;
    let before = bases(&faulty);
    assert!(before[3] > 0, "{before:?}");

    faulty.hold_back(Some("base/zoe/"));
    let folder = TempDir::new().unwrap();
    let server = Server::on(folder.path(), &["--replicate", &url, "--restore"]).await;
    assert_eq!(server.client.texts("ada").await, ["hers"]);
    server.client.note("ada", "written meanwhile").await;
    server.client.note("new", "made meanwhile").await;
    server.client.get("/bob").await.expect(403);
    server.client.post("/eve", json!({ "text": "too late" })).await.expect(404);
    let refused = server.client.get("/zoe").await.expect(503);
    assert!(String::from_utf8_lossy(&refused.body).contains("brought back"), "{refused:?}");
    assert!(folder.path().join(MARKER).exists());
    let store = server.app.store();
    assert!(store.awaits_file(&id("zoe")).unwrap());

    faulty.hold_back(None);
    ended(&server).await;
    assert_eq!(server.client.texts("zoe").await, ["hers"]);
    let eve = store.layout().paths(&id("eve"));
    assert!(eve.trashed.exists() && !eve.live.exists());
    store.resume(&id("bob"), &author()).await.unwrap();
    assert_eq!(server.client.texts("bob").await, ["hers"]);
    settled(&server.app).await;
    assert_eq!(bases(&faulty), before, "every chain goes on");
    store.restore(&id("eve"), &author()).await.unwrap();
    assert_eq!(server.client.texts("eve").await, ["hers"]);
    server.stop().await;

    // Everything is as in any folder.
    let server = Server::on(folder.path(), &["--replicate", &url, "--restore"]).await;
    assert_eq!(server.client.texts("ada").await, ["hers", "written meanwhile"]);
    assert_eq!(server.client.texts("new").await, ["made meanwhile"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_deleted_before_their_file_is_there_has_it_in_the_trash() {
    let (url, faulty) = bucket("restore-deletes");
    let first = Server::with(&["--replicate", &url]).await;
    users(&first).await;
    first.stop().await;
    faulty.hold_back(Some("base/zoe/"));
    let server = Server::with(&["--replicate", &url, "--restore"]).await;
    let store = server.app.store();
    store.delete(&id("zoe"), &author()).await.unwrap();
    server.client.post("/zoe", json!({ "text": "too late" })).await.expect(404);
    faulty.hold_back(None);
    ended(&server).await;
    let zoe = store.layout().paths(&id("zoe"));
    assert!(zoe.trashed.exists() && !zoe.live.exists());
    store.restore(&id("zoe"), &author()).await.unwrap();
    assert_eq!(server.client.texts("zoe").await, ["hers"]);
    settled(&server.app).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_before_writes_nothing_more_and_is_refused_on_its_old_folder() {
    let (url, _) = bucket("restore-fences");
    let old = TempDir::new().unwrap();
    let first = Server::on(old.path(), &["--replicate", &url]).await;
    users(&first).await;
    let server = Server::with(&["--replicate", &url, "--restore"]).await;
    server.client.note("ada", "newer").await;
    ended(&server).await;
    // Not refused at once: it does not know yet.
    let _ = first.client.post("/ada", json!({ "text": "too late" })).await;
    eventually("the first notices", async || replica(&first.app).is_taken_over()).await;
    first.client.post("/ada", json!({ "text": "refused" })).await.expect(503);
    first.stop().await;

    let refused = Server::refused(old.path(), &["--replicate", &url]);
    assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
    assert!(refused.message().contains("has taken over"), "{refused}");
    server.client.note("ada", "still").await;
    settled(&server.app).await;
    assert_eq!(server.client.texts("ada").await, ["hers", "newer", "still"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_cut_short_goes_on_with_the_same_bucket_alone() {
    let (url, faulty) = bucket("restore-crash");
    let first = Server::with(&["--replicate", &url]).await;
    users(&first).await;
    first.stop().await;
    faulty.hold_back(Some("base/zoe/"));
    let (folder, crashed) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = Server::on(folder.path(), &["--replicate", &url, "--restore"]).await;
    server.client.note("ada", "written meanwhile").await;
    copy(folder.path(), crashed.path());
    server.stop().await;

    let refused = Server::refused(crashed.path(), &[]);
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.message().contains(&format!("--replicate {url}")), "{refused}");
    let other = Server::refused(crashed.path(), &["--replicate", "memory:///restore-other"]);
    assert_eq!(other.kind(), ErrorKind::Config, "{other}");

    let server = Server::on(crashed.path(), &["--replicate", &url]).await;
    assert_eq!(server.client.texts("ada").await, ["hers", "written meanwhile"]);
    server.client.get("/zoe").await.expect(503);
    assert!(crashed.path().join(MARKER).exists());
    faulty.hold_back(None);
    ended(&server).await;
    assert_eq!(server.client.texts("zoe").await, ["hers"]);
    settled(&server.app).await;
    server.stop().await;
    // Nothing but a server that replicates to it opened it, and now anybody does.
    Server::on(crashed.path(), &[]).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_brought_back_keeps_no_other_and_is_the_operators_to_decide() {
    let (url, faulty) = bucket("restore-broken");
    let first = Server::with(&["--replicate", &url]).await;
    users(&first).await;
    first.stop().await;
    for (path, _) in faulty.objects().iter().filter(|(path, _)| path.contains("base/zoe/")) {
        assert!(faulty.flip(path, 100));
    }

    let server = Server::with(&["--replicate", &url, "--restore"]).await;
    let replica = replica(&server.app);
    eventually("all others are there", async || {
        replica.restoring().is_some_and(|restoring| {
            let progress = restoring.progress();
            progress.users > 0 && progress.done == progress.users && progress.failed.len() == 1
        })
    })
    .await;
    assert_eq!(server.client.texts("ada").await, ["hers"]);
    let refused = server.client.get("/zoe").await.expect(503);
    assert!(String::from_utf8_lossy(&refused.body).contains("operator"), "{refused:?}");
    let failed = replica.restoring().unwrap().progress().failed;
    assert!(failed[&id("zoe")].contains("broken"), "{failed:?}");
    assert!(server.data().join(MARKER).exists());

    let store = server.app.store();
    store.delete(&id("zoe"), &author()).await.unwrap();
    store.purge(&id("zoe"), &author()).await.unwrap();
    ended(&server).await;
    eventually("zoe is erased", async || {
        replica.shared().wanted.look_at_all();
        faulty.objects().iter().all(|(path, _)| !path.contains("base/zoe/"))
    })
    .await;
    settled(&server.app).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_restored_of_nothing_or_over_anything() {
    let (url, _) = bucket("restore-nothing");
    let folder = TempDir::new().unwrap();
    let refused = Server::refused(folder.path(), &["--replicate", &url, "--restore"]);
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.message().contains("no replica"), "{refused}");

    let first = Server::on(folder.path(), &["--replicate", &url]).await;
    first.client.note("ada", "hers").await;
    settled(&first.app).await;
    first.stop().await;
    let empty = TempDir::new().unwrap();
    let refused = Server::refused(empty.path(), &["--replicate", &url]);
    assert!(refused.message().contains("--restore") && refused.message().contains("--new"), "{refused}");
    // Users' files without their catalog.
    fs::remove_file(folder.path().join("catalog.db")).unwrap();
    let refused = Server::refused(folder.path(), &["--replicate", &url, "--restore"]);
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.message().contains("catalog.db"), "{refused}");
}

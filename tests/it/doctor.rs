//! Catalog and files are brought to agree again, whatever happened to either.

use std::{fs, path::Path};

use serde_json::Value;

use crate::harness::{
    self, Server,
    clerk::Clerk,
    sender::{SECRET, deliver, event, gone, user},
};

async fn with_users(folder: &Path) {
    let server = Server::on(folder, &["--clerk-webhook-secret", SECRET]).await;
    for name in ["user_1", "user_2", "user_3", "user_gone"] {
        deliver(&server.client, name, &event("user.created", user(name, name, 10), 1)).await;
        server.client.note(name, &format!("note of {name}")).await;
    }
    deliver(&server.client, "m9", &event("user.deleted", gone("user_gone"), 2)).await;
    server.stop().await;
}

fn doctor(folder: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let output = harness::run(folder, &[&["doctor", "--json"], more].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {output:?}")))
}

fn path(folder: &Path, user: &str) -> std::path::PathBuf {
    harness::stdout(&harness::run(folder, &["tenants", "path", user])).trim().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_order_is_reported_so_and_not_changed() {
    let folder = tempfile::TempDir::new().unwrap();
    with_users(folder.path()).await;
    let before: Vec<_> =
        ["user_1", "user_2", "user_3"].map(|user| fs::read(path(folder.path(), user)).unwrap()).to_vec();
    let (code, report) = doctor(folder.path(), &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!((report["findings"]["files"].as_u64(), report["findings"]["rows"].as_u64()), (Some(4), Some(4)));
    let after: Vec<_> =
        ["user_1", "user_2", "user_3"].map(|user| fs::read(path(folder.path(), user)).unwrap()).to_vec();
    assert!(before == after);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_disagreement_is_reported_and_repaired_if_possible() {
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path();
    with_users(folder).await;
    // A live user's file is lost; another's lies in a stranger's place; strangers lie in place.
    fs::remove_file(path(folder, "user_1")).unwrap();
    fs::copy(path(folder, "user_2"), path(folder, "user_2_copy")).unwrap();
    fs::write(path(folder, "user_empty"), b"").unwrap();
    fs::write(path(folder, "user_text"), b"not a database at all, but long enough to be looked at").unwrap();
    // A deletion that was interrupted: the row says deleted, the file is still in its place.
    let trashed = folder.join("trash").join(path(folder, "user_gone").file_name().unwrap());
    fs::rename(&trashed, path(folder, "user_gone")).unwrap();

    let (code, report) = doctor(folder, &[]);
    let count = |report: &Value, name: &str| report["findings"][name]["count"].as_u64().unwrap();
    assert_eq!(code, Some(1));
    assert_eq!(
        ["missing", "misplaced", "damaged", "interrupted", "orphans", "fixed"].map(|name| count(&report, name)),
        [1, 1, 2, 1, 0, 0],
        "{report}"
    );
    let (code, report) = doctor(folder, &["--fix"]);
    assert_eq!(code, Some(1), "the rest wants a hand");
    assert_eq!(["interrupted", "fixed", "missing"].map(|name| count(&report, name)), [0, 1, 1], "{report}");
    assert_eq!(report["findings"]["files"], 6, "what was moved is looked at once");
    assert!(trashed.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_catalog_is_rebuilt_from_the_files_alone() {
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path();
    with_users(folder).await;
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = fs::remove_file(folder.join(file));
    }
    let (code, report) = doctor(folder, &["--rebuild-catalog"]);
    assert_eq!((code, report["findings"]["fixed"]["count"].as_u64()), (Some(0), Some(4)), "{report}");

    let clerk = Clerk::start().await;
    for name in ["user_1", "user_2", "user_3"] {
        clerk.add(user(name, name, 10));
    }
    let flags = clerk.flags();
    let mut all = vec!["doctor", "--provider", "--json"];
    all.extend(flags.iter().map(String::as_str));
    let compared = harness::run(folder, &all);
    assert_eq!(compared.status.code(), Some(1), "names are missing: {compared:?}");
    all[0] = "sync";
    all.remove(1);
    harness::stdout(&harness::run(folder, &all));

    let server = Server::on(folder, &[]).await;
    for name in ["user_1", "user_2", "user_3"] {
        assert_eq!(server.client.texts(name).await, [format!("note of {name}")]);
        let row = server.app.store().find(&name.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(row.profile.first_name.as_deref(), Some(name));
    }
    server.client.post("/user_gone", serde_json::json!({"text": "back"})).await.expect(404);
    server.stop().await;
    harness::stdout(&harness::run(folder, &["tenants", "restore", "user_gone"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_catalog_is_kept_aside_and_a_sound_one_is_not_replaced() {
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path();
    with_users(folder).await;
    let refused = harness::run(folder, &["doctor", "--rebuild-catalog"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("in order") && !said.contains("stop the server"), "{said}");

    fs::write(folder.join("catalog.db"), b"this was a catalog once, before the disk had its way").unwrap();
    let (code, report) = doctor(folder, &["--rebuild-catalog"]);
    assert_eq!((code, report["findings"]["fixed"]["count"].as_u64()), (Some(0), Some(4)), "{report}");
    let kept =
        fs::read_dir(folder).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".lost"));
    assert!(kept, "the old one is kept");
}

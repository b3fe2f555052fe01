//! One tenant's page: what it shows, which actions it offers, and what its forms do.

use cubby::{
    catalog::{
        model::State,
        queries::usage,
        usage::{Count, DayUse},
    },
    clock::day::Day,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ADMIN, Browser, act, seat, state};
use crate::harness::{Server, author, shell};

const BOUNDARY: &str = "a-boundary-of-the-test";

/// A form as a browser sends it that has a file.
fn form(fields: &[(&str, &str)], file: Option<&[u8]>) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let part = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    if let Some(file) = file {
        let kind = "Content-Type: application/octet-stream";
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a \u{e9}.db\"\r\n{kind}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

async fn upload(browser: &Browser, id: &str, fields: &[(&str, &str)], file: Option<&[u8]>) -> super::browser::Page {
    let request = browser.request("POST", &format!("/admin/tenants/{id}/import"));
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    browser.send(request.header("content-type", kind).body(form(fields, file))).await
}

/// Uploads a file with the token of the page, and gives the page that it leads to.
async fn import(browser: &Browser, fields: &[(&str, &str)], file: Option<&[u8]>) -> String {
    let page = browser.get("/admin/tenants/ben").await.expect(200);
    let csrf = page.csrf().to_owned();
    let fields: Vec<_> = [("csrf", csrf.as_str())].into_iter().chain(fields.iter().copied()).collect();
    let sent = upload(browser, "ben", &fields, file).await.expect(303);
    assert_eq!(sent.location, "/admin/tenants/ben");
    browser.get("/admin/tenants/ben").await.expect(200).text
}

/// A user's export after a change.
async fn export(browser: &Browser, server: &Server, change: &str) -> Vec<u8> {
    let page = browser.get("/admin/tenants/ada/export?format=sqlite&table=").await.expect(200);
    assert_eq!(page.header("content-disposition"), "attachment; filename=\"ada.db\"");
    assert_eq!(page.header("content-type"), "application/vnd.sqlite3");
    let bytes = server.client.bearing(ADMIN).get("/api/admin/tenants/ada/export").await.expect(200).body;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("changed.db");
    std::fs::write(&file, bytes).unwrap();
    let conn = shell(&file);
    conn.execute_batch("PRAGMA journal_mode=DELETE").unwrap();
    conn.execute_batch(change).unwrap();
    conn.close().unwrap();
    std::fs::read(&file).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_imported_by_a_form_and_what_is_refused_is_named() {
    let (server, browser) = seat().await;
    server.client.note("ada", "from ada").await;
    server.client.note("ben", "of ben's own").await;
    // Some megabytes, which come in many pieces, with what begins as a boundary does.
    let change = format!(
        "CREATE TABLE tags (name); CREATE VIEW texts AS SELECT text FROM notes;
         INSERT INTO tags VALUES (CAST(randomblob(4000000) AS BLOB)), ('\r\n--{}')",
        &BOUNDARY[..BOUNDARY.len() - 1]
    );
    let file = export(&browser, &server, &change).await;
    let page = import(&browser, &[("replace", "true"), ("confirm", "adam"), ("allow", "tags")], Some(&file)).await;
    assert!(page.contains("the id that was typed is not this tenant"), "{page}");
    let page = import(&browser, &[("allow", "tags, texts")], Some(&file)).await;
    assert!(page.contains("has data of their own") && page.contains("type the id"), "{page}");
    let page = import(&browser, &[("allow", ""), ("replace", "true"), ("confirm", "ben")], Some(&file)).await;
    assert!(page.contains("table &#34;tags&#34;") && page.contains("view &#34;texts&#34;"), "{page}");
    assert!(import(&browser, &[], None).await.contains("choose a file"));
    assert_eq!(server.client.texts("ben").await, ["of ben's own"], "nothing was changed so far");
    let fields = [("allow", "tags, texts"), ("replace", "true"), ("confirm", "ben")];
    let page = import(&browser, &fields, Some(&file)).await;
    assert!(page.contains("The file was taken: 3 rows. The tenant is active."), "{page}");
    assert!(page.contains("trash/replaced"), "where the old data is: {page}");
    assert_eq!(server.client.texts("ben").await, ["from ada"]);
    let taken: i64 = {
        let ben = server.app.store().lease(&"ben".parse().unwrap()).await.unwrap();
        ben.read(|conn| Ok(conn.query_row("SELECT sum(length(name)) FROM tags", [], |row| row.get(0))?)).await.unwrap()
    };
    assert_eq!(taken, 4_000_003 + i64::try_from(BOUNDARY.len()).unwrap());
    assert_eq!(std::fs::read_dir(server.app.store().layout().tmp()).unwrap().count(), 0, "no file is left");
    server.stop().await;
}

#[tokio::test]
async fn an_upload_that_is_no_form_of_the_session_changes_nothing() {
    let (server, browser) = seat().await;
    server.client.note("ben", "kept").await;
    let page = browser.get("/admin/tenants/ben").await.expect(200);
    let csrf = page.csrf().to_owned();
    let long = "x".repeat(100_000);
    for (fields, status) in [
        (vec![("replace", "true"), ("confirm", "ben")], 403),
        (vec![("csrf", "forged"), ("replace", "true"), ("confirm", "ben")], 403),
        (vec![("csrf", csrf.as_str()), ("confirm", &long)], 413),
        (vec![("csrf", csrf.as_str()), ("allow", &long)], 413),
    ] {
        let refused = upload(&browser, "ben", &fields, Some(b"SQLite format 3\0")).await;
        assert_eq!(refused.status, status, "{}", refused.text);
    }
    let path = "/admin/tenants/ben/import";
    browser.submit(&page, path, &[("confirm", "ben")]).await.expect(415);
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let torn = &form(&[("csrf", &csrf)], Some(b"SQLite format 3\0"))[..200];
    let request = browser.request("POST", path).header("content-type", kind);
    let torn = browser.send(request.body(torn.to_vec())).await;
    assert!(torn.status == 303 || torn.status == 400, "{}", torn.text);
    let stranger = Browser::new(server.address);
    let refused = upload(&stranger, "ben", &[("csrf", &csrf)], Some(b"x")).await.expect(303);
    assert!(refused.location.starts_with("/admin/sign-in"));
    assert_eq!(server.client.texts("ben").await, ["kept"]);
    server.stop().await;
}

#[tokio::test]
async fn a_quota_is_set_and_taken_back() {
    let (server, browser) = seat().await;
    let operator = server.client.bearing(ADMIN);
    let quota = async || operator.get("/api/admin/tenants/ada").await.expect(200).json()["may_use"].clone();
    let page = act(&browser, "quota", &[("bytes", "2MiB"), ("rate", "7/s:9")]).await;
    assert!(page.contains("may store up to 2.0 MiB, and make requests at 7/s:9"), "{page}");
    assert!(page.contains("value=\"2097152\"") && page.contains("max=\"2097152\""), "{page}");
    let set = quota().await;
    assert_eq!(
        (&set["bytes"], &set["rate"], &set["bytes_by"]),
        (&json!(2_097_152), &json!("7/s:9"), &json!("operator"))
    );
    for wrong in [("bytes", "many"), ("rate", "fast")] {
        let page = act(&browser, "quota", &[wrong]).await;
        assert!(page.contains("Nothing was changed:"), "{page}");
        assert_eq!(quota().await, set);
    }
    act(&browser, "quota", &[("bytes", ""), ("rate", "")]).await;
    assert_eq!((quota().await["bytes"].clone(), quota().await["bytes_by"].clone()), (Value::Null, json!("settings")));
    server.stop().await;
}

#[tokio::test]
async fn data_is_adopted_and_what_would_be_lost_wants_the_id() {
    let (server, browser) = seat().await;
    server.client.note("old", "from before").await;
    server.client.note("ada", "of ada's own").await;
    let page = act(&browser, "adopt", &[("from", "old")]).await;
    assert!(page.contains("Nothing was changed: old is active"), "{page}");
    server.app.store().delete(&"old".parse().unwrap(), &author()).await.unwrap();
    let page = act(&browser, "adopt", &[("from", "old")]).await;
    assert!(page.contains("has data of their own"), "{page}");
    let page = act(&browser, "adopt", &[("from", "old"), ("replace", "true")]).await;
    assert!(page.contains("the id that was typed is not this tenant"), "{page}");
    assert_eq!(server.client.texts("ada").await, ["of ada's own"]);
    let page = act(&browser, "adopt", &[("from", "old"), ("replace", "true"), ("confirm", "ada")]).await;
    assert!(page.contains("The tenant is active now. It has the data of the other id"), "{page}");
    assert_eq!(server.client.texts("ada").await, ["from before"]);
    server.stop().await;
}

/// Makes that what is left of a tenant cannot be erased: a file is where a folder would be.
fn obstruct(server: &Server, id: &str) -> std::path::PathBuf {
    let replaced = server.app.store().layout().paths(&id.parse().unwrap()).replaced;
    std::fs::create_dir_all(replaced.parent().unwrap()).unwrap();
    std::fs::write(&replaced, "x").unwrap();
    replaced
}

#[tokio::test]
async fn an_adoption_whose_source_cannot_be_erased_yet_is_done() {
    let (server, browser) = seat().await;
    server.client.note("old", "from before").await;
    server.client.note("ada", "of ada's own").await;
    let old = "old".parse().unwrap();
    server.app.store().delete(&old, &author()).await.unwrap();
    let obstacle = obstruct(&server, "old");
    let page = act(&browser, "adopt", &[("from", "old"), ("replace", "true"), ("confirm", "ada")]).await;
    assert!(page.contains("It has the data of the other id") && !page.contains("Nothing was changed"), "{page}");
    assert_eq!(server.client.texts("ada").await, ["from before"]);
    assert_eq!(server.app.store().find(&old).await.unwrap().unwrap().purged, None);
    std::fs::remove_file(obstacle).unwrap();
    server.app.store().purge_due().await.unwrap();
    assert!(server.app.store().find(&old).await.unwrap().unwrap().purged.is_some(), "the sweep completes it");
    server.stop().await;
}

#[tokio::test]
async fn a_purge_that_cannot_be_completed_yet_says_what_is_so() {
    let (server, browser) = seat().await;
    server.client.note("ada", "kept for now").await;
    let obstacle = obstruct(&server, "ada");
    let page = act(&browser, "purge", &[("confirm", "ada")]).await;
    assert!(page.contains("It did not end: ada is deleted, but not erased yet"), "{page}");
    assert!(!page.contains("Nothing was changed"), "{page}");
    assert_eq!(state(&server).await.0, State::Deleted);
    std::fs::remove_file(obstacle).unwrap();
    server.app.store().purge_due().await.unwrap();
    let row = server.app.store().find(&"ada".parse().unwrap()).await.unwrap().unwrap();
    assert!(row.purged.is_some(), "the sweep completes it");
    server.stop().await;
}

#[tokio::test]
async fn what_came_of_a_change_is_told_on_the_page_that_it_is_about() {
    let (server, browser) = seat().await;
    server.client.note("ben", "x").await;
    let page = browser.get("/admin/tenants/ada").await.expect(200);
    browser.submit(&page, "/admin/tenants/ada/suspend", &[("reason", "x")]).await.expect(303);
    for other in ["/admin/tenants/ben", "/admin", "/admin/audit"] {
        let text = browser.get(other).await.expect(200).text;
        assert!(!text.contains("The tenant is suspended now."), "{other}: {text}");
    }
    let text = browser.get("/admin/tenants/ada").await.expect(200).text;
    assert!(text.contains("The tenant is suspended now."), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn only_what_is_possible_in_the_state_is_offered() {
    let (server, browser) = seat().await;
    let operator = server.client.bearing(ADMIN);
    let offered = async || {
        let page = browser.get("/admin/tenants/ada").await.expect(200).text;
        let actions = page.split("action=\"/admin/tenants/ada/").skip(1).map(|rest| rest.split('"').next().unwrap());
        let mut actions: Vec<String> = actions.map(str::to_owned).collect();
        actions.extend(page.contains("Tables and rows").then(|| "browse".to_owned()));
        actions.sort();
        actions.join(" ")
    };
    assert_eq!(offered().await, "adopt browse delete export import purge quota suspend");
    operator.post("/api/admin/tenants/ada/suspend", json!({"reason": "x"})).await.expect(200);
    assert_eq!(offered().await, "browse delete export import purge quota resume");
    operator.delete("/api/admin/tenants/ada").await.expect(200);
    assert_eq!(offered().await, "browse export purge restore");
    operator.post("/api/admin/tenants/ada/purge", json!({"yes": true})).await.expect(200);
    assert_eq!(offered().await, "revive");
    operator.post("/api/admin/tenants/ada/revive", json!({})).await.expect(200);
    let change = |tx: &rusqlite::Transaction| {
        tx.execute_batch(
            "UPDATE tenants SET state = 'quarantined', reason = 'torn', schema_version = 1 WHERE id = 'ada'",
        )
    };
    server.app.store().catalog().write(change).await.unwrap();
    assert_eq!(offered().await, "delete import migrate purge quota resume suspend");
    server.stop().await;
}

#[tokio::test]
async fn the_page_shows_use_by_day_files_migrations_and_the_size_over_the_quota() {
    let (server, browser) = seat().await;
    let page = browser.get("/admin/tenants/ada").await.expect(200).text;
    assert!(!page.contains("<svg"), "there is nothing to draw: {page}");
    let today = Day::of(server.app.clock().now());
    let used = |back, requests, writes| DayUse {
        day: today.before(back),
        user_id: "ada".parse().unwrap(),
        bytes: 4096,
        count: Count { requests, writes },
    };
    let rows = vec![used(40, 9_000_000, 1), used(3, 2000, 500), used(0, 1000, 0)];
    server.app.store().catalog().write(move |tx| usage::add(tx, &rows, 1)).await.unwrap();
    let page = browser.get("/admin/tenants/ada").await.expect(200).text;
    assert_eq!((page.matches("<svg").count(), page.matches("<title>").count()), (2, 61), "two charts of thirty days");
    for told in [
        format!("{}: 2\u{202f}000 requests, 500 writes", today.before(3)),
        "height=\"100\"/><rect class=\"front\"".to_owned(),
        "height=\"25\"/>".to_owned(),
        "height=\"50\"/>".to_owned(),
        "V1__notes".to_owned(),
        "<span class=\"tag good\">ran</span>".to_owned(),
        format!("max=\"{}\"", 1 << 30),
        server.app.store().layout().tenant(&"ada".parse().unwrap()).display().to_string(),
    ] {
        assert!(page.contains(&told), "{told}: {page}");
    }
    assert!(!page.contains("9\u{202f}000\u{202f}000"), "older days are not in it");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_at_once_are_each_told_what_came_of_it() {
    let (server, one) = seat().await;
    let other = Browser::signed_in(server.address).await;
    let (first, second) = (one.get("/admin/tenants/ada").await, other.get("/admin/tenants/ada").await);
    let path = |action: &str| format!("/admin/tenants/ada/{action}");
    let (suspend, delete) = (path("suspend"), path("delete"));
    let (a, b) = tokio::join!(
        one.submit(&first, &suspend, &[("reason", "of one")]),
        other.submit(&second, &delete, &[("confirm", "ada")]),
    );
    assert_eq!((a.status, b.status), (303, 303));
    let (first, second) =
        (one.get("/admin/tenants/ada").await.expect(200), other.get("/admin/tenants/ada").await.expect(200));
    let suspended = first.text.contains("The tenant is suspended now.");
    assert!(suspended || first.text.contains("Nothing was changed:"), "{}", first.text);
    assert!(second.text.contains("The tenant is deleted now. Its file is kept until"), "{}", second.text);
    assert!(first.text.contains("Restore") && second.text.contains("Restore"), "both see what is now");
    // One erases what the other brings back.
    one.submit(&first, &path("purge"), &[("confirm", "ada")]).await.expect(303);
    other.submit(&second, &path("restore"), &[]).await.expect(303);
    let told = other.get("/admin/tenants/ada").await.expect(200).text;
    assert!(told.contains("Nothing was changed:") && told.contains("Revive"), "{told}");
    server.stop().await;
}

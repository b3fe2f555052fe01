//! Copies elsewhere, as the dashboard has them: how they stand, a look at the past, a backup.

use std::time::Duration;

use tempfile::TempDir;

use super::browser::{ADMIN, Browser, FLAGS, Page};
use crate::harness::{Server, eventually};

const PAGE: &str = "/admin/replica";

/// As long as a test may take: nothing waits for it.
const LONG: Duration = Duration::from_secs(60);

/// A server that copies to a bucket of its own, with a user who has a note.
async fn seat(bucket: &str) -> (Server, Browser) {
    let url = format!("memory:///{bucket}");
    let server = Server::with(&[FLAGS, &["--replicate", &url]].concat()).await;
    server.client.note("ada", "the first").await;
    let browser = Browser::signed_in(server.address).await;
    (server, browser)
}

/// The newest moment that the bucket has, when it has everything.
async fn newest(server: &Server) -> String {
    server.app.replica().unwrap().flush(LONG).await.unwrap();
    let operator = server.client.bearing(ADMIN);
    let look = async || {
        let history = operator.get("/api/admin/tenants/ada/history?limit=1").await.expect(200).json();
        history["moments"][0]["at"].as_str().unwrap_or_default().to_owned()
    };
    eventually("there is a moment", async || !look().await.is_empty()).await;
    look().await
}

/// Sends a form of a page, and gives the page that it leads to.
async fn sent(browser: &Browser, page: &Page, action: &str, fields: &[(&str, &str)]) -> (String, String) {
    let there = browser.submit(page, action, fields).await.expect(303).location;
    let text = browser.get(&there).await.expect(200).text;
    (there, text)
}

#[tokio::test]
async fn where_nothing_is_copied_the_pages_say_how_to_turn_it_on() {
    let (server, browser) = super::seat().await;
    let page = browser.get(PAGE).await.expect(200);
    for told in ["CUBBY_REPLICATE=s3://bucket/prefix", "CUBBY_BACKUP=", "No backup was made since the server began."] {
        assert!(page.text.contains(told), "{told} is not in {}", page.text);
    }
    for path in ["/admin/tenants/ada", "/admin/tenants/ada/moments"] {
        assert!(browser.get(path).await.expect(200).text.contains("How to turn that on"), "{path}");
    }
    let (_, text) = sent(&browser, &page, "/admin/replica/verify", &[]).await;
    assert!(text.contains("Nothing is compared:"), "{text}");
    browser.submit(&page, "/admin/replica/nothing", &[]).await.expect(404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_put_back_by_its_typed_id_after_a_dry_run_and_another_begins_with_it() {
    let (server, browser) = seat("dashboard-moments").await;
    let moment = newest(&server).await;
    server.client.note("ada", "the second").await;
    assert!(newest(&server).await > moment);
    let tenant = browser.get("/admin/tenants/ada").await.expect(200).text;
    assert!(tenant.contains("href=\"/admin/tenants/ada/moments\""), "{tenant}");

    let page = browser.get(&format!("/admin/tenants/ada/moments?at={moment}")).await.expect(200);
    assert!(page.text.contains(&format!("value=\"{moment}\"")) && page.text.contains("Choose"), "{}", page.text);
    let look = browser.submit(&page, "/admin/tenants/ada/moments/look", &[("at", &moment)]).await.expect(200);
    assert!(look.text.contains("A dry run: nothing was changed."), "{}", look.text);
    assert_eq!(server.client.texts("ada").await.len(), 2);

    let rewind = "/admin/tenants/ada/moments/rewind";
    let (there, text) = sent(&browser, &look, rewind, &[("at", &moment), ("confirm", "adam")]).await;
    assert_eq!(there, "/admin/tenants/ada/moments");
    assert!(text.contains("the id that was typed is not this tenant"), "{text}");
    assert_eq!(server.client.texts("ada").await.len(), 2, "nothing happens without the id");
    let (there, text) = sent(&browser, &look, rewind, &[("at", &moment), ("confirm", "ada")]).await;
    assert_eq!(there, "/admin/tenants/ada");
    assert!(text.contains("The tenant is put back to") && text.contains("What there was is in"), "{text}");
    assert_eq!(server.client.texts("ada").await, ["the first"]);

    let fork = "/admin/tenants/ada/moments/fork";
    let (there, text) = sent(&browser, &page, fork, &[("to", "bea"), ("at", "")]).await;
    assert_eq!(there, "/admin/tenants/bea");
    assert!(text.contains("It was begun with what ada had"), "{text}");
    assert_eq!(server.client.texts("bea").await, ["the first"]);
    let (there, text) = sent(&browser, &page, fork, &[("to", "bea"), ("at", "")]).await;
    assert_eq!(there, "/admin/tenants/ada/moments");
    assert!(text.contains("Nothing was changed:"), "{text}");
    let look = "/admin/tenants/ada/moments/look";
    let (_, text) = sent(&browser, &page, look, &[("at", "<b>tomorrow")]).await;
    assert!(text.contains("Nothing was changed:") && !text.contains("<b>tomorrow"), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_how_the_bucket_stands_and_whether_it_is_whole() {
    let (server, browser) = seat("dashboard-verified").await;
    newest(&server).await;
    let page = browser.get(PAGE).await.expect(200);
    for told in ["memory:///dashboard-verified", "at once (async)", "this server", "Nothing was compared"] {
        assert!(page.text.contains(told), "{told} is not in {}", page.text);
    }
    assert_eq!(page.text.matches("<span class=\"tag good\">good</span>").count(), 16, "{}", page.text);
    sent(&browser, &page, "/admin/replica/verify", &[("all", "true")]).await;
    let part = async || browser.get("/admin/replica/verifying").await.expect(200).text;
    eventually("it is over", async || !part().await.contains("data-running")).await;
    let text = browser.get(PAGE).await.expect(200).text;
    assert!(text.contains("1 of 1 compared: 1 the same, 0 different"), "{text}");
    let (_, text) = sent(&browser, &page, "/admin/replica/verify-stop", &[]).await;
    assert!(text.contains("It was not stopped"), "{text}");
    let (_, text) = sent(&browser, &page, "/admin/replica/verify", &[("sample", "many")]).await;
    assert!(text.contains("Nothing is compared:"), "{text}");
    assert!(browser.get("/admin").await.expect(200).text.contains("Nothing is wrong."));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_from_the_page_and_listed() {
    let (server, browser) = super::seat().await;
    server.client.note("ada", "the first").await;
    let folder = TempDir::new().unwrap();
    let to = folder.path().to_str().unwrap();
    let page = browser.get(PAGE).await.expect(200);
    let (_, text) = sent(&browser, &page, "/admin/replica/back-up", &[("to", "backups")]).await;
    assert!(text.contains("No backup was begun:"), "{text}");
    let (there, text) = sent(&browser, &page, "/admin/replica/back-up", &[("to", to)]).await;
    assert!(there == PAGE && text.contains("A backup is being made to"), "{text}");
    let done = "<span class=\"tag done\">done</span>";
    eventually("it is done", async || browser.get(PAGE).await.expect(200).text.contains(done)).await;
    let part = async || browser.get("/admin/replica/backing-up").await.expect(200).text;
    eventually("the page says so", async || !part().await.contains("data-running")).await;
    server.stop().await;
}

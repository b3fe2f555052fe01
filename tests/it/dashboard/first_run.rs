//! The first run: from nothing to an endpoint that was tested and a tenant to look at, on the page and by commands.

use cubby::catalog::model::State;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ADMIN, Browser, FLAGS};
use crate::harness::{
    Process, Server, author, cubby, run,
    sender::{HOOKDECK, SECRET},
    stdout,
};

const LINK: &str = "href=\"/admin/first-run\"";

fn with<'f>(more: &[&'f str]) -> Vec<&'f str> {
    FLAGS.iter().copied().chain(more.iter().copied()).collect()
}

/// Sends one of the page's forms and gives the page that it leads to.
async fn act(browser: &Browser, action: &str) -> String {
    let page = browser.get("/admin/first-run").await.expect(200);
    let sent = browser.submit(&page, &format!("/admin/first-run/{action}"), &[]).await.expect(303);
    assert_eq!(sent.location, "/admin/first-run");
    browser.get("/admin/first-run").await.expect(200).text
}

async fn deliveries(server: &Server) -> Vec<Value> {
    let found = server.client.bearing(ADMIN).get("/api/admin/deliveries").await.expect(200).json();
    found["deliveries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_overview_leads_to_the_first_run_until_there_are_a_secret_and_a_tenant() {
    let server = Server::with(FLAGS).await;
    let browser = Browser::signed_in(server.address).await;
    let page = browser.get("/admin").await.expect(200).text;
    assert!(page.contains(LINK) && page.contains("there is no webhook secret"), "{page}");
    let page = browser.get("/admin/first-run").await.expect(200);
    for told in
        ["/webhooks/clerk", "not set", "CLERK_WEBHOOK_SECRET=whsec_…", "CLERK_SECRET_KEY", "cubby tenants sample"]
    {
        assert!(page.text.contains(told), "{told}: {}", page.text);
    }
    assert!(!page.text.contains("Send a test delivery"), "there is nothing to sign with: {}", page.text);
    let page = act(&browser, "test").await;
    assert!(page.contains("Nothing was sent: set CLERK_WEBHOOK_SECRET"), "{page}");
    assert_eq!(deliveries(&server).await.len(), 0);
    let refused = server.client.bearing(ADMIN).post("/api/admin/test-deliveries", json!({})).await.expect(503);
    assert_eq!(refused.code(), "webhooks_not_configured");
    server.stop().await;

    let server = Server::with(&with(&["--clerk-webhook-secret", SECRET])).await;
    let browser = Browser::signed_in(server.address).await;
    let page = browser.get("/admin").await.expect(200).text;
    assert!(page.contains(LINK) && page.contains("There are no tenants yet."), "{page}");
    let page = act(&browser, "sample").await;
    assert!(page.contains("The tenant sample_tenant is there now."), "{page}");
    assert!(page.contains("href=\"/admin/tenants/sample_tenant\""), "{page}");
    let row = server.app.store().find(&"sample_tenant".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((row.state, row.profile.email.as_deref()), (State::Active, Some("sample@example.com")));
    assert!(!browser.get("/admin").await.expect(200).text.contains(LINK));
    // From a page that was open before.
    let page = browser.get("/admin/keys").await.expect(200);
    browser.submit(&page, "/admin/first-run/sample", &[]).await.expect(303);
    let told = browser.get("/admin/first-run").await.expect(200).text;
    assert!(told.contains("The tenant sample_tenant was there already."), "{told}");
    server.app.store().delete(&"sample_tenant".parse().unwrap(), &author()).await.unwrap();
    browser.submit(&page, "/admin/first-run/sample", &[]).await.expect(303);
    let told = browser.get("/admin/first-run").await.expect(200).text;
    assert!(told.contains("No tenant was made: sample_tenant is deleted;"), "{told}");
    browser.submit(&page, "/admin/first-run/everything", &[]).await.expect(404);
    server.stop().await;
}

#[tokio::test]
async fn a_test_delivery_goes_the_way_of_all_and_is_no_sign_of_life_of_the_sender() {
    for flags in [
        with(&["--clerk-webhook-secret", SECRET]),
        with(&["--clerk-webhook-secret", SECRET, "--hookdeck-signing-secret", HOOKDECK]),
    ] {
        let server = Server::with(&flags).await;
        let browser = Browser::signed_in(server.address).await;
        let page = act(&browser, "test").await;
        assert!(page.contains("The endpoint works:") && page.contains("It answered 200 ignored"), "{page}");
        let found = deliveries(&server).await;
        assert_eq!(found.len(), 1);
        let (id, kind, outcome) = (&found[0]["svix_id"], &found[0]["type"], &found[0]["outcome"]);
        assert_eq!((kind, outcome), (&json!("cubby.test"), &json!("ignored")));
        let id = id.as_str().unwrap();
        assert!(page.contains(&format!("href=\"/admin/deliveries/{id}\"")), "{page}");
        let seen = server.client.bearing(ADMIN).get("/api/health/user-sync").await.expect(200).json();
        assert_eq!((&seen["last_delivery_age"], &seen["local_count"]), (&Value::Null, &json!(0)), "{seen}");
        let trail = server.client.bearing(ADMIN).get("/api/admin/audit").await.expect(200).json();
        let line = &trail["audit"][0];
        assert_eq!(
            (&line["action"], &line["target"], &line["result"]),
            (&json!("deliveries test"), &json!(id), &json!("done"))
        );
        assert_eq!(line["origin"], "127.0.0.1");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_test_that_fails_says_what_was_answered() {
    let server = Server::with(&with(&["--clerk-webhook-secret", SECRET])).await;
    let refusing = "CREATE TRIGGER refusing BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ABORT, 'no'); END";
    server.app.store().catalog().write(move |tx| tx.execute(refusing, [])).await.unwrap();
    let tested = server.client.bearing(ADMIN).post("/api/admin/test-deliveries", json!({})).await.expect(200).json();
    assert_eq!((&tested["status"], &tested["code"]), (&json!(500), &json!("delivery_failed")), "{tested}");
    let browser = Browser::signed_in(server.address).await;
    let page = act(&browser, "test").await;
    assert!(page.contains("The endpoint refused delivery") && page.contains("500 delivery_failed"), "{page}");
    for path in ["/api/admin/test-deliveries", "/api/admin/sample-tenants"] {
        server.client.post(path, json!({})).await.expect(401);
    }
    server.client.get("/api/admin/first-run").await.expect(401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_do_what_the_buttons_do_on_the_folder_and_on_a_server() {
    let folder = TempDir::new().unwrap();
    assert_eq!(stdout(&run(folder.path(), &["tenants", "sample"])), "sample_tenant created\n");
    assert_eq!(stdout(&run(folder.path(), &["tenants", "sample"])), "sample_tenant exists already\n");
    let bare = run(folder.path(), &["deliveries", "test"]);
    assert_eq!(bare.status.code(), Some(1), "{bare:?}");
    assert!(String::from_utf8_lossy(&bare.stderr).contains("set CLERK_WEBHOOK_SECRET"), "{bare:?}");
    let here = run(folder.path(), &["deliveries", "test", "--clerk-webhook-secret", SECRET]);
    assert!(stdout(&here).contains(": 200 ignored; signed, sent, verified and recorded"), "{here:?}");

    let server = Process::start(folder.path(), &with(&["--clerk-webhook-secret", SECRET]));
    let ask = |arguments: &[&str]| {
        let mut command = cubby();
        command.args(arguments).arg("--data").arg(folder.path());
        command.env("CUBBY_URL", format!("http://{}", server.address)).env("ADMIN_API_KEY", ADMIN).output().unwrap()
    };
    let tested: Value = serde_json::from_str(&stdout(&ask(&["deliveries", "test", "--json"]))).unwrap();
    assert_eq!((&tested["status"], &tested["answer"]["status"]), (&json!(200), &json!("ignored")));
    assert_eq!(stdout(&ask(&["tenants", "sample"])), "sample_tenant exists already\n");
    let listed = stdout(&ask(&["deliveries", "list"]));
    assert_eq!(listed.matches("cubby.test").count(), 2, "{listed}");
}

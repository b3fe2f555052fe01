//! The dashboard over HTTP, as a browser has it: cookies are kept, redirects are seen, forms are sent with what is in them.

mod browser;
mod bulk;
mod data;
mod deliveries;
mod first_run;
mod hostile;
mod live;
mod migrations;
#[cfg(feature = "replicate")]
mod replica;
mod search;
mod sign_in;
mod sync;
mod tenant;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use cubby::{
    catalog::model::{Profile, State},
    clock::Clock,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::browser::{ADMIN, Browser, FLAGS};
use crate::harness::{Process, Server, author, cubby, stdout};

/// A server with a user, and a browser that is signed in.
async fn seat() -> (Server, Browser) {
    let server = Server::with(FLAGS).await;
    let profile = Profile { email: Some("ada@example.com".into()), ..Profile::default() };
    server.app.store().create(&"ada".parse().unwrap(), profile, &author()).await.unwrap();
    let browser = Browser::signed_in(server.address).await;
    (server, browser)
}

/// A server whose time of day, in milliseconds, is given out, and a browser that is signed in.
async fn seat_with_clock() -> (Server, Browser, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(1_700_000_000_000));
    let told = now.clone();
    let clock = Clock::new(move || told.load(Ordering::Relaxed));
    let flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    let server = Server::at(&clock, &flags).await;
    let browser = Browser::signed_in(server.address).await;
    (server, browser, now)
}

async fn state(server: &Server) -> (State, Option<String>) {
    let row = server.app.store().find(&"ada".parse().unwrap()).await.unwrap().unwrap();
    (row.state, row.reason)
}

/// Sends a form of ada's page and gives the page that it leads to.
async fn act(browser: &Browser, action: &str, fields: &[(&str, &str)]) -> String {
    let page = browser.get("/admin/tenants/ada").await.expect(200);
    let sent = browser.submit(&page, &format!("/admin/tenants/ada/{action}"), fields).await.expect(303);
    assert_eq!(sent.location, "/admin/tenants/ada");
    browser.get("/admin/tenants/ada").await.expect(200).text
}

#[tokio::test]
async fn every_page_is_there_and_tells_its_own_things() {
    let (server, browser) = seat().await;
    for (path, told) in [
        ("/admin", "Nothing is wrong."),
        ("/admin/tenants", "ada@example.com"),
        ("/admin/tenants/ada", "ada@example.com"),
        ("/admin/bulk", "Nothing was done to many tenants"),
        ("/admin/sync", "There are no runs."),
        ("/admin/deliveries", "There are no deliveries."),
        ("/admin/migrations", "No migration of all tenants has been started yet."),
        #[cfg(feature = "replicate")]
        ("/admin/replica", "CUBBY_REPLICATE="),
        ("/admin/first-run", "Make the endpoint at Clerk"),
        ("/admin/keys", "There are no keys."),
        ("/admin/audit", "dashboard sign-in"),
        ("/admin/settings", "Settings"),
        ("/admin/about", env!("CARGO_PKG_VERSION")),
    ] {
        let page = browser.get(path).await.expect(200);
        assert!(page.text.contains(told), "{path}: {}", page.text);
        assert_eq!(page.header("cache-control"), "no-store", "{path}");
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert!(page.text.contains("Skip to the content"), "{path}");
    }
    for path in [
        "/admin/nothing",
        "/admin/tenants/nobody",
        "/admin/deliveries/msg_nothing",
        "/admin/sync/run_nobody",
        "/admin/sync/runs",
    ] {
        let page = browser.get(path).await.expect(404);
        assert!(page.text.starts_with("<!doctype html>"), "{path}: {}", page.text);
    }
    // As a form leaves them in the browser's bar.
    for (path, above) in [
        ("/admin/bulk/confirm", "/admin/bulk"),
        ("/admin/keys/make", "/admin/keys"),
        #[cfg(feature = "replicate")]
        ("/admin/replica/verify", "/admin/replica"),
        #[cfg(feature = "replicate")]
        ("/admin/tenants/ada/moments/look", "/admin/tenants/ada/moments"),
    ] {
        assert_eq!(browser.get(path).await.expect(303).location, above);
        let sign_in = Browser::new(server.address).get(path).await.expect(303).location;
        assert!(sign_in.starts_with("/admin/sign-in"), "{path}: {sign_in}");
    }
    let page = browser.get("/admin").await.expect(200);
    for asset in page.text.split('"').filter(|part| part.starts_with("/admin/assets/")) {
        let asset = browser.get(asset).await.expect(200);
        assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_operator_suspends_resumes_deletes_restores_purges_and_revives_and_the_trail_says_so() {
    let (server, browser) = seat().await;
    let page = act(&browser, "suspend", &[("reason", "unpaid + overdue")]).await;
    assert!(page.contains("The tenant is suspended now.") && page.contains("unpaid + overdue"), "{page}");
    assert_eq!(state(&server).await, (State::Suspended, Some("unpaid + overdue".into())));
    act(&browser, "resume", &[]).await;
    assert_eq!(state(&server).await.0, State::Active);

    let page = act(&browser, "delete", &[("confirm", "adam")]).await;
    assert!(page.contains("the id that was typed is not this tenant"), "{page}");
    assert_eq!(state(&server).await.0, State::Active, "nothing happens without the id");
    act(&browser, "delete", &[("confirm", "ada")]).await;
    assert_eq!(state(&server).await.0, State::Deleted);
    act(&browser, "restore", &[]).await;
    assert_eq!(state(&server).await.0, State::Active);
    let page = act(&browser, "migrate", &[]).await;
    assert!(page.contains("The database has schema"), "{page}");

    act(&browser, "purge", &[]).await;
    assert_eq!(state(&server).await.0, State::Active);
    act(&browser, "purge", &[("confirm", "ada")]).await;
    let page = browser.get("/admin/tenants/ada").await.expect(200).text;
    assert!(page.contains("purged") && !page.contains("ada@example.com"), "{page}");
    act(&browser, "revive", &[]).await;
    assert_eq!(state(&server).await.0, State::Active);

    let page = act(&browser, "revive", &[]).await;
    assert!(page.contains("Nothing was changed:"), "a refusal is told: {page}");
    let operator = server.client.bearing(ADMIN);
    let trail = operator.get("/api/admin/audit?target=ada").await.expect(200).json();
    let lines: Vec<&Value> = trail["audit"].as_array().unwrap().iter().collect();
    for action in ["suspend", "resume", "delete", "restore", "purge", "revive"] {
        let named = format!("tenants {action}");
        let found = lines.iter().find(|line| line["action"] == *named);
        let line = found.unwrap_or_else(|| panic!("{named} is not in {lines:?}"));
        assert_eq!((&line["actor"], &line["origin"]), (&json!("operator"), &json!("127.0.0.1")), "{line}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_tenant_that_went_away_between_two_clicks_is_told_of() {
    let (server, browser) = seat().await;
    let page = browser.get("/admin/tenants/ada").await.expect(200);
    server.app.store().delete(&"ada".parse().unwrap(), &author()).await.unwrap();
    browser.submit(&page, "/admin/tenants/ada/suspend", &[("reason", "x")]).await.expect(303);
    let page = browser.get("/admin/tenants/ada").await.expect(200).text;
    assert!(page.contains("Nothing was changed:") && page.contains("Restore"), "{page}");
    server.stop().await;
}

#[tokio::test]
async fn a_key_is_shown_once_works_and_is_revoked() {
    let (server, browser) = seat().await;
    let page = browser.get("/admin/keys").await.expect(200);
    let fields = [("name", "a job"), ("user_id", "ada"), ("read_only", "true"), ("days", "7")];
    let page = browser.submit(&page, "/admin/keys/make", &fields).await.expect(201);
    let secret = page.text.split("<code id=\"secret\">").nth(1).expect("the key").split('<').next().unwrap().to_owned();
    assert!(secret.starts_with("cubby_live_"), "{secret}");
    let again = browser.get("/admin/keys").await.expect(200);
    assert!(!again.text.contains(&secret) && again.text.contains("a job"), "{}", again.text);
    let holds = |server: &Server| server.app.identity().keys().find(&secret, server.app.clock().now()).is_some();
    assert!(holds(&server));
    let listed = server.client.bearing(ADMIN).get("/api/admin/keys").await.expect(200).json();
    let key = &listed["keys"][0];
    assert_eq!((&key["tenant"], &key["read_only"], &key["sql"]), (&json!("ada"), &json!(true), &json!(false)));
    let id = key["id"].as_str().unwrap();
    browser.submit(&again, "/admin/keys/revoke", &[("key_id", id)]).await.expect(303);
    assert!(!holds(&server));
    for wrong in [[("name", ""), ("days", "")], [("name", "x"), ("days", "soon")], [("name", "x"), ("days", "0")]] {
        let page = browser.get("/admin/keys").await.expect(200);
        browser.submit(&page, "/admin/keys/make", &wrong).await.expect(303);
        let page = browser.get("/admin/keys").await.expect(200).text;
        assert!(page.contains("No key was made:"), "{wrong:?}: {page}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_say_what_is_set_and_from_where_and_never_a_secret() {
    const SECRET: &str = "whsec_aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=";
    let folder = TempDir::new().unwrap();
    let mut command = cubby();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--idle", "7m", "--data"]);
    command.arg(folder.path()).env("ADMIN_API_KEY", ADMIN).env("CLERK_WEBHOOK_SECRET", SECRET);
    let server = Process::spawn(command);
    let settings = server.client.bearing(ADMIN).get("/api/admin/settings").await.expect(200).json();
    let of = |variable: &str| {
        let all = settings["settings"].as_array().unwrap();
        let found = all.iter().find(|setting| setting["variable"] == variable).unwrap();
        (found["value"].clone(), found["source"].clone())
    };
    assert_eq!(of("CUBBY_IDLE"), (json!("7m"), json!("flag")));
    assert_eq!(of("ADMIN_API_KEY"), (json!("set"), json!("environment")));
    assert_eq!(of("CLERK_WEBHOOK_SECRET"), (json!("set"), json!("environment")));
    assert_eq!(of("CUBBY_CACHE"), (json!("1MiB"), json!("default")));
    assert_eq!(of("CLERK_SECRET_KEY"), (Value::Null, json!("not set")));
    let browser = Browser::signed_in(server.address).await;
    let page = browser.get("/admin/settings").await.expect(200).text;
    assert!(page.contains("CUBBY_IDLE") && page.contains("7m"), "{page}");
    for secret in [ADMIN, SECRET, "aGVsbG8"] {
        assert!(!page.contains(secret) && !settings.to_string().contains(secret));
    }
    server.signal("TERM");
    assert!(server.wait().success());
}

#[tokio::test]
async fn the_dashboard_is_on_the_operators_listener_alone_if_there_is_one() {
    let flags: Vec<&str> = FLAGS.iter().copied().chain(["--admin-listen", "127.0.0.1:0"]).collect();
    let server = Server::with(&flags).await;
    for path in ["/admin", "/admin/sign-in", "/admin/tenants"] {
        server.client.get(path).await.expect(404);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_lists_what_the_page_does() {
    let folder = TempDir::new().unwrap();
    let run = |arguments: &[&str]| stdout(&crate::harness::run(folder.path(), arguments));
    run(&["tenants", "create", "ada", "--email", "ada@example.com"]);
    run(&["tenants", "create", "bob", "--email", "bob@example.com"]);
    let found = run(&["tenants", "list", "--search", "ADA@exam"]);
    assert!(found.contains("\nada ") && !found.contains("\nbob "), "{found}");
    let newest = run(&["tenants", "list", "--sort", "created", "--limit", "1", "--json"]);
    assert!(newest.contains("\"id\":\"bob\"") && !newest.contains("\"id\":\"ada\""), "{newest}");
}

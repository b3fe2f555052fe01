//! The way in: the key, the cookie, forged forms, expiry, and the way out.

use std::sync::atomic::Ordering;

use super::{ADMIN, Browser, FLAGS, seat, seat_with_clock, state};
use crate::harness::Server;

const PAGES: [&str; 12] = [
    "/admin",
    "/admin/tenants",
    "/admin/tenants/ada",
    "/admin/deliveries",
    "/admin/first-run",
    "/admin/migrations",
    "/admin/migrations/progress",
    "/admin/events",
    "/admin/keys",
    "/admin/audit",
    "/admin/settings",
    "/admin/about",
];

#[tokio::test]
async fn no_page_is_shown_without_a_session_and_the_sign_in_leads_back() {
    let server = Server::with(FLAGS).await;
    let browser = Browser::new(server.address);
    for path in PAGES.into_iter().chain(["/admin/nothing", "/admin/tenants?q=a+b"]) {
        let page = browser.get(path).await.expect(303);
        assert!(page.location.starts_with("/admin/sign-in?next=%2Fadmin"), "{path}: {}", page.location);
        assert!(page.text.is_empty(), "{path}");
    }
    let page = browser.get("/admin/tenants?q=a+b").await;
    let form = browser.get(&page.location).await.expect(200);
    assert!(form.text.contains("value=\"/admin/tenants?q=a+b\""), "{}", form.text);
    let entered = browser.sign_in(ADMIN, "/admin/tenants?q=a+b").await.expect(303);
    assert_eq!(entered.location, "/admin/tenants?q=a+b");
    for next in ["https://evil.example", "//evil.example", "/admin/../x\r\ny", "/administrator"] {
        let entered = Browser::new(server.address).sign_in(ADMIN, next).await.expect(303);
        assert_eq!(entered.location, "/admin", "{next:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_cookie_is_for_the_dashboard_alone_and_secure_over_https() {
    let server = Server::with(FLAGS).await;
    let browser = Browser::new(server.address);
    let entered = browser.sign_in(&format!(" {ADMIN} "), "/admin").await.expect(303);
    let cookie = entered.set_cookies.iter().find(|cookie| cookie.starts_with("cubby_operator=")).unwrap();
    for part in ["; Path=/admin;", "; HttpOnly", "; SameSite=Strict", "; Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "{cookie}");
    assert!(!cookie.contains(ADMIN));
    let form = browser.send(browser.request("GET", "/admin/sign-in").header("x-forwarded-proto", "https")).await;
    assert!(form.set_cookies[0].ends_with("; Secure"), "{:?}", form.set_cookies);
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_a_thousand_of_them_are_limited_but_not_the_right_one() {
    let flags: Vec<&str> = FLAGS.iter().copied().chain(["--key-failures", "3/m:3"]).collect();
    let server = Server::with(&flags).await;
    let browser = Browser::new(server.address);
    for wrong in ["", "an operator's key", "an operator's key of some lengths"] {
        let page = browser.sign_in(wrong, "/admin").await.expect(401);
        assert!(page.text.contains("not the operator"), "{}", page.text);
    }
    let limited = browser.sign_in("x", "/admin").await.expect(429);
    assert!(!limited.header("retry-after").is_empty());
    assert!(browser.cookie("cubby_operator").is_none());
    browser.sign_in(ADMIN, "/admin").await.expect(303);
    browser.get("/admin").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_forged_form_changes_nothing() {
    let (server, browser) = seat().await;
    let (mine, other) = (browser.get("/admin/keys").await, Browser::signed_in(server.address).await);
    let theirs = other.get("/admin/keys").await.csrf().to_owned();
    assert_ne!(mine.csrf(), theirs);
    for csrf in ["", "x", theirs.as_str()] {
        for path in [
            "/admin/tenants/ada/suspend",
            "/admin/tenants/ada/delete",
            "/admin/migrations/start",
            "/admin/first-run/test",
            "/admin/first-run/sample",
            "/admin/keys/make",
            "/admin/keys/revoke",
            "/admin/deliveries/msg_x/replay",
            "/admin/bulk/start",
            "/admin/sync/apply",
            "/admin/sign-out",
        ] {
            let fields = [("csrf", csrf), ("reason", "x"), ("confirm", "ada"), ("name", "x")];
            let page = browser.post(path, &fields).await.expect(403);
            assert!(page.text.contains("forged_form"), "{path}: {}", page.text);
        }
    }
    assert_eq!(state(&server).await.0, cubby::State::Active);
    browser.get("/admin").await.expect(200);
    // The sign-in's form is one's own, too: nobody is signed in by another site.
    let stranger = Browser::new(server.address);
    stranger.post("/admin/sign-in", &[("csrf", ""), ("key", ADMIN)]).await.expect(403);
    stranger.post("/admin/sign-in", &[("csrf", "x"), ("key", ADMIN)]).await.expect(403);
    // JSON is no form.
    let json = browser.request("POST", "/admin/keys/make").header("content-type", "application/json").body("{}");
    browser.send(json).await.expect(415);
    let listed = server.client.bearing(ADMIN).get("/api/admin/keys").await.expect(200).json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_session_expires_and_ends_by_signing_out_and_a_stolen_cookie_with_it() {
    let (server, browser, now) = seat_with_clock().await;
    let page = browser.get("/admin/keys").await.expect(200);
    now.fetch_add(61 * 60 * 1000, Ordering::Relaxed);
    let late = browser.submit(&page, "/admin/keys/make", &[("name", "x")]).await.expect(303);
    assert_eq!(late.location, "/admin/sign-in?next=%2Fadmin%2Fkeys&expired", "to the page that the form was on");
    let form = browser.get(&late.location).await.expect(200);
    assert!(form.text.contains("Your session has ended"), "{}", form.text);
    let listed = server.client.bearing(ADMIN).get("/api/admin/keys").await.expect(200).json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 0, "the form was not applied");

    browser.sign_in(ADMIN, "/admin/keys").await.expect(303);
    let stolen = browser.cookie("cubby_operator").unwrap();
    let page = browser.get("/admin").await.expect(200);
    browser.submit(&page, "/admin/sign-out", &[]).await.expect(303);
    assert!(browser.cookie("cubby_operator").is_none());
    let thief = Browser::new(server.address);
    thief.set_cookie("cubby_operator", &stolen);
    thief.get("/admin").await.expect(303);
    server.stop().await;
}

#[tokio::test]
async fn without_an_operators_key_nobody_signs_in() {
    let server = Server::start().await;
    let browser = Browser::new(server.address);
    let page = browser.get("/admin/sign-in").await.expect(503);
    assert!(page.text.contains("ADMIN_API_KEY") && !page.text.contains("<form"), "{}", page.text);
    server.stop().await;
}

#[tokio::test]
async fn a_signed_in_operator_is_not_counted_with_other_callers() {
    let server = Server::with(&[FLAGS, &["--address-rate", "1/h:4"]].concat()).await;
    let browser = Browser::signed_in(server.address).await;
    for _ in 0..3 {
        server.client.get("/ada").await;
    }
    assert_eq!(server.client.get("/ada").await.status, 429);
    for _ in 0..5 {
        browser.get("/admin/about").await.expect(200);
    }
    Browser::new(server.address).get("/admin/about").await.expect(429);
    server.stop().await;
}

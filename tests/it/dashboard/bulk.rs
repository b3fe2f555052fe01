//! One change of many tenants, on its pages.

use std::sync::atomic::Ordering;

use cubby::catalog::model::State;

use super::{ADMIN, Browser, FLAGS, browser::Page, seat_with_clock};
use crate::{
    bulk::{fill, over},
    harness::{Server, author},
};

const HARM: &str = "<script>alert(1)</script>\" onfocus=\"x\u{202e}";

async fn active(server: &Server) -> usize {
    server.app.store().list(Some(State::Active), None, 1000).await.unwrap().len()
}

/// The fields of the confirmation that a page has.
fn asked(text: &str) -> Vec<(&'static str, String)> {
    ["action", "ids", "state", "q", "count", "as_of", "digest"]
        .map(|name| {
            let field = format!("type=\"hidden\" name=\"{name}\" value=\"");
            let form = text.split("action=\"/admin/bulk/start\"").nth(1).expect("the form of the confirmation");
            (name, form.split(&field).nth(1).expect(name).split('"').next().unwrap().to_owned())
        })
        .into()
}

async fn send(browser: &Browser, page: &Page, more: &[(&str, &str)]) -> Page {
    let fields = asked(&page.text);
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let fields: Vec<(&str, &str)> = fields.into_iter().chain(more.iter().copied()).collect();
    browser.submit(page, "/admin/bulk/start", &fields).await
}

async fn confirm(browser: &Browser, page: &Page, more: &[(&str, &str)]) -> String {
    send(browser, page, more).await.expect(303).location
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_chosen_confirmed_by_their_number_and_told_of() {
    let server = Server::with(FLAGS).await;
    fill(server.app.store(), "user", 60).await;
    let browser = Browser::signed_in(server.address).await;
    let operator = server.client.bearing(ADMIN);
    assert!(browser.get("/admin/bulk").await.expect(200).text.contains("Nothing was done to many tenants"));
    let list = browser.get("/admin/tenants").await.expect(200);
    assert!(list.text.contains("name=\"tenant.user_0007\""), "{}", list.text);

    // Nobody ticked.
    let fields = [("action", "suspend"), ("whom", "chosen"), ("q", ""), ("state", "active")];
    let page = browser.submit(&list, "/admin/bulk/confirm", &fields).await.expect(303);
    assert_eq!(page.location, "/admin/tenants?state=active");
    assert!(browser.get("/admin/tenants").await.expect(200).text.contains("Nobody is chosen."));

    // Two ticked, and another number typed.
    let fields = [("action", "suspend"), ("whom", "chosen"), ("tenant.user_0003", "on"), ("tenant.user_0007", "on")];
    let page = browser.submit(&list, "/admin/bulk/confirm", &fields).await.expect(200);
    assert!(page.text.contains("Suspend 2 tenants") && page.text.contains("<code>suspend 2</code>"), "{}", page.text);
    // The question is asked again, of those that were ticked.
    let again = send(&browser, &page, &[("confirm", "suspend 3"), ("reason", "as \"agreed\"")]).await.expect(200);
    assert!(again.text.contains("what was typed is neither 2 nor"), "{}", again.text);
    assert!(again.text.contains("value=\"user_0003 user_0007\""), "{}", again.text);
    assert!(again.text.contains("agreed") && !again.text.contains("\"agreed\""), "{}", again.text);
    assert_eq!(asked(&again.text), asked(&page.text));
    assert_eq!(active(&server).await, 60);
    // Without a reason the route refuses, and that is told.
    let page = send(&browser, &again, &[("confirm", "2")]).await.expect(200);
    assert!(
        page.text.contains("Nothing was changed:") && page.text.contains("<code>suspend 2</code>"),
        "{}",
        page.text
    );
    assert_eq!(confirm(&browser, &page, &[("confirm", " Suspend  2"), ("reason", HARM)]).await, "/admin/bulk");
    over(&operator).await;
    let told = browser.get("/admin/bulk").await.expect(200).text;
    assert!(told.contains("2 suspended") && told.contains("2 of 2 handled") && told.contains("<progress"), "{told}");
    assert!(!told.contains("<script>alert") && !told.contains('\u{202e}'), "{told}");
    assert_eq!(active(&server).await, 58);
    // The form was good for one run.
    let resume = [("action", "resume"), ("whom", "chosen"), ("tenant.user_0003", "on")];
    let resume = browser.submit(&list, "/admin/bulk/confirm", &resume).await.expect(200);
    confirm(&browser, &resume, &[("confirm", "1")]).await;
    over(&operator).await;
    let told = send(&browser, &page, &[("confirm", "2"), ("reason", "x")]).await.expect(200).text;
    assert!(told.contains("Nothing was changed:") && told.contains("Look again"), "{told}");
    assert!(told.contains("Suspend 2 tenants"), "{told}");
    assert_eq!(active(&server).await, 59);
    let told = browser.get("/admin/bulk?action=suspend&state=suspended&q=us").await.expect(200).text;
    assert!(told.contains("all that are suspended and whose id begins with “us”"), "{told}");
    let told = browser.get("/admin/bulk?action=resume").await.expect(200).text;
    assert!(told.contains("59 more match, whose state this does not change: they are left out."), "{told}");
    let told = browser.get("/admin/bulk?action=resume&state=active").await.expect(200).text;
    assert!(told.contains("There is nobody to resume.") && !told.contains("/admin/bulk/start"), "{told}");
    let part = browser.get("/admin/bulk/progress").await.expect(200).text;
    assert!(part.contains("1 resumed") && !part.contains("<html"), "a part of the page: {part}");

    // All that match, on every page.
    let fields =
        [("action", "delete"), ("whom", "all"), ("q", "user_"), ("state", "active"), ("tenant.user_0003", "on")];
    let page = browser.submit(&list, "/admin/bulk/confirm", &fields).await.expect(200);
    assert!(
        page.text.contains("Delete 59 tenants: all that are active and whose id, address or name has"),
        "{}",
        page.text
    );
    confirm(&browser, &page, &[("confirm", "delete 59")]).await;
    over(&operator).await;
    assert_eq!(active(&server).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_between_two_clicks_is_told_of() {
    let server = Server::with(FLAGS).await;
    fill(server.app.store(), "user", 3).await;
    let (browser, other) = (Browser::signed_in(server.address).await, Browser::signed_in(server.address).await);
    let operator = server.client.bearing(ADMIN);
    let page = browser.get("/admin/bulk?action=delete&state=active").await.expect(200);
    // Another operator resumes one more meanwhile.
    let id = "user_0000".parse().unwrap();
    server.app.store().suspend(&id, "x", &author()).await.unwrap();
    let smaller = other.get("/admin/bulk?action=delete&state=active").await.expect(200);
    server.app.store().resume(&id, &author()).await.unwrap();
    let told = send(&other, &smaller, &[("confirm", "2")]).await.expect(200).text;
    assert!(told.contains("3 users match now, more than the 2 that were confirmed; nothing was changed"), "{told}");
    assert!(told.contains("<code>delete 3</code>"), "those that match now: {told}");
    // One goes away, which is less than what was confirmed.
    server.app.store().delete(&id, &author()).await.unwrap();
    let again = send(&browser, &page, &[("confirm", "3")]).await.expect(200);
    assert!(again.text.contains("Look again") && again.text.contains("<code>delete 2</code>"), "{}", again.text);
    assert_eq!(active(&server).await, 2);
    confirm(&browser, &again, &[("confirm", "2")]).await;
    over(&operator).await;
    let told = browser.get("/admin/bulk").await.expect(200).text;
    assert!(told.contains("2 of 2 handled") && told.contains("2 deleted"), "{told}");
    // Both press stop on an old page.
    other.submit(&page, "/admin/bulk/stop", &[("run", "run_x")]).await.expect(403);
    browser.submit(&page, "/admin/bulk/stop", &[("run", "run_x")]).await.expect(303);
    let told = browser.get("/admin/bulk").await.expect(200).text;
    assert!(told.contains("It was not stopped: the run run_x is not under way"), "{told}");
    server.stop().await;
}

#[tokio::test]
async fn forged_expired_and_hostile_forms_change_nobody() {
    let server = Server::with(FLAGS).await;
    fill(server.app.store(), "user", 3).await;
    let browser = Browser::signed_in(server.address).await;
    let good = [("action", "delete"), ("count", "3"), ("as_of", "3"), ("digest", "x"), ("confirm", "3")];
    for path in ["start", "confirm", "stop"] {
        let path = format!("/admin/bulk/{path}");
        let forged = browser.post(&path, &good).await.expect(403);
        assert!(forged.text.contains("forged_form"), "{}", forged.text);
        let expired = Browser::new(server.address);
        expired.set_cookie("cubby_operator", "of yesterday");
        let sent = expired.post(&path, &good).await.expect(303);
        assert!(sent.location.starts_with("/admin/sign-in?next=%2Fadmin%2Fbulk"), "{}", sent.location);
    }
    let page = browser.get("/admin/bulk?action=delete").await.expect(200);
    let long = "x".repeat(10_000);
    for harm in [HARM, &long, "</title><img src=x>"] {
        let name = format!("tenant.{harm}");
        let fields = [("action", "delete"), (name.as_str(), "on")];
        let told = browser.submit(&page, "/admin/bulk/confirm", &fields).await;
        assert!([400, 422].contains(&told.status), "{}", told.text);
        assert!(!told.text.contains("<script>alert") && !told.text.contains("<img") && told.text.len() < 10_000);
        let fields =
            [("action", harm), ("ids", harm), ("count", "1"), ("as_of", "1"), ("digest", harm), ("confirm", "1")];
        browser.submit(&page, "/admin/bulk/start", &fields).await.expect(303);
        let told = browser.get("/admin/bulk").await.expect(200).text;
        assert!(told.contains("Nothing was changed:"), "{told}");
        assert!(!told.contains("<script>alert") && !told.contains("<img") && !told.contains('\u{202e}'), "{told}");
        let encoded = cubby::http::segment::encode(harm);
        for query in [
            format!("action=delete&q={encoded}"),
            format!("action={encoded}"),
            format!("action=delete&state={encoded}"),
        ] {
            let told = browser.get(&format!("/admin/bulk?{query}")).await;
            assert!(!told.text.contains("<script>alert") && !told.text.contains("<img"), "{query}: {}", told.text);
        }
    }
    let without_digest = vec![("action", "delete"), ("count", "3"), ("as_of", "3"), ("confirm", "3")];
    let no_number = vec![("count", "x"), ("as_of", "1"), ("digest", "x")];
    for fields in [vec![("action", "delete")], no_number, without_digest] {
        let told = browser.submit(&page, "/admin/bulk/start", &fields).await.expect(400);
        assert!(told.text.starts_with("<!doctype html>"), "{}", told.text);
    }
    assert_eq!(active(&server).await, 3);
    server.stop().await;
}

#[tokio::test]
async fn a_page_that_looks_how_far_a_run_is_does_not_make_a_session_last() {
    let (server, browser, now) = seat_with_clock().await;
    now.fetch_add(59 * 60 * 1000, Ordering::Relaxed);
    browser.get("/admin/bulk/progress").await.expect(200);
    now.fetch_add(60 * 1000, Ordering::Relaxed);
    browser.get("/admin/bulk/progress").await.expect(303);
    server.stop().await;
}

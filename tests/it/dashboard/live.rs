//! The overview: what is wrong with where it is mended, the last hour, and events that keep it up to date.

use std::sync::atomic::Ordering;

use cubby::catalog::{
    model::{Delivery, DeliveryOutcome},
    queries::deliveries,
};
use serde_json::{Value, json};

use super::{ADMIN, Browser, FLAGS, seat, seat_with_clock};
use crate::harness::{
    Server, author,
    clerk::Clerk,
    events::Events,
    sender::{SECRET, user},
};

async fn listen(browser: &Browser) -> Events {
    let cookie = format!("cubby_operator={}", browser.cookie("cubby_operator").unwrap());
    Events::of(browser.request("GET", "/admin/events").header("cookie", cookie).send().await.unwrap())
}

/// The next event that has the page's live part.
async fn live(events: &mut Events) -> String {
    let event = events.next().await;
    assert_eq!(event.name, "live", "{event:?}");
    event.data["html"].as_str().unwrap().to_owned()
}

async fn recent(server: &Server) -> Vec<Value> {
    let answer = server.client.bearing(ADMIN).get("/api/admin/recent").await.expect(200).json();
    assert_eq!(answer["every"], 10);
    answer["samples"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_last_hour_is_the_same_as_json_as_charts_and_in_words() {
    let (server, browser) = seat().await;
    server.app.sample().await;
    for n in 0..20 {
        server.client.note(&format!("user_{n}"), "x").await;
    }
    server.app.sample().await;
    let samples = recent(&server).await;
    let newest = samples.last().unwrap();
    // Other tests of this process are measured, too.
    let at_least = |name: &str, least: u64| {
        let found = newest[name].as_u64().unwrap_or_else(|| panic!("{name}: {newest}"));
        assert!(found >= least, "{name}: {newest}");
    };
    for (name, least) in [("requests", 20), ("writes", 20), ("commits", 1), ("flushes", 1), ("opened", 20), ("open", 1)]
    {
        at_least(name, least);
    }
    for name in ["span_ms", "median_us", "p99_us", "disk", "disk_free"] {
        at_least(name, 1);
    }
    assert_eq!(newest["sign_ups"], 20, "of this server alone: {newest}");
    assert!(newest["at"].as_str().unwrap().ends_with('Z'), "{newest}");

    // Without a script all of it is there.
    let page = browser.get("/admin").await.expect(200).text;
    for title in ["Requests", "Latency", "Writes", "Commits", "Open databases", "Deliveries", "Sign-ups", "Disk"] {
        assert!(page.contains(&format!("<strong>{title}</strong>")), "{title}: {page}");
        assert!(page.contains(&format!("aria-label=\"{title}")), "{title} is not told in words: {page}");
    }
    assert_eq!(page.matches("<svg ").count(), 9);
    assert!(page.contains("<path class=\"first\"") && page.contains(" d=\"M"), "{page}");
    assert!(page.contains("Disk in the last") && page.contains("at most"), "{page}");
    server.client.get("/api/admin/recent").await.expect(401);
    server.stop().await;
}

#[tokio::test]
async fn an_open_page_hears_of_each_sample_until_the_operator_signs_out() {
    let (server, browser) = seat().await;
    let mut events = listen(&browser).await;
    assert!(live(&mut events).await.contains("Nothing is wrong."));
    server.app.store().suspend(&"ada".parse().unwrap(), "unpaid", &author()).await.unwrap();
    server.app.sample().await;
    // A sample of the background may come before it.
    while !live(&mut events).await.contains("<strong>1</strong> <span>suspended</span>") {
        server.app.sample().await;
    }
    let other = Browser::signed_in(server.address).await;
    let mut theirs = listen(&other).await;
    live(&mut theirs).await;
    let page = browser.get("/admin").await.expect(200);
    browser.submit(&page, "/admin/sign-out", &[]).await.expect(303);
    assert_eq!(events.end().await, "session");
    server.app.sample().await;
    live(&mut theirs).await;
    server.stop().await;
}

#[tokio::test]
async fn an_open_page_does_not_make_a_session_last_and_ends_with_it() {
    let (server, browser, now) = seat_with_clock().await;
    now.fetch_add(59 * 60 * 1000, Ordering::Relaxed);
    let mut events = listen(&browser).await;
    live(&mut events).await;
    browser.get("/admin/migrations/progress").await.expect(200);
    now.fetch_add(60 * 1000, Ordering::Relaxed);
    server.app.sample().await;
    assert_eq!(events.end().await, "session");
    for path in ["/admin/events", "/admin/migrations/progress", "/admin"] {
        let page = browser.get(path).await.expect(303);
        assert!(page.location.starts_with("/admin/sign-in?next="), "{path}: {}", page.location);
    }
    server.stop().await;
}

#[tokio::test]
async fn open_pages_do_not_keep_a_shutdown_waiting() {
    let flags: Vec<&str> = FLAGS.iter().copied().chain(["--drain-timeout", "1h"]).collect();
    let mut server = Server::with(&flags).await;
    let browser = Browser::signed_in(server.address).await;
    let mut events = listen(&browser).await;
    live(&mut events).await;
    server.ask_to_stop();
    assert_eq!(events.end().await, "shutdown");
    server.stop().await;
}

#[tokio::test]
async fn so_many_pages_are_kept_up_to_date_and_no_more() {
    let (server, browser) = seat().await;
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(listen(&browser).await);
    }
    let refused = browser.get("/admin/events").await.expect(503);
    assert!(refused.text.contains("overloaded"), "{}", refused.text);
    browser.get("/admin").await.expect(200);
    drop(open);
    crate::harness::eventually("a place is free again", async || {
        let cookie = format!("cubby_operator={}", browser.cookie("cubby_operator").unwrap());
        let again = browser.request("GET", "/admin/events").header("cookie", cookie).send().await.unwrap();
        // The server sees that a client is gone when it sends.
        server.app.sample().await;
        again.status() == 200
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_leads_to_where_it_is_mended() {
    let clerk = Clerk::start().await;
    for id in ["user_1", "user_2", "user_3"] {
        clerk.add(user(id, "x", 10));
    }
    let flags = clerk.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).chain(FLAGS.iter().copied()).collect();
    flags.extend(["--clerk-webhook-secret", SECRET, "--sync-warn", "1"]);
    let server = Server::with(&flags).await;
    let catalog = server.app.store().catalog();
    server.app.store().create(&"ada".parse().unwrap(), Default::default(), &author()).await.unwrap();
    let why = "<script>alert(1)</script>";
    let at = server.app.clock().now();
    let failed = Delivery {
        svix_id: "msg_1".to_owned(),
        kind: "user.created".to_owned(),
        tenant: None,
        received: at,
        outcome: DeliveryOutcome::Failed,
        duration_us: 1,
        error: Some(why.to_owned()),
        answer: None,
        body: None,
    };
    catalog.write(move |tx| deliveries::record(tx, &failed)).await.unwrap();
    let quarantine = "UPDATE tenants SET state = 'quarantined', reason = ?1";
    catalog.write(move |tx| tx.execute(quarantine, [why])).await.unwrap();
    let run = json!({
        "run": "run_x", "status": "stopped", "phase": "canary", "schema": server.app.store().schema().version(),
        "options": {"canary": 1, "jobs": 1, "max_failures": "1"}, "started": "2026-01-01T00:00:00.000Z", "ended": null,
        "total": 1, "handled": 1, "canaries": 1, "migrated": 0, "already_current": 0, "gone": 0, "still_quarantined": 0,
        "failed": 1, "failures": [], "reason": why, "seconds_left": null, "after": null,
    });
    let insert = "INSERT INTO migration_runs (name, digest, started, report) VALUES ('run_x', 1, 1, ?1)";
    catalog.write(move |tx| tx.execute(insert, [run.to_string()])).await.unwrap();
    let browser = Browser::signed_in(server.address).await;
    let page = browser.get("/admin").await.expect(200).text;
    let list = page.split("<ul class=\"troubles\">").nth(1).expect("a list").split("</ul>").next().unwrap();
    for (what, href) in [
        ("1 quarantined", "/admin/tenants?state=quarantined"),
        ("The migration to schema", "/admin/migrations"),
        ("catalog and Clerk differ by 2 users", "/admin/sync"),
        ("1 deliveries fail", "/admin/deliveries?outcome=failed"),
    ] {
        let line = list.split("<li>").find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {list}"));
        assert!(line.contains(&format!("href=\"{href}\"")), "{line}");
    }
    assert!(!page.contains(why) && page.contains("has stopped: &"), "{list}");
    server.stop().await;
}

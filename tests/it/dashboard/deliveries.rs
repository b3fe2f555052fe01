//! Deliveries: pages, filters, payload and replay.

use std::collections::BTreeSet;

use cubby::{
    Store,
    catalog::{
        model::{Delivery, DeliveryOutcome, State},
        queries::deliveries,
    },
};
use serde_json::json;

use super::{ADMIN, Browser, FLAGS};
use crate::harness::{
    Server, cubby, run,
    sender::{event, user},
    stdout,
};

/// Deliveries of two types, some of the same moment; every tenth failed.
async fn fill(store: &Store, count: i64) {
    let write = move |tx: &rusqlite::Transaction| {
        for n in 0..count {
            let delivery = Delivery {
                svix_id: format!("msg_{n:04}"),
                kind: if n % 2 == 0 { "user.created" } else { "session.created" }.to_owned(),
                tenant: Some(format!("user_{}", n % 5).parse().unwrap()),
                received: 1000 + n / 3,
                outcome: if n % 10 == 0 { DeliveryOutcome::Failed } else { DeliveryOutcome::Ignored },
                duration_us: 1,
                error: None,
                answer: None,
                body: Some("{}".into()),
            };
            deliveries::record(tx, &delivery)?;
        }
        Ok(())
    };
    store.catalog().write(write).await.unwrap();
}

/// The deliveries of all pages, from one on.
async fn all(browser: &Browser, path: &str) -> Vec<String> {
    let (mut path, mut found) = (path.to_owned(), Vec::new());
    loop {
        let page = browser.get(&path).await.expect(200).text;
        let names =
            page.split("href=\"/admin/deliveries/").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        found.extend(names);
        match page.split("rel=\"next\" href=\"").nth(1) {
            Some(rest) => path = rest.split('"').next().unwrap().replace("&amp;", "&").replace("&#38;", "&"),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_each_delivery_once_under_each_filter() {
    let server = Server::with(FLAGS).await;
    fill(server.app.store(), 220).await;
    let browser = Browser::signed_in(server.address).await;
    for (query, count) in [
        ("", 220),
        ("?outcome=failed", 22),
        ("?type=user.created", 110),
        ("?type=session.created&outcome=ignored", 110),
        ("?user=user_3", 44),
        ("?user=user_0&outcome=failed&type=user.created", 22),
        ("?type=nothing", 0),
        ("?type=%3Cscript%3E", 0),
    ] {
        let found = all(&browser, &format!("/admin/deliveries{query}")).await;
        let distinct: BTreeSet<&String> = found.iter().collect();
        assert_eq!((found.len(), distinct.len()), (count, count), "{query}");
        assert!(found.is_sorted_by(|one, next| one >= next), "newest first: {query}: {found:?}");
    }
    let operator = server.client.bearing(ADMIN);
    let page = operator.get("/api/admin/deliveries?limit=220").await.expect(200).json();
    assert!(page["next_cursor"].is_null(), "a last page that is exactly full");
    operator.get("/api/admin/deliveries?cursor=x").await.expect(400);
    browser.get("/admin/deliveries?cursor=%22%3E%3Cb%3E").await.expect(400);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_replayed_once_confirmed_and_the_page_tells_what_came_of_it() {
    let server = Server::with(FLAGS).await;
    let record = |id: &str, body: Option<String>| {
        let delivery = Delivery {
            svix_id: id.to_owned(),
            kind: "user.created".to_owned(),
            tenant: Some("user_ada".parse().unwrap()),
            received: 1,
            outcome: DeliveryOutcome::Failed,
            duration_us: 1,
            error: Some("the disk was full".to_owned()),
            answer: None,
            body: body.map(Into::into),
        };
        server.app.store().catalog().write(move |tx| deliveries::record(tx, &delivery))
    };
    let name = "<img src=x onerror=alert(1)>\u{202e}";
    record("msg_good", Some(event("user.created", user("user_ada", name, 10), 1).to_string())).await.unwrap();
    record("msg_bad", Some(json!({"type": "user.created", "data": {"id": "../x"}}).to_string())).await.unwrap();
    record("msg_gone", None).await.unwrap();
    let browser = Browser::signed_in(server.address).await;
    let page = browser.get("/admin/deliveries/msg_good").await.expect(200);
    assert!(page.text.contains("the disk was full") && page.text.contains("\n  &#34;data&#34;: {"), "{}", page.text);
    assert!(!page.text.contains("<img") && !page.text.contains('\u{202e}'), "{}", page.text);

    let replay = async |id: &str, fields: &[(&str, &str)]| {
        let path = format!("/admin/deliveries/{id}");
        let sent = browser.submit(&page, &format!("{path}/replay"), fields).await.expect(303);
        assert_eq!(sent.location, path);
        browser.get(&path).await.text
    };
    assert!(replay("msg_good", &[]).await.contains("tick the box to confirm"));
    assert_eq!(server.app.store().list(Some(State::Active), None, 10).await.unwrap().len(), 0);
    let told = replay("msg_good", &[("confirm", "true")]).await;
    assert!(told.contains("It was applied again: ") && told.contains("<span class=\"tag created\">"), "{told}");
    assert_eq!(server.app.store().list(Some(State::Active), None, 10).await.unwrap().len(), 1);
    // Two operators: the second finds it applied.
    assert!(replay("msg_good", &[("confirm", "true")]).await.contains("It was applied again: "));
    assert!(replay("msg_bad", &[("confirm", "true")]).await.contains("and is rejected"));
    assert!(replay("msg_gone", &[("confirm", "true")]).await.contains("no longer kept"));
    assert!(replay("msg_nobody", &[("confirm", "true")]).await.starts_with("<!doctype html>"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_lists_one_type() {
    let server = Server::with(FLAGS).await;
    fill(server.app.store(), 4).await;
    let folder = server.data();
    let arguments = ["deliveries", "list", "--type", "session.created", "--json", "--data", folder.to_str().unwrap()];
    let mut command = cubby();
    command.args(arguments).env("CUBBY_URL", format!("http://{}", server.address)).env("ADMIN_API_KEY", ADMIN);
    let listed = stdout(&tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap());
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.lines().all(|line| line.contains("session.created")), "{listed}");
    server.stop().await;
    let empty = tempfile::TempDir::new().unwrap();
    stdout(&run(empty.path(), &["tenants", "create", "ada"]));
    assert_eq!(stdout(&run(empty.path(), &["deliveries", "list", "--type", "x", "--json"])), "");
}

//! Finding one among many.

use std::collections::BTreeSet;

use cubby::{Store, catalog::model::Profile};
use serde_json::Value;

use super::{ADMIN, Browser, FLAGS};
use crate::harness::{Client, Server, author};

/// A thousand users; a hundred of them suspended, and a hundred deleted.
async fn fill(store: &Store) {
    let fill = |tx: &rusqlite::Transaction| {
        tx.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
             INSERT INTO tenants (id, state, created, email, first_name, last_name, bytes, last_seen)
             SELECT printf('user_%04d', i), CASE i % 10 WHEN 1 THEN 'suspended' WHEN 2 THEN 'deleted' ELSE 'active' END,
                    1000 + i / 3, printf('mail%04d@Example.com', i), iif(i = 7, 'Ädá', 'First'), printf('Last%d', i),
                    iif(i % 2, NULL, 4096 * (i % 5)), iif(i % 3, 5000 - i, NULL) FROM n",
        )
    };
    store.catalog().write(fill).await.unwrap();
}

fn ids(page: &Value) -> Vec<String> {
    page["tenants"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// All pages of a list, fifty at once.
async fn all(operator: &Client, query: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("/api/admin/tenants?limit=50{query}{cursor}")).await.expect(200).json();
        rows.extend(page["tenants"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", cubby::http::segment::encode(next)),
            None => return rows,
        }
    }
}

#[tokio::test]
async fn each_order_has_each_tenant_once() {
    let server = Server::with(FLAGS).await;
    fill(server.app.store()).await;
    let operator = server.client.bearing(ADMIN);
    for (state, count) in [("", 1000), ("&state=active", 800), ("&state=suspended", 100), ("&state=deleted", 100)] {
        for (sort, field) in [("id", "id"), ("created", "created"), ("seen", "last_seen"), ("size", "bytes")] {
            let rows = all(&operator, &format!("&sort={sort}{state}")).await;
            let names: BTreeSet<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
            assert_eq!((rows.len(), names.len()), (count, count), "{sort}{state}");
            // Who has never been closed has no size, and comes with the empty ones.
            let keys = rows.iter().map(|row| (row[field].as_u64().unwrap_or(0), row[field].as_str()));
            let keys: Vec<_> = keys.collect();
            assert!(sort == "id" || keys.is_sorted_by(|one, next| one >= next), "{sort}{state}: {keys:?}");
            assert!(sort != "id" || keys.is_sorted(), "{sort}{state}: {keys:?}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn one_among_a_thousand_is_found_by_a_part_of_their_id_address_or_name() {
    let server = Server::with(FLAGS).await;
    fill(server.app.store()).await;
    let operator = server.client.bearing(ADMIN);
    let find = async |query: &str| ids(&operator.get(&format!("/api/admin/tenants?{query}")).await.expect(200).json());
    for text in [
        "user_0007",
        "er_0007",
        "mail0007@",
        "MAIL0007",
        "mail0007%40Example.com",
        "0007%40example",
        "%C3%84d%C3%A1",
        "d%C3%A1%20last7",
    ] {
        assert_eq!(find(&format!("q={text}")).await, ["user_0007"], "{text}");
    }
    let rename = |tx: &rusqlite::Transaction| {
        tx.execute_batch("UPDATE tenants SET first_name = 'İlker', last_name = 'ΟΔΟΣ' WHERE id = 'user_0008'")
    };
    server.app.store().catalog().write(rename).await.unwrap();
    for text in ["%C4%B0lker", "%C4%B0LKER", "%CE%9F%CE%94%CE%9F%CE%A3", "%CE%BF%CE%B4%CE%BF%CF%82"] {
        assert_eq!(find(&format!("q={text}")).await, ["user_0008"], "{text}");
    }
    assert_eq!(find("q=us&limit=3").await, ["user_0001", "user_0002", "user_0003"], "two characters are a beginning");
    assert_eq!(find("q=user_01&limit=2").await, ["user_0199", "user_0198"], "newest first");
    assert_eq!(all(&operator, "&q=user_01").await.len(), 100);
    assert_eq!(all(&operator, "&q=example.com&state=suspended").await.len(), 100);
    for nobody in
        ["nobody", "%22", "%22%20OR%20%22", "a%00b%00c", "***", "user_%25", "%F0%9F%A6%86%F0%9F%A6%86%F0%9F%A6%86"]
    {
        assert!(find(&format!("q={nobody}")).await.is_empty(), "{nobody}");
    }
    for (bad, status) in [("q=abc&after=x", 422), ("sort=size&after=x", 422), ("cursor=x", 400), ("sort=x", 400)] {
        operator.get(&format!("/api/admin/tenants?{bad}")).await.expect(status);
    }
    operator.get(&format!("/api/admin/tenants?q={}", "x".repeat(201))).await.expect(422);
    server.stop().await;
}

#[tokio::test]
async fn a_search_has_each_user_once_whatever_the_limits_of_its_pages() {
    let server = Server::with(FLAGS).await;
    let operator = server.client.bearing(ADMIN);
    // Nine have one address, and four have it in theirs; what two have as an address, one has as an id.
    let fill = |tx: &rusqlite::Transaction| {
        tx.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
             INSERT INTO tenants (id, state, created, email)
             SELECT printf('user_%02d', i * 7 % 20), iif(i % 4 = 1, 'suspended', 'active'), i,
                    CASE WHEN i % 2 THEN 'team@example.com' WHEN i < 9 THEN 'the-team@example.com' ELSE 'x@y.z' END
             FROM n WHERE i < 19;
             INSERT INTO tenants (id, state, created, email) VALUES
             ('boss@example.com', 'active', 1, 'x@y.z'), ('a', 'active', 1, 'boss@example.com'),
             ('z', 'active', 1, 'boss@example.com')",
        )
    };
    server.app.store().catalog().write(fill).await.unwrap();
    let pages = async |query: &str, limits: &[u32]| {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        for limit in limits.iter().chain(std::iter::repeat(&1000)) {
            let path = format!("/api/admin/tenants?q={query}&limit={limit}{cursor}");
            let page = operator.get(&path).await.expect(200).json();
            let ids = ids(&page);
            assert!(ids.len() <= *limit as usize, "{query} {limits:?}");
            found.extend(ids);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", cubby::http::segment::encode(next)),
                None => break,
            }
        }
        found.sort();
        found
    };
    for (query, count) in [
        ("team%40example.com", 13),
        ("TEAM%40example.com", 13),
        ("team%40example.com&state=active", 8),
        ("team%40example.com&state=suspended", 5),
        ("boss%40example.com", 3),
        ("example.com", 16),
    ] {
        let once = pages(query, &[]).await;
        let distinct: BTreeSet<&String> = once.iter().collect();
        assert_eq!((once.len(), distinct.len()), (count, count), "{query}: {once:?}");
        for limits in [&[2][..], &[1], &[2, 1], &[9, 2, 2, 1], &[3, 1, 1, 1, 1, 1, 1], &[1000, 1, 1, 1]] {
            assert_eq!(pages(query, limits).await, once, "{query} {limits:?}");
        }
    }
    // As an older version wrote it: nobody is missing.
    let old = operator.get("/api/admin/tenants?q=team%40example.com&cursor=9223372036854775807~").await.expect(200);
    assert_eq!(ids(&old.json()).len(), 13);
    server.stop().await;
}

#[tokio::test]
async fn what_is_found_follows_changes_and_an_erased_user_is_not_found_by_their_address() {
    let server = Server::with(FLAGS).await;
    let (store, id) = (server.app.store(), "ada".parse().unwrap());
    let operator = server.client.bearing(ADMIN);
    let find =
        async |query: &str| ids(&operator.get(&format!("/api/admin/tenants?q={query}")).await.expect(200).json());
    let profile = |email: &str| Profile { email: Some(email.into()), ..Profile::default() };
    store.create(&id, profile("countess@example.com"), &author()).await.unwrap();
    assert_eq!(find("countess").await, ["ada"]);
    let renamed = profile("lovelace@example.com");
    let write =
        move |tx: &rusqlite::Transaction| cubby::catalog::queries::set_profile(tx, &"ada".parse().unwrap(), &renamed);
    store.catalog().write(write).await.unwrap();
    assert_eq!((find("countess").await.len(), find("lovelace").await.len()), (0, 1));
    store.purge(&id, &author()).await.unwrap();
    assert_eq!((find("lovelace").await.len(), find("ada").await.len()), (0, 1));
    let left = store
        .catalog()
        .query(|conn| conn.query_row("SELECT group_concat(text) FROM tenant_texts", [], |row| row.get::<_, String>(0)));
    assert_eq!(left.await.unwrap().trim(), "ada");
    server.stop().await;
}

#[tokio::test]
async fn the_page_of_tenants_searches_filters_and_turns_pages() {
    let server = Server::with(FLAGS).await;
    fill(server.app.store()).await;
    let browser = Browser::signed_in(server.address).await;
    let page = browser.get("/admin/tenants?q=d%C3%A1+last7&state=&sort=").await.expect(200).text;
    assert!(page.contains("/admin/tenants/user_0007\"") && !page.contains("user_0008"), "{page}");
    let mut seen = BTreeSet::new();
    let mut path = "/admin/tenants?state=suspended&sort=size".to_owned();
    loop {
        let page = browser.get(&path).await.expect(200).text;
        seen.extend(
            page.split("href=\"/admin/tenants/").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()),
        );
        match page.split("rel=\"next\" href=\"").nth(1) {
            Some(rest) => path = rest.split('"').next().unwrap().replace("&amp;", "&").replace("&#38;", "&"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 100);
    browser.get("/admin/tenants?state=nothing").await.expect(400);
    server.stop().await;
}

//! The page of migrations: which schema how many tenants have, a run from its canary to its end, and hostile reasons.

use cubby::tenants::options::shipped_schema;
use serde_json::{Value, json};

use super::{ADMIN, Browser, FLAGS};
use crate::{
    harness::{Server, author, eventually, migrations},
    migrations::{UNIQUE, folder_with},
};

async fn progress(browser: &Browser) -> String {
    browser.get("/admin/migrations/progress").await.expect(200).text
}

/// Waits for the end of a run and gives its word.
async fn over(browser: &Browser) -> String {
    let status =
        |page: &str| page.split("data-status=\"").nth(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    let mut last = None;
    eventually("the run is over", async || {
        last = status(&progress(browser).await);
        last.as_deref().is_some_and(|status| status != "running" && status != "pausing")
    })
    .await;
    last.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_starts_with_a_canary_sees_why_it_stopped_and_resumes() {
    let users: [(&str, &[&str]); 4] = [("ada", &["x"]), ("bad", &["same", "same"]), ("cy", &["x"]), ("di", &["x"])];
    let folder = folder_with(shipped_schema().unwrap(), &users).await;
    let custom = migrations(&[UNIQUE]);
    let flags = [FLAGS, &["--migrations", custom.path().to_str().unwrap()]].concat();
    let server = Server::on(folder.path(), &flags).await;
    let browser = Browser::signed_in(server.address).await;
    let page = browser.get("/admin/migrations").await.expect(200);
    assert!(page.text.contains("4 are behind schema 3") && page.text.contains("No migration of all"), "{}", page.text);
    assert!(!page.text.contains("data-poll"), "nothing is under way: {}", page.text);

    let fields = [("canary", "x"), ("jobs", "1"), ("max_failures", "1%,10")];
    browser.submit(&page, "/admin/migrations/start", &fields).await.expect(303);
    let page = browser.get("/admin/migrations").await.expect(200);
    assert!(page.text.contains("Nothing was changed:") && page.text.contains("canary"), "{}", page.text);

    let fields = [("canary", "4"), ("jobs", "1"), ("max_failures", "1%,10")];
    let sent = browser.submit(&page, "/admin/migrations/start", &fields).await.expect(303);
    assert_eq!(sent.location, "/admin/migrations");
    assert_eq!(over(&browser).await, "stopped");
    let page = browser.get("/admin/migrations").await.expect(200);
    for told in
        ["1 of the first 2 failed", "UNIQUE constraint failed", "href=\"/admin/tenants/bad\"", "Resume", "Canary"]
    {
        assert!(page.text.contains(told), "{told}: {}", page.text);
    }
    let overview = browser.get("/admin").await.expect(200).text;
    assert!(overview.contains("The migration to schema 3 has stopped"), "{overview}");

    let report = server.client.bearing(ADMIN).get("/api/admin/migrations").await.expect(200).json();
    let run = report["run"]["run"].as_str().unwrap().to_owned();
    browser.submit(&page, "/admin/migrations/resume", &[("run", &run)]).await.expect(303);
    assert_eq!(over(&browser).await, "done");
    let page = browser.get("/admin/migrations").await.expect(200);
    assert!(page.text.contains("1 are behind schema 3"), "the one that fails is: {}", page.text);
    assert!(!page.text.contains("/admin/migrations/resume"), "a run that is done is not resumed: {}", page.text);
    browser.submit(&page, "/admin/migrations/pause", &[("run", &run)]).await.expect(303);
    let page = browser.get("/admin/migrations").await.expect(200);
    assert!(page.text.contains("is not running: it is done"), "{}", page.text);
    browser.submit(&page, "/admin/migrations/everything", &[]).await.expect(404);
    browser.post("/admin/migrations/start", &[("csrf", "x"), ("canary", "1")]).await.expect(403);
    let trail = server.client.bearing(ADMIN).get("/api/admin/audit").await.expect(200).json();
    let origin = |action: &str| {
        let lines = trail["audit"].as_array().unwrap();
        lines.iter().find(|line| line["action"] == action).map(|line| line["origin"].clone())
    };
    assert_eq!((origin("migrate"), origin("migrate resume")), (Some(json!("127.0.0.1")), Some(json!("127.0.0.1"))));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_counted_by_schema_as_they_come_go_and_change() {
    let server = Server::with(FLAGS).await;
    let (store, operator) = (server.app.store(), server.client.bearing(ADMIN));
    let newest = store.schema().version();
    for id in ["ada", "bob", "cy"] {
        store.create(&id.parse().unwrap(), Default::default(), &author()).await.unwrap();
    }
    let shares = async || operator.get("/api/admin/migrations").await.expect(200).json()["schemas"].clone();
    let share = |schema: Option<i32>, users: u64, quarantined: u64| json!({"schema": schema, "users": users, "quarantined": quarantined});
    assert_eq!(shares().await, json!([share(Some(newest), 3, 0)]));
    let change = async |sql: &'static str| store.catalog().write(move |tx| tx.execute(sql, [])).await.unwrap();
    change("UPDATE tenants SET schema_version = 1 WHERE id = 'ada'").await;
    change("UPDATE tenants SET state = 'quarantined' WHERE id = 'ada'").await;
    change("UPDATE tenants SET schema_version = NULL WHERE id = 'bob'").await;
    change("UPDATE tenants SET bytes = 5, schema_version = schema_version").await;
    assert_eq!(shares().await, json!([share(None, 1, 0), share(Some(1), 1, 1), share(Some(newest), 1, 0)]));
    change("UPDATE tenants SET state = 'active', schema_version = 2 WHERE id = 'ada'").await;
    store.delete(&"cy".parse().unwrap(), &author()).await.unwrap();
    change("UPDATE tenants SET schema_version = NULL WHERE id = 'cy'").await;
    assert_eq!(shares().await, json!([share(None, 1, 0), share(Some(2), 1, 0)]), "the deleted do not count");
    store.restore(&"cy".parse().unwrap(), &author()).await.unwrap();
    change("DELETE FROM tenants WHERE id = 'bob'").await;
    let counted = shares().await;
    let scanned = store.catalog().query(|conn| {
        let sql = "SELECT schema_version, count(*), sum(state = 'quarantined') FROM tenants WHERE state <> 'deleted' \
                   GROUP BY schema_version ORDER BY schema_version";
        let mut select = conn.prepare(sql)?;
        let row = |row: &rusqlite::Row| {
            Ok(json!({"schema": row.get::<_, Option<i32>>(0)?, "users": row.get::<_, i64>(1)?,
            "quarantined": row.get::<_, i64>(2)?}))
        };
        select.query_map([], row)?.collect::<rusqlite::Result<Vec<Value>>>()
    });
    assert_eq!(counted, json!(scanned.await.unwrap()), "as a scan of all finds");
    server.stop().await;
}

#[tokio::test]
async fn hostile_reasons_of_failures_are_text_and_short() {
    let server = Server::with(FLAGS).await;
    let long = "x".repeat(10_000);
    let bad = [
        "<script>alert(1)</script>",
        "</td></table><img src=x onerror=alert(1)>",
        "abc\u{202e}txt.exe\u{2066}",
        "\" autofocus onfocus=\"alert(1)",
        long.as_str(),
        "a\0b\u{1b}[2J",
    ];
    let failures: Vec<Value> =
        bad.iter().map(|error| json!({"error": error, "count": 3, "tenants": ["a|b+c@d:1", "<b>"]})).collect();
    for (n, reason) in bad.iter().enumerate() {
        let name = format!("run_{n}\"><b>");
        let report = json!({
            "run": name, "status": "stopped", "phase": "all", "schema": server.app.store().schema().version(),
            "options": {"canary": 1, "jobs": 1, "max_failures": "1"}, "started": reason, "ended": reason, "total": 1,
            "handled": 1, "canaries": 1, "migrated": 0, "already_current": 0, "gone": 0, "still_quarantined": 0,
            "failed": 18, "failures": failures, "reason": reason, "seconds_left": null, "after": null,
        });
        let insert = "INSERT INTO migration_runs (name, digest, started, report) VALUES (?1, 1, 1, ?2)";
        let catalog = server.app.store().catalog();
        catalog.write(move |tx| tx.execute(insert, [name, report.to_string()])).await.unwrap();
        let browser = Browser::signed_in(server.address).await;
        for path in ["/admin/migrations", "/admin/migrations/progress", "/admin"] {
            let page = browser.get(path).await.expect(200).text;
            for harm in ["<script>", "<img", "<b>", "onfocus=\"", " style=", "</td></table><"] {
                assert!(!page.contains(harm), "{path} has {harm}: {page}");
            }
            let hidden = page.chars().find(|c| matches!(c, '\u{202e}' | '\u{2066}' | '\0' | '\u{1b}'));
            assert!(hidden.is_none(), "{path} has {hidden:?}");
            assert!(page.len() < 60_000, "{path} has {} bytes", page.len());
        }
    }
    server.stop().await;
}

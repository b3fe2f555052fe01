//! A run whose progress or end the catalog does not take: what it has done is counted and told all the same.

use cubby::{catalog::model::State, tenants::options::shipped_schema};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ADMIN, PATH, confirmed, counted, counts, fill, in_state};
use crate::{
    harness::{Server, migrations, run, stdout},
    migrations::folder_with,
    rollout::{SLOW, refuse, refuse_no_more},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_be_recorded_is_told_and_recorded_later() {
    let folder = TempDir::new().unwrap();
    let server = Server::on(folder.path(), &["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    fill(server.app.store(), "user", 3).await;
    refuse(&server, "ON bulk_runs WHEN new.ended IS NOT NULL").await;
    let report = confirmed(&operator, json!({"action": "suspend", "reason": "x", "filter": {}})).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [3, 3, 3, 0, 0, 0]), "{report}");
    assert_eq!(operator.get(PATH).await.expect(200).json()["run"], report);

    let next = counted(&operator, json!({"action": "resume", "filter": {}})).await;
    let refused = operator.post(PATH, next.clone()).await;
    assert!(refused.status >= 500, "nothing can be recorded: {refused:?}");
    assert_eq!(in_state(server.app.store(), State::Suspended).await, 3);
    assert_eq!(operator.get(PATH).await.expect(200).json()["run"], report);

    refuse_no_more(&server).await;
    for _ in 0..2 {
        assert_eq!(operator.get(PATH).await.expect(200).json()["run"], report);
    }
    let trail = operator.get(&format!("/api/admin/audit?target={}", report["run"].as_str().unwrap())).await;
    let trail = trail.expect(200).json();
    let results: Vec<_> = trail["audit"].as_array().unwrap().iter().map(|line| &line["result"]).collect();
    assert_eq!(results, ["done", "started"], "once");
    server.stop().await;
    let status = stdout(&run(folder.path(), &["tenants", "bulk", "status", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap(), report, "it is in the catalog");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_a_server_could_not_record_is_recorded_before_it_closes() {
    let folder = TempDir::new().unwrap();
    let server = Server::on(folder.path(), &["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    fill(server.app.store(), "user", 3).await;
    refuse(&server, "ON bulk_runs WHEN new.ended IS NOT NULL").await;
    let report = confirmed(&operator, json!({"action": "suspend", "reason": "x", "filter": {}})).await;
    refuse_no_more(&server).await;
    server.stop().await;
    let status = stdout(&run(folder.path(), &["tenants", "bulk", "status", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap(), report);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_counted_when_the_progress_cannot_be_recorded() {
    let names: Vec<String> = (0..12).map(|n| format!("t{n:02}")).collect();
    let users: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &["slow"][..])).collect();
    let folder = folder_with(shipped_schema().unwrap(), &users).await;
    let custom = migrations(&[SLOW]);
    let flags = ["--migrations", custom.path().to_str().unwrap(), "--admin-api-key", ADMIN];
    let server = Server::on(folder.path(), &flags).await;
    let operator = server.client.bearing(ADMIN);
    refuse(&server, "ON bulk_runs WHEN new.ended IS NULL").await;
    let report = confirmed(&operator, json!({"action": "migrate", "ids": names})).await;
    assert_eq!(report["status"], "stopped", "{report}");
    assert!(report["why"].as_str().unwrap().contains("refused"), "{report}");
    let [_, handled, changed, ..] = counts(&report);
    assert_eq!(handled, changed, "{report}");
    let schemas = operator.get("/api/admin/migrations").await.expect(200).json()["schemas"].clone();
    let newest = schemas.as_array().unwrap().iter().find(|share| share["schema"] == 3).unwrap();
    assert_eq!(newest["users"], json!(handled), "all that are done are counted: {report}");
    server.stop().await;
}

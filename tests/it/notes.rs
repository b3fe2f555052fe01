//! The notes API: shapes, statuses, pages.

use serde_json::json;

use crate::harness::Server;

#[tokio::test]
async fn a_note_is_made_read_changed_listed_and_removed() {
    let server = Server::start().await;
    let client = &server.client;

    let made = client.post("/ada", json!({"text": "first"})).await.expect(201);
    let note = made.json()["note"].clone();
    let id = note["id"].as_str().unwrap();
    assert_eq!(made.header("location"), format!("/ada/{id}"));
    assert_eq!(made.header("content-type"), "application/json");
    assert_eq!(note["created"], note["updated"]);

    let path = format!("/ada/{id}");
    assert_eq!(client.get(&path).await.expect(200).json()["note"], note);
    assert_eq!(client.get("/ada").await.expect(200).json(), json!({"notes": [note]}));

    let changed = client.patch(&path, json!({"text": "second"})).await.expect(200).json();
    assert_eq!(changed["note"]["text"], "second");
    assert_eq!(changed["note"]["created"], note["created"]);

    assert_eq!(client.delete(&path).await.expect(200).json(), changed);
    assert_eq!(client.get(&path).await.expect(404).code(), "not_found");
    server.stop().await;
}

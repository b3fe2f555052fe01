//! Acknowledged is durable.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Process, eventually, tree};

#[tokio::test]
async fn every_acknowledged_note_is_there_after_kill_9_in_the_middle_of_a_hundred_writes() {
    let folder = TempDir::new().unwrap();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    // Three times on one folder: recovery must not lose what an earlier one saved.
    for round in 0..3 {
        let server = Process::start(folder.path(), &[]);
        let before = acknowledged.lock().unwrap().len();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..10 {
            let (client, acknowledged) = (server.client.clone(), acknowledged.clone());
            tasks.spawn(async move {
                for n in 0..10 {
                    let (user, text) = (format!("user_{}", writer % 3), format!("{round}/{writer}/{n}"));
                    let request = client.request("POST", &format!("/{user}")).json(&json!({"text": text}));
                    match client.try_send(request).await {
                        Ok(reply) if reply.status == 201 => acknowledged.lock().unwrap().insert((user, text)),
                        // Cut off: it says nothing about the outcome.
                        _ => return,
                    };
                }
            });
        }
        eventually("half of them are acknowledged", async || acknowledged.lock().unwrap().len() >= before + 50).await;
        server.kill();
        tasks.join_all().await;
    }

    let server = Process::start(folder.path(), &[]);
    let mut found = BTreeSet::new();
    for user in ["user_0", "user_1", "user_2"] {
        let texts = server.client.texts(user).await;
        let distinct: BTreeSet<_> = texts.iter().cloned().map(|text| (user.to_owned(), text)).collect();
        assert_eq!(distinct.len(), texts.len(), "each once");
        found.extend(distinct);
    }
    let acknowledged = acknowledged.lock().unwrap();
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty() && acknowledged.len() >= 150, "lost {lost:?} of {}", acknowledged.len());
    server.signal("TERM");
    assert!(server.wait().success());
    let logs: Vec<_> = tree(folder.path())
        .into_iter()
        .filter(|(path, _, size)| *size > 0 && path.to_string_lossy().ends_with(".db-wal"))
        .collect();
    assert!(logs.is_empty(), "a shutdown empties every log: {logs:?}");
}

#[tokio::test]
async fn users_made_by_a_delivery_that_was_acknowledged_are_there_after_kill_9() {
    let folder = TempDir::new().unwrap();
    let flags = ["--provisioning", "webhook", "--clerk-webhook-secret", crate::harness::sender::SECRET];
    let server = Process::start(folder.path(), &flags);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let client = server.client.clone();
        tasks.spawn(async move {
            let event = json!({"type": "user.created", "data": {"id": format!("user_{n}")}});
            crate::harness::sender::deliver(&client, &format!("msg_{n}"), &event).await
        });
    }
    tasks.join_all().await;
    server.kill();
    let server = Process::start(folder.path(), &flags);
    for n in 0..16 {
        server.client.note(&format!("user_{n}"), "x").await;
    }
}

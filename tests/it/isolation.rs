//! Nobody sees another's notes.

use serde_json::json;

use crate::harness::Server;

#[tokio::test]
async fn nobody_reaches_anothers_notes_by_any_route() {
    let server = Server::start().await;
    let client = &server.client;
    // Ids that a careless mapping would take for one another.
    let users = ["user_a", "user_A", "USER_A", "user_a.", "user_a.db", "user-a", "user|a", "user+a", "user:a", "u@a"];
    let mut notes = Vec::new();
    for user in users {
        let mut made = Vec::new();
        for n in 0..3 {
            made.push(client.note(user, &format!("{n} of {user}")).await);
        }
        notes.push(made);
    }
    for (owner, theirs) in users.iter().zip(&notes) {
        for user in users.iter().filter(|user| *user != owner) {
            for id in theirs {
                let path = format!("/{user}/{id}");
                client.get(&path).await.expect(404);
                client.patch(&path, json!({"text": "taken over"})).await.expect(404);
                client.delete(&path).await.expect(404);
            }
        }
    }
    for user in users {
        assert_eq!(client.texts(user).await, [0, 1, 2].map(|n| format!("{n} of {user}")));
    }
    server.stop().await;
}

#[tokio::test]
async fn users_at_once_stay_apart_while_they_evict_each_other() {
    let server = Server::with(&["--max-open", "3"]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for user in 0..12 {
        let client = server.client.clone();
        tasks.spawn(async move {
            for n in 0..10 {
                client.note(&format!("user_{user}"), &format!("{n} of {user}")).await;
            }
        });
    }
    tasks.join_all().await;
    for user in 0..12 {
        let expected: Vec<_> = (0..10).map(|n| format!("{n} of {user}")).collect();
        assert_eq!(server.client.texts(&format!("user_{user}")).await, expected);
    }
    server.stop().await;
}

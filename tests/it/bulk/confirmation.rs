//! What an operator confirms: whom the number counts, and that it is good for those and for one run.

use cubby::catalog::model::State;
use serde_json::json;

use super::{ADMIN, DRY, PATH, confirmed, counted, counts, create, fill, in_state, over};
use crate::harness::{Server, author};

#[tokio::test(flavor = "multi_thread")]
async fn those_that_an_action_cannot_change_do_not_count() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let (operator, store) = (server.client.bearing(ADMIN), server.app.store());
    fill(store, "user", 6).await;
    for id in ["user_0000", "user_0001", "user_0002"] {
        store.delete(&id.parse().unwrap(), &author()).await.unwrap();
    }
    store.suspend(&"user_0003".parse().unwrap(), "x", &author()).await.unwrap();
    for (action, state, count, left_out) in [
        ("delete", None, 3, 3),
        ("suspend", None, 3, 3),
        ("migrate", None, 3, 3),
        ("resume", None, 1, 5),
        ("delete", Some("deleted"), 0, 3),
        ("resume", Some("active"), 0, 2),
        ("resume", Some("suspended"), 1, 0),
    ] {
        // By the catalog's numbers, by a search, and by the beginnings of ids.
        for q in [None, Some("SER_0"), Some("us")] {
            let draft = json!({"action": action, "filter": {"state": state, "q": q}});
            let preview = operator.post(DRY, draft.clone()).await.expect(200).json();
            let found = (preview["count"].as_u64().unwrap(), preview["left_out"].as_u64().unwrap());
            assert_eq!(found, (count, left_out), "{draft}");
            assert_eq!(preview["some"].as_array().unwrap().len() as u64, count, "{draft}");
        }
    }
    let report = confirmed(&operator, json!({"action": "delete", "filter": {"q": "user_"}})).await;
    assert_eq!(counts(&report), [3, 3, 3, 0, 0, 0], "{report}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_good_for_those_it_is_of_and_for_one_run() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let (operator, store) = (server.client.bearing(ADMIN), server.app.store());
    create(&server, &["ada", "bob", "cy", "di"]).await;
    let (ada, bob) = ("ada".parse().unwrap(), "bob".parse().unwrap());
    for (delete, by_number) in [
        (json!({"action": "delete", "filter": {"state": "active"}}), true),
        (json!({"action": "delete", "filter": {"state": "active", "q": "@example.org"}}), false),
    ] {
        store.suspend(&ada, "x", &author()).await.unwrap();
        let draft = counted(&operator, delete).await;
        assert_eq!(draft["count"], 3);
        // As many, and others.
        store.resume(&ada, &author()).await.unwrap();
        store.suspend(&bob, "x", &author()).await.unwrap();
        let refused = operator.post(PATH, draft.clone()).await.expect(409);
        assert_eq!(refused.code(), "bulk_changed");
        let mut lenient = draft;
        lenient.as_object_mut().unwrap().remove("digest");
        if by_number {
            operator.post(PATH, lenient).await.expect(202);
            over(&operator).await;
            for id in ["ada", "cy", "di"] {
                operator.post(&format!("/api/admin/tenants/{id}/restore"), json!({})).await.expect(200);
            }
        }
        store.resume(&bob, &author()).await.unwrap();
        assert_eq!(in_state(store, State::Active).await, 4);
    }

    // Sent again, after one was restored.
    for delete in [json!({"action": "delete", "ids": ["ada"]}), json!({"action": "delete", "filter": {"q": "ada"}})] {
        let draft = counted(&operator, delete).await;
        operator.post(PATH, draft.clone()).await.expect(202);
        assert_eq!(counts(&over(&operator).await), [1, 1, 1, 0, 0, 0]);
        operator.post("/api/admin/tenants/ada/restore", json!({})).await.expect(200);
        assert_eq!(operator.post(PATH, draft.clone()).await.expect(409).code(), "bulk_changed");
        let mut wrong = draft;
        wrong["digest"] = json!("");
        assert_eq!(operator.post(PATH, wrong).await.expect(409).code(), "bulk_changed");
        assert_eq!(in_state(store, State::Active).await, 4);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_are_listed_are_walked_and_known_by_their_number() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let (operator, store) = (server.client.bearing(ADMIN), server.app.store());
    fill(store, "user", 10_002).await;
    let sql = "UPDATE tenants SET state = 'suspended', reason = 'x' WHERE id <> 'user_0000'";
    store.catalog().write(move |tx| tx.execute_batch(sql)).await.unwrap();
    let draft = json!({"action": "suspend", "reason": "x", "filter": {"state": "suspended"}});
    let draft = counted(&operator, draft).await;
    assert_eq!(draft["count"], 10_001);
    store.resume(&"user_0001".parse().unwrap(), &author()).await.unwrap();
    assert_eq!(operator.post(PATH, draft.clone()).await.expect(409).code(), "bulk_changed");
    // As many, and others: that is not looked at.
    store.suspend(&"user_0000".parse().unwrap(), "x", &author()).await.unwrap();
    operator.post(PATH, draft.clone()).await.expect(202);
    let report = over(&operator).await;
    assert_eq!((&report["status"], counts(&report)), (&json!("done"), [10_001, 10_001, 0, 10_001, 0, 0]), "{report}");
    assert_eq!(operator.post(PATH, draft).await.expect(409).code(), "bulk_changed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_is_a_line_of_some_words_for_one_and_for_many() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    create(&server, &["ada"]).await;
    let (one, longest) = ("/api/admin/tenants/ada/suspend", "é".repeat(500));
    for reason in ["", " \n", "two\nlines", "a\u{0}b", &format!("{longest}é")] {
        let refused = operator.post(one, json!({"reason": reason})).await.expect(422);
        assert_eq!(refused.json()["field"], "reason", "{reason:?}");
        let many = json!({"action": "suspend", "ids": ["ada"], "reason": reason});
        assert_eq!(operator.post(PATH, many).await.expect(422).json()["field"], "reason", "{reason:?}");
    }
    assert_eq!(in_state(server.app.store(), State::Active).await, 1);
    let suspended = operator.post(one, json!({"reason": format!(" {longest} ")})).await.expect(200).json();
    assert_eq!(suspended["reason"], longest.as_str());
    let report = confirmed(&operator, json!({"action": "suspend", "ids": ["ada"], "reason": "other"})).await;
    assert_eq!(counts(&report), [1, 1, 1, 0, 0, 0], "{report}");
    assert_eq!(operator.get("/api/admin/tenants/ada").await.expect(200).json()["reason"], "other");
    server.stop().await;
}

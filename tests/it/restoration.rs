//! Users who come back: in what state, and who may not come back at all.

use cubby::catalog::model::{Row, State};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

use crate::{
    harness::{
        self, Server, author,
        clerk::Clerk,
        sender::{deliver, event, gone, now, user},
    },
    reconcile::{ADMIN, server, sync},
};

async fn row(server: &Server, id: &str) -> Row {
    server.app.store().find(&id.parse().unwrap()).await.unwrap().unwrap()
}

/// Milliseconds, as Clerk writes the time of an event.
fn now_millis() -> i64 {
    now() * 1000 + 999
}

/// A reconcile, of which the list is read and then held back until `meanwhile` is done.
async fn sync_with_a_late_answer(server: &Server, clerk: &Clerk, meanwhile: impl Future<Output = ()>) -> Value {
    clerk.world.lock().hold_list = true;
    let (report, ()) = tokio::join!(sync(server, ""), clerk.let_go_after(meanwhile));
    report.expect(200).json()
}

/// Deletions as they come: with a time in milliseconds, in seconds, and with none.
fn deletions(id: &str) -> [Value; 3] {
    let mut timeless = event("user.deleted", gone(id), 0);
    timeless.as_object_mut().unwrap().remove("timestamp");
    [event("user.deleted", gone(id), now_millis()), event("user.deleted", gone(id), now()), timeless]
}

// ── Gone is gone ─────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_deleted_user_whose_deletion_is_reported_during_a_reconcile_is_not_restored_by_it() {
    for n in 0..3 {
        let clerk = Clerk::start().await;
        let server = server(&clerk, &[]).await;
        deliver(&server.client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
        // By an operator: until now Clerk has the user.
        server.app.store().delete(&"user_1".parse().unwrap(), &author()).await.unwrap();
        clerk.add(user("user_1", "ada", 10));
        let report = sync_with_a_late_answer(&server, &clerk, async {
            clerk.remove("user_1");
            deliver(&server.client, "m2", &deletions("user_1")[n]).await;
        })
        .await;
        assert_eq!(row(&server, "user_1").await.state, State::Deleted, "{n}: {report}");
        server.client.get("/user_1").await.expect(404);
        assert_eq!(report["restored"]["count"], 0, "{report}");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_deletion_from_after_the_list_was_read_ends_a_restoration_by_that_list() {
    for n in 0..3 {
        let clerk = Clerk::start().await;
        let server = server(&clerk, &[]).await;
        deliver(&server.client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
        server.app.store().delete(&"user_1".parse().unwrap(), &author()).await.unwrap();
        clerk.add(user("user_1", "ada", 10));
        let mut deletion = Value::Null;
        let report = sync_with_a_late_answer(&server, &clerk, async {
            clerk.remove("user_1");
            deletion = deletions("user_1")[n].clone();
            if n == 0 {
                // To the millisecond, so that it is before whatever comes next.
                deletion["timestamp"] = json!(server.app.clock().now());
            }
            let before = server.app.clock().now();
            harness::eventually("time goes on", async || server.app.clock().now() > before).await;
        })
        .await;
        assert_eq!(report["restored"]["count"], 1, "{report}");
        assert_eq!(deliver(&server.client, "m2", &deletion).await["status"], "deleted", "{n}");
        assert_eq!(row(&server, "user_1").await.state, State::Deleted);
        server.stop().await;
    }
}

/// The signature allows as much.
#[tokio::test]
async fn a_deletion_counts_although_the_providers_clock_is_minutes_behind() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
    server.app.store().delete(&"user_1".parse().unwrap(), &author()).await.unwrap();
    clerk.add(user("user_1", "ada", 10));
    assert_eq!(sync(&server, "").await.expect(200).json()["restored"]["count"], 1);
    let behind = event("user.deleted", gone("user_1"), now_millis() - 4 * 60_000);
    assert_eq!(deliver(&server.client, "m2", &behind).await["status"], "deleted");
    server.stop().await;
}

#[tokio::test]
async fn a_user_whose_deletion_is_reported_during_a_reconcile_is_not_created_by_it() {
    for n in 0..3 {
        let clerk = Clerk::start().await;
        let server = server(&clerk, &[]).await;
        clerk.add(user("user_1", "ada", 10));
        let report = sync_with_a_late_answer(&server, &clerk, async {
            clerk.remove("user_1");
            deliver(&server.client, "m1", &deletions("user_1")[n]).await;
        })
        .await;
        assert_eq!(row(&server, "user_1").await.state, State::Deleted, "{report}");
        assert!(!server.app.store().layout().tenant(&"user_1".parse().unwrap()).exists(), "nor is a file left");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_newer_profile_that_comes_during_a_reconcile_is_kept_also_under_a_tombstone() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    for (id, name) in [("user_1", "old"), ("user_2", "old")] {
        deliver(&server.client, id, &event("user.created", user(id, name, 10), 1)).await;
        clerk.add(user(id, "listed", 20));
    }
    server.app.store().delete(&"user_1".parse().unwrap(), &author()).await.unwrap();
    let report = sync_with_a_late_answer(&server, &clerk, async {
        for id in ["user_1", "user_2"] {
            let body = event("user.updated", user(id, "newest", 30), now_millis());
            deliver(&server.client, &format!("{id}-new"), &body).await;
        }
    })
    .await;
    assert_eq!(report["restored"]["count"], 1, "{report}");
    for id in ["user_1", "user_2"] {
        let row = row(&server, id).await;
        assert_eq!((row.state, row.profile.first_name.as_deref()), (State::Active, Some("newest")), "{id}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_event_that_tells_what_a_reconcile_wrote_leaves_the_row_as_without_the_reconcile() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    deliver(&server.client, "m1", &event("user.updated", user("user_1", "first", 10), 5)).await;
    clerk.add(user("user_1", "second", 20));
    sync(&server, "").await.expect(200);
    // It was sent before the first: the provider's deliveries have no order.
    deliver(&server.client, "m2", &event("user.updated", user("user_1", "second", 20), 3)).await;
    let with = row(&server, "user_1").await.profile;
    assert_eq!((with.first_name.as_deref(), with.provider_event_at), (Some("second"), Some(3_000)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_creation_that_is_replayed_does_not_bring_a_deleted_user_back() {
    let folder = tempfile::TempDir::new().unwrap();
    let server = Server::on(folder.path(), &["--clerk-webhook-secret", harness::sender::SECRET]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
    deliver(&server.client, "m2", &event("user.deleted", gone("user_1"), 2)).await;
    server.stop().await;
    let replayed = harness::stdout(&harness::run(folder.path(), &["deliveries", "replay", "m1"]));
    assert!(replayed.contains("ignored"), "{replayed}");
    let listed = harness::stdout(&harness::run(folder.path(), &["tenants", "list", "--state", "deleted"]));
    assert!(listed.contains("user_1"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_without_a_time_that_is_replayed_is_as_old_as_its_first_delivery() {
    let folder = tempfile::TempDir::new().unwrap();
    let server = Server::on(folder.path(), &["--clerk-webhook-secret", harness::sender::SECRET]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
    deliver(&server.client, "m2", &deletions("user_1")[2]).await;
    let first = server.app.clock().now();
    harness::eventually("time goes on", async || server.app.clock().now() > first).await;
    server.app.store().restore(&"user_1".parse().unwrap(), &author()).await.unwrap();
    server.stop().await;
    let replayed = harness::stdout(&harness::run(folder.path(), &["deliveries", "replay", "m2"]));
    assert!(replayed.contains("ignored"), "the operator had the last word: {replayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_deletion_comes_while_they_are_being_created_is_not_served() {
    let server = Server::with(&["--clerk-webhook-secret", harness::sender::SECRET]).await;
    for n in 0..60 {
        let id = format!("user_{n}");
        let (first, second) = (server.client.clone(), server.client.clone());
        let (made, told) = (id.clone(), id.clone());
        let make = tokio::spawn(async move { first.post(&format!("/{made}"), json!({"text": "x"})).await.status });
        let tell = tokio::spawn(async move { deliver(&second, &told, &event("user.deleted", gone(&told), 5)).await });
        let status = make.await.unwrap();
        tell.await.unwrap();
        assert!([201, 404].contains(&status), "{status}");
        assert_eq!(row(&server, &id).await.state, State::Deleted);
        server.client.post(&format!("/{id}"), json!({"text": "y"})).await.expect(404);
        assert_eq!(server.client.texts(&id).await, [""; 0], "as of one who never was");
        assert!(!server.app.store().layout().tenant(&id.parse().unwrap()).exists(), "{id}: its file is out of reach");
    }
    server.stop().await;
}

// ── Whoever comes back is in the state they were in ──────────────────────────────────────────

const REASON: &str = "terms were broken";

async fn suspended(server: &Server, id: &str) {
    deliver(&server.client, id, &event("user.created", user(id, id, 10), 1)).await;
    server.client.note(id, "kept").await;
    server.app.store().suspend(&id.parse().unwrap(), REASON, &author()).await.unwrap();
}

async fn still_suspended(server: &Server, id: &str) {
    let row = row(server, id).await;
    assert_eq!((row.state, row.reason.as_deref()), (State::Suspended, Some(REASON)), "{id}");
    let refused = server.client.get(&format!("/{id}")).await.expect(403);
    assert!(refused.json()["detail"].as_str().unwrap().contains(REASON));
    server.app.store().resume(&id.parse().unwrap(), &author()).await.unwrap();
    assert_eq!(server.client.texts(id).await, ["kept"]);
}

#[tokio::test]
async fn a_suspended_user_who_is_deleted_and_restored_is_suspended_for_the_same_reason() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    let operator = server.client.bearing(ADMIN);
    for (id, by_webhook) in [("user_1", false), ("user_2", true)] {
        suspended(&server, id).await;
        for round in 0..2 {
            if by_webhook {
                let at = now_millis() + 60_000 * (round + 1);
                deliver(&server.client, &format!("{id}-{round}"), &event("user.deleted", gone(id), at)).await;
            } else {
                operator.delete(&format!("/api/admin/tenants/{id}")).await.expect(200);
            }
            let deleted = row(&server, id).await;
            assert_eq!((deleted.state, deleted.reason), (State::Deleted, None));
            let back = operator.post(&format!("/api/admin/tenants/{id}/restore"), json!({})).await.expect(200).json();
            assert_eq!((&back["state"], &back["reason"]), (&json!("suspended"), &json!(REASON)), "{back}");
        }
        still_suspended(&server, id).await;
        // And who was let out of it comes back without it.
        server.app.store().delete(&id.parse().unwrap(), &author()).await.unwrap();
        let back = server.app.store().restore(&id.parse().unwrap(), &author()).await.unwrap();
        assert_eq!((back.state, back.reason), (State::Active, None));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_suspended_user_whom_a_reconcile_deletes_and_restores_is_suspended() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    clerk.add(user("user_0", "x", 10));
    clerk.add(user("user_1", "ada", 10));
    suspended(&server, "user_1").await;
    clerk.remove("user_1");
    assert_eq!(sync(&server, "").await.expect(200).json()["deleted"]["count"], 1);
    clerk.add(user("user_1", "ada", 10));
    assert_eq!(sync(&server, "").await.expect(200).json()["restored"]["count"], 1);
    still_suspended(&server, "user_1").await;
    server.stop().await;
}

#[tokio::test]
async fn a_suspended_user_who_was_purged_comes_back_suspended_with_no_reason_kept() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    let operator = server.client.bearing(ADMIN);
    suspended(&server, "user_1").await;
    operator.post("/api/admin/tenants/user_1/purge", json!({"yes": true})).await.expect(200);
    let back = operator.post("/api/admin/tenants/user_1/revive", json!({})).await.expect(200).json();
    assert_eq!((&back["state"], &back["reason"]), (&json!("suspended"), &Value::Null), "{back}");
    operator.post("/api/admin/tenants/user_1/resume", json!({})).await.expect(200);
    assert_eq!(server.client.texts("user_1").await, [""; 0]);
    server.stop().await;
}

#[tokio::test]
async fn a_quarantined_user_who_is_deleted_and_restored_is_looked_at_again() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    let store = server.app.store().clone();
    for id in ["user_bad", "user_good"] {
        deliver(&server.client, id, &event("user.created", user(id, id, 10), 1)).await;
        let id = id.parse().unwrap();
        let path = store.layout().tenant(&id);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, b"this is no database, and longer than a header".repeat(100)).unwrap();
        server.client.get(&format!("/{id}")).await.expect(503);
        let reason = row(&server, id.as_str()).await.reason;
        assert!(reason.is_some());
        store.delete(&id, &author()).await.unwrap();
        if id.as_str() == "user_good" {
            std::fs::write(store.layout().trashed(&id), whole).unwrap();
        }
        let back = store.restore(&id, &author()).await.unwrap();
        assert_eq!((back.state, &back.reason), (State::Quarantined, &reason), "until it was looked at");
    }
    // At once, and not when the next attempt would have been due.
    server.client.get("/user_good").await.expect(200);
    assert_eq!(row(&server, "user_good").await.state, State::Active);
    server.client.get("/user_bad").await.expect(503);
    assert_eq!(row(&server, "user_bad").await.state, State::Quarantined);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deleted_user_will_be_when_restored_is_shown() {
    let folder = tempfile::TempDir::new().unwrap();
    let run = |arguments: &[&str]| harness::stdout(&harness::run(folder.path(), arguments));
    run(&["tenants", "create", "ada"]);
    run(&["tenants", "suspend", "ada", "--reason", REASON]);
    run(&["tenants", "delete", "ada"]);
    let shown = run(&["tenants", "show", "ada"]);
    assert!(shown.contains(&format!("suspended: {REASON}")), "{shown}");
    assert_eq!(run(&["tenants", "restore", "ada"]), format!("ada is suspended: {REASON}\n"));
}

// ── In any order with a reconcile ────────────────────────────────────────────────────────────

/// When a delivery arrives, by the reconcile: it begins after the first and reads its list in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Arrives {
    Before,
    During,
    After,
}

/// What one user does at the provider, and what becomes known of it when.
#[derive(Debug, Clone)]
struct Story {
    /// How often they are seen: created, and updated each time after.
    versions: usize,
    /// Whether they are deleted in the end, and how the event tells the time.
    gone: Option<usize>,
    /// How many of these steps the list of the reconcile shows.
    listed: usize,
    /// Each step at least once, in any order.
    deliveries: Vec<(usize, Arrives)>,
    /// Whether an operator deletes the user before the reconcile, who is there at the provider.
    operator_deletes: bool,
}

fn stories() -> impl Strategy<Value = Story> {
    (1_usize..4, proptest::option::of(0_usize..3), any::<bool>()).prop_flat_map(|(versions, gone, operator_deletes)| {
        let steps = versions + usize::from(gone.is_some());
        let arrives = || prop_oneof![Just(Arrives::Before), Just(Arrives::During), Just(Arrives::After)];
        let every: Vec<_> = (0..steps).map(|step| (Just(step), arrives())).collect();
        let more = proptest::collection::vec((0..steps, arrives()), 0..steps * 2);
        let deliveries = (every, more).prop_map(|(every, more)| [every, more].concat()).prop_shuffle();
        (0..=steps, deliveries).prop_map(move |(listed, mut deliveries)| {
            for (step, arrives) in &mut deliveries {
                // What the list does not show has not happened before it.
                if *step >= listed {
                    *arrives = (*arrives).max(Arrives::During);
                }
            }
            Story { versions, gone, listed, deliveries, operator_deletes }
        })
    })
}

impl Story {
    /// The user as the provider has them after so many steps.
    fn world(&self, id: &str, steps: usize) -> Option<Value> {
        let there = steps > 0 && steps <= self.versions;
        there.then(|| user(id, &format!("version{steps}"), steps as i64))
    }

    fn event(&self, id: &str, step: usize) -> Value {
        if step < self.versions {
            let kind = if step == 0 { "user.created" } else { "user.updated" };
            // The provider's deliveries have no order, nor have their times.
            return event(kind, user(id, &format!("version{}", step + 1), step as i64 + 1), 100 - step as i64);
        }
        deletions(id)[self.gone.unwrap()].clone()
    }

    fn set(&self, clerk: &Clerk, id: &str, steps: usize) {
        clerk.remove(id);
        self.world(id, steps).into_iter().for_each(|user| clerk.add(user));
    }

    async fn deliver(&self, server: &Server, id: &str, when: Arrives) {
        for (n, (step, arrives)) in self.deliveries.iter().enumerate() {
            if *arrives == when {
                // Under a new id each time: what is known already is applied once more.
                deliver(&server.client, &format!("{id}-{n}"), &self.event(id, *step)).await;
            }
        }
    }

    async fn happens(&self, server: &Server, clerk: &Clerk, id: &str) -> Row {
        self.deliver(server, id, Arrives::Before).await;
        if self.operator_deletes && self.world(id, self.listed).is_some() {
            let _ = server.app.store().delete(&id.parse().unwrap(), &author()).await;
        }
        // A list begun in the same millisecond is newer than nothing.
        let before = server.app.clock().now();
        harness::eventually("time goes on", async || server.app.clock().now() > before).await;
        self.set(clerk, id, self.listed);
        let report = sync_with_a_late_answer(server, clerk, async {
            self.set(clerk, id, self.versions + usize::from(self.gone.is_some()));
            self.deliver(server, id, Arrives::During).await;
        })
        .await;
        assert_eq!(report["outcome"], "done", "{report}");
        self.deliver(server, id, Arrives::After).await;
        row(server, id).await
    }
}

#[test]
fn events_in_any_order_and_a_reconcile_at_any_place_give_the_same_row() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() });
    let (clerk, server) = runtime.block_on(async {
        let clerk = Clerk::start().await;
        clerk.add(user("user_0", "always there", 1));
        let server = server(&clerk, &[]).await;
        (clerk, server)
    });
    let next = std::cell::Cell::new(0);
    let result = runner.run(&stories(), |story| {
        next.set(next.get() + 1);
        let id = format!("user_{}", next.get());
        let found = runtime.block_on(story.happens(&server, &clerk, &id));
        let state = if story.gone.is_some() { State::Deleted } else { State::Active };
        prop_assert_eq!(found.state, state);
        let (name, version) = (format!("version{}", story.versions), story.versions as i64);
        prop_assert_eq!(found.profile.first_name, Some(name));
        prop_assert_eq!(found.profile.provider_updated_at, Some(version * 1000));
        prop_assert_eq!(found.profile.provider_event_at, Some((101 - version) * 1000));
        let file = server.app.store().layout().tenant(&found.id).exists();
        prop_assert_eq!(file, state == State::Active);
        Ok(())
    });
    result.unwrap();
    runtime.block_on(server.stop());
}

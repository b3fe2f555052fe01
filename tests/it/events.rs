//! What the provider's messages do: in any order, any number of times, good and bad.

use std::collections::BTreeMap;

use cubby::{
    catalog::model::{Profile, State},
    webhooks::{
        decide::{Effect, Standing, decide},
        event::{self, Event},
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::{
    Client, Server, author,
    sender::{HOOKDECK, Message, SECRET, deliver, event, gone, now, user},
};

async fn server() -> Server {
    Server::with(&["--clerk-webhook-secret", SECRET, "--provisioning", "webhook"]).await
}

/// Every tenant, its state and its profile.
async fn catalog(server: &Server) -> BTreeMap<String, (State, Profile)> {
    let rows = server.app.store().list(None, None, 100_000).await.unwrap();
    rows.into_iter().map(|row| (row.id.to_string(), (row.state, row.profile))).collect()
}

async fn attempts(server: &Server, svix_id: &'static str) -> (String, u32, Option<String>) {
    use cubby::catalog::queries::deliveries;
    let found = server.app.store().catalog().query(move |conn| deliveries::find(conn, svix_id)).await.unwrap().unwrap();
    (found.outcome.to_string(), found.attempts, found.error)
}

#[tokio::test]
async fn a_user_is_created_updated_and_deleted() {
    let server = server().await;
    let client = &server.client;

    let done = deliver(client, "m1", &event("user.created", user("user_1", "ada", 10), 1_700_000_000)).await;
    assert_eq!(done, json!({"status": "created", "user_id": "user_1"}));
    client.note("user_1", "mine").await;

    let done = deliver(client, "m2", &event("user.updated", user("user_1", "lovelace", 20), 1_700_000_001)).await;
    assert_eq!(done, json!({"status": "updated", "user_id": "user_1"}));
    let (state, profile) = catalog(&server).await["user_1"].clone();
    assert_eq!(state, State::Active);
    assert_eq!(profile.email.as_deref(), Some("lovelace@example.com"));
    assert_eq!(profile.provider_event_at, Some(1_700_000_001_000), "seconds are understood");
    assert_eq!(client.texts("user_1").await, ["mine"], "an update leaves the data alone");

    let done = deliver(client, "m3", &event("user.deleted", gone("user_1"), 1_700_000_002)).await;
    assert_eq!(done, json!({"status": "deleted", "user_id": "user_1"}));
    client.get("/user_1").await.expect(404);
    client.post("/user_1", json!({"text": "again"})).await.expect(404);
    let id = "user_1".parse().unwrap();
    let layout = server.app.store().layout().clone();
    assert!(!layout.tenant(&id).exists() && layout.trashed(&id).exists(), "the file is kept, out of reach");
    server.stop().await;
}

#[tokio::test]
async fn an_update_for_an_unknown_user_creates() {
    let server = server().await;
    let done = deliver(&server.client, "m1", &event("user.updated", user("user_1", "ada", 10), 1)).await;
    assert_eq!(done["status"], "created");
    server.client.note("user_1", "hello").await;
    server.stop().await;
}

#[tokio::test]
async fn a_deletion_that_comes_first_is_not_undone_by_a_late_creation() {
    let server = server().await;
    let client = &server.client;
    assert_eq!(deliver(client, "m1", &event("user.deleted", gone("user_1"), 3)).await["status"], "deleted");
    assert_eq!(deliver(client, "m2", &event("user.created", user("user_1", "ada", 10), 1)).await["status"], "ignored");
    assert_eq!(deliver(client, "m3", &event("user.updated", user("user_1", "ada", 99), 9)).await["status"], "ignored");
    client.get("/user_1").await.expect(404);
    assert_eq!(catalog(&server).await["user_1"].0, State::Deleted);
    let id = "user_1".parse().unwrap();
    assert!(!server.app.store().layout().tenant(&id).exists(), "no file is made for a deleted user");
    server.stop().await;
}

#[tokio::test]
async fn an_older_update_does_not_bring_old_data_back() {
    let server = server().await;
    let client = &server.client;
    deliver(client, "m1", &event("user.updated", user("user_1", "new", 20), 5)).await;
    assert_eq!(deliver(client, "m2", &event("user.updated", user("user_1", "old", 10), 9)).await["status"], "ignored");
    assert_eq!(deliver(client, "m3", &event("user.created", user("user_1", "old", 10), 9)).await["status"], "exists");
    assert_eq!(catalog(&server).await["user_1"].1.first_name.as_deref(), Some("new"));
    server.stop().await;
}

#[tokio::test]
async fn a_deletion_older_than_the_restoration_is_history() {
    let server = server().await;
    let client = &server.client;
    deliver(client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
    deliver(client, "m2", &event("user.deleted", gone("user_1"), now() - 60)).await;
    server.app.store().restore(&"user_1".parse().unwrap(), &author()).await.unwrap();
    let again = deliver(client, "m3", &event("user.deleted", gone("user_1"), now() - 60)).await;
    assert_eq!(again["status"], "ignored", "the operator had the last word");
    client.get("/user_1").await.expect(200);
    let later = deliver(client, "m4", &event("user.deleted", gone("user_1"), now() + 60)).await;
    assert_eq!(later["status"], "deleted");
    client.get("/user_1").await.expect(404);
    server.stop().await;
}

#[tokio::test]
async fn a_repeat_answers_what_the_first_answered() {
    let server = server().await;
    let client = &server.client;
    let created = event("user.created", user("user_1", "ada", 10), 1);
    let first = deliver(client, "m1", &created).await;
    for _ in 0..3 {
        assert_eq!(deliver(client, "m1", &created).await, json!({"status": "duplicate", "first": first}));
    }
    let bad = Message::new("m2", &event("user.created", json!({"id": "a/b"}), 1));
    let rejected = bad.send(client).await.expect(422);
    let again = bad.send(client).await.expect(422);
    assert_eq!(again.json()["detail"], rejected.json()["detail"]);
    assert_eq!(again.header("webhook-delivery"), "abort-message");
    server.stop().await;
}

#[tokio::test]
async fn events_of_no_concern_are_recorded_and_ignored() {
    let server = server().await;
    let body = event("session.created", json!({"id": "sess_1", "user_id": "user_1"}), 1);
    let done = deliver(&server.client, "m1", &body).await;
    assert_eq!(done, json!({"status": "ignored", "type": "session.created"}));
    assert_eq!(attempts(&server, "m1").await, ("ignored".into(), 1, None));
    assert!(catalog(&server).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn what_can_never_succeed_is_rejected_for_good() {
    let server = server().await;
    let client = &server.client;
    let cases: &[(&str, &str, &[u8])] = &[
        ("truncated", "body", br#"{"type":"user.created","data":{"id":"user_"#),
        ("not json", "body", b"hello"),
        ("empty", "body", b""),
        ("no type", "type", br#"{"data":{"id":"user_1"}}"#),
        ("type of a wrong type", "type", br#"{"type":7,"data":{"id":"user_1"}}"#),
        ("no id", "data.id", br#"{"type":"user.deleted","data":{"deleted":true}}"#),
        ("id of a wrong type", "data.id", br#"{"type":"user.created","data":{"id":{"a":1}}}"#),
        ("no object", "data.id", br#"{"type":"user.created","data":"user_1"}"#),
        ("illegal id", "data.id", br#"{"type":"user.created","data":{"id":"../../etc/passwd"}}"#),
        ("reserved id", "data.id", br#"{"type":"user.created","data":{"id":"healthz"}}"#),
        ("a control character in a string", "body", b"{\"type\":\"user.created\",\"data\":{\"id\":\"user\n1\"}}"),
    ];
    for (name, field, body) in cases {
        let reply = Message::raw(name, body.to_vec()).send(client).await.expect(422);
        assert_eq!((reply.code().as_str(), &reply.json()["field"]), ("delivery_rejected", &json!(field)), "{name}");
        assert_eq!(reply.header("webhook-delivery"), "abort-message", "{name}");
        let (outcome, count, error) = attempts(&server, name).await;
        assert_eq!((outcome.as_str(), count), ("rejected", 1), "{name}");
        assert!(error.is_some_and(|error| !error.is_empty()), "{name} says why");
    }
    assert!(catalog(&server).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_body_of_256_kilobytes_is_taken_and_a_larger_one_is_not() {
    let server = server().await;
    let client = &server.client;
    let sized = |bytes: usize| {
        let mut data = user("user_1", "ada", 10);
        data["public_metadata"] = json!({"padding": ""});
        let bare = event("user.created", data.clone(), 1).to_string().len();
        data["public_metadata"]["padding"] = json!("x".repeat(bytes - bare));
        event("user.created", data, 1)
    };
    let limit = 256 << 10;
    Message::new("m1", &sized(limit)).send(client).await.expect(200);
    Message::new("m2", &sized(limit + 1)).send(client).await.expect(413);
    Message::new("m3", &sized(10 << 20)).send(client).await.expect(413);
    server.stop().await;
}

#[tokio::test]
async fn names_are_stored_without_control_characters() {
    let server = server().await;
    let mut data = user("user_1", "ada", 10);
    data["first_name"] = json!("A\u{1b}[2Jda\u{0}");
    data["username"] = json!(7);
    deliver(&server.client, "m1", &event("user.created", data, 1)).await;
    let profile = catalog(&server).await["user_1"].1.clone();
    assert_eq!((profile.first_name.as_deref(), profile.username), (Some("A[2Jda"), None));
    server.stop().await;
}

#[tokio::test]
async fn a_failure_is_retried_and_then_succeeds() {
    let server = server().await;
    let client = &server.client;
    let id = "user_1".parse().unwrap();
    // A folder where the file should be: no new file can be renamed onto it.
    let path = server.app.store().layout().tenant(&id);
    let shard = path.parent().unwrap();
    std::fs::remove_dir(shard).unwrap();
    let message = Message::new("m1", &event("user.created", user("user_1", "ada", 10), 1));
    for tries in 1..=2 {
        assert_eq!(message.send(client).await.expect(500).code(), "delivery_failed");
        let (outcome, count, error) = attempts(&server, "m1").await;
        assert_eq!((outcome.as_str(), count), ("failed", tries));
        assert!(error.is_some());
    }
    std::fs::create_dir(shard).unwrap();
    assert_eq!(message.send(client).await.expect(200).json()["status"], "created");
    assert_eq!(attempts(&server, "m1").await, ("created".into(), 3, None));
    client.note("user_1", "hello").await;
    server.stop().await;
}

#[tokio::test]
async fn behind_hookdeck_both_signatures_are_needed_and_age_is_not_looked_at() {
    let server = Server::with(&["--clerk-webhook-secret", SECRET, "--hookdeck-signing-secret", HOOKDECK]).await;
    let client = &server.client;
    let yesterday = |id: &str| {
        let body = event("user.created", user("user_1", "ada", 10), 1).to_string().into_bytes();
        Message::signed_at(id, body, now() - 86_400)
    };
    let hookdeck = "x-hookdeck-signature";
    assert_eq!(yesterday("m1").send(client).await.expect(400).code(), "signature_headers");
    assert_eq!(
        yesterday("m1").through_hookdeck(hookdeck, "wrong").send(client).await.expect(401).code(),
        "bad_signature"
    );

    let mut forged = yesterday("m1").through_hookdeck(hookdeck, HOOKDECK);
    forged
        .headers
        .iter_mut()
        .filter(|(name, _)| name == "svix-signature")
        .for_each(|(_, value)| *value = "v1,AAAA".into());
    assert_eq!(forged.send(client).await.expect(401).code(), "bad_signature");

    yesterday("m1").through_hookdeck(hookdeck, HOOKDECK).send(client).await.expect(200);
    let rotating =
        yesterday("m2").through_hookdeck(hookdeck, "the new one").through_hookdeck("x-hookdeck-signature-2", HOOKDECK);
    rotating.send(client).await.expect(200);
    server.stop().await;

    let direct = self::server().await;
    assert_eq!(yesterday("m3").send(&direct.client).await.expect(401).code(), "stale_timestamp");
    direct.stop().await;
}

// ── Order does not matter ────────────────────────────────────────────────────────────────────

/// One message of a history, about a user to be named.
#[derive(Debug, Clone)]
enum Said {
    Seen { created: bool, name: u8, updated_at: Option<i64>, at: Option<i64> },
    Gone { at: Option<i64> },
    Else,
}

impl Said {
    fn body(&self, id: &str) -> Value {
        match self {
            Self::Seen { created, name, updated_at, at } => {
                let kind = if *created { "user.created" } else { "user.updated" };
                let mut data = user(id, &format!("name{name}"), 0);
                data["updated_at"] = json!(updated_at.map(|at| 1_700_000_000_000 + at));
                let mut body = event(kind, data, 0);
                body["timestamp"] = json!(at.map(|at| 1_700_000_000 + at));
                body
            }
            Self::Gone { at } => {
                let mut body = event("user.deleted", gone(id), 0);
                body["timestamp"] = json!(at.map(|at| 1_700_000_000 + at));
                body
            }
            Self::Else => event("session.created", json!({"user_id": id}), 0),
        }
    }
}

/// Few different moments and names, so that ties and repeats are common.
fn said() -> impl Strategy<Value = Said> {
    let moment = || proptest::option::weighted(0.9, 0_i64..4);
    prop_oneof![
        6 => (any::<bool>(), 0_u8..3, moment(), moment())
            .prop_map(|(created, name, updated_at, at)| Said::Seen { created, name, updated_at, at }),
        1 => moment().prop_map(|at| Said::Gone { at }),
        1 => Just(Said::Else),
    ]
}

/// A history, and the same in another order with repeats.
fn histories(most: usize) -> impl Strategy<Value = (Vec<Said>, Vec<usize>)> {
    proptest::collection::vec(said(), 1..most).prop_flat_map(|history| {
        let every: Vec<usize> = (0..history.len()).collect();
        let more = proptest::collection::vec(0..history.len(), 0..=history.len() * 2);
        let order = more.prop_map(move |more| every.iter().copied().chain(more).collect::<Vec<_>>()).prop_shuffle();
        (Just(history), order)
    })
}

fn parsed(said: &Said) -> Event {
    event::parse(said.body("user_1").to_string().as_bytes()).event.unwrap()
}

fn fold<'a>(events: impl Iterator<Item = &'a Event>) -> Option<Standing> {
    events.fold(None, |known, event| decide(known.as_ref(), event).standing)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_with_any_repeats_gives_the_same_standing((history, order) in histories(12)) {
        let events: Vec<Event> = history.iter().map(parsed).collect();
        let straight = fold(events.iter());
        prop_assert_eq!(&straight, &fold(order.iter().map(|at| &events[*at])));

        let deleted = events.iter().any(|event| matches!(event, Event::Gone { .. }));
        let seen = events.iter().any(|event| matches!(event, Event::Seen { .. }));
        let state = straight.as_ref().map(|standing| standing.state);
        prop_assert_eq!(state, match (deleted, seen) {
            (true, _) => Some(State::Deleted),
            (false, true) => Some(State::Active),
            (false, false) => None,
        });
    }

    #[test]
    fn deciding_once_more_changes_nothing(history in proptest::collection::vec(said(), 1..8)) {
        let events: Vec<Event> = history.iter().map(parsed).collect();
        let known = fold(events.iter());
        for event in &events {
            let again = decide(known.as_ref(), event);
            prop_assert_eq!(again.effect, Effect::None);
            prop_assert_eq!(&again.standing, &known);
        }
    }
}

async fn send_all(client: &Client, messages: Vec<Message>, senders: usize) {
    let queue = std::sync::Arc::new(parking_lot::Mutex::new(messages));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..senders {
        let (queue, client) = (queue.clone(), client.clone());
        running.spawn(async move {
            loop {
                let Some(message) = queue.lock().pop() else { return };
                message.send(&client).await.expect(200);
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

/// What the server should know of a user after a history, by the pure decision in order.
fn expected(history: &[Said]) -> Option<(State, Profile)> {
    let events: Vec<Event> = history.iter().map(parsed).collect();
    fold(events.iter()).map(|standing| (standing.state, normal(standing.profile)))
}

fn normal(profile: Profile) -> Profile {
    Profile { role: profile.role.or(Some("client".into())), image_url: None, ..profile }
}

#[test]
fn a_server_comes_to_the_same_catalog_whatever_the_order() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 30,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let server = runtime.block_on(server());
    let next = std::cell::Cell::new(0);
    let result = runner.run(&histories(8), |(history, order)| {
        next.set(next.get() + 1);
        let id = format!("user_{}", next.get());
        let messages = order.iter().map(|at| Message::new(&format!("{id}-{at}"), &history[*at].body(&id))).collect();
        let found = runtime.block_on(async {
            send_all(&server.client, messages, 4).await;
            server.app.store().find(&id.parse().unwrap()).await.unwrap()
        });
        prop_assert_eq!(found.map(|row| (row.state, normal(row.profile))), expected(&history));
        Ok(())
    });
    result.unwrap();
    runtime.block_on(server.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_deliveries_shuffled_and_repeated_five_times_give_the_catalog_of_in_order_once() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    const USERS: usize = 400;
    const EACH: usize = 25;
    let mut runner = TestRunner::deterministic();
    let history = proptest::collection::vec(said(), EACH - 2..EACH - 1);
    let mut messages = Vec::new();
    let mut right = BTreeMap::new();
    for user in 0..USERS {
        let id = format!("user_{user}");
        let mut said = history.new_tree(&mut runner).unwrap().current();
        // Half of them live: a generated history of this length nearly always has a deletion.
        let lives = user % 2 == 0;
        if lives {
            said.retain(|said| !matches!(said, Said::Gone { .. }));
        }
        said.push(Said::Seen { created: true, name: 9, updated_at: Some(0), at: Some(0) });
        said.push(if lives { Said::Else } else { Said::Gone { at: Some(9) } });
        let deliveries: Vec<Message> =
            said.iter().enumerate().map(|(at, said)| Message::new(&format!("{id}-{at}"), &said.body(&id))).collect();
        for _ in 0..5 {
            messages.extend(deliveries.iter().cloned());
        }
        right.insert(id, expected(&said).unwrap());
    }
    assert!(messages.len() >= 5 * 9_000, "{}", messages.len());
    // A fixed shuffle; then every deletion before anything else of its user.
    let shuffled = Just(messages).prop_shuffle().new_tree(&mut runner).unwrap().current();
    let (first, rest): (Vec<Message>, Vec<Message>) =
        shuffled.into_iter().partition(|message| String::from_utf8_lossy(&message.body).contains("user.deleted"));
    // Taken from the end.
    let messages: Vec<Message> = rest.into_iter().chain(first).collect();

    let server = server().await;
    send_all(&server.client, messages, 32).await;
    let found: BTreeMap<_, _> =
        catalog(&server).await.into_iter().map(|(id, (state, profile))| (id, (state, normal(profile)))).collect();
    assert_eq!(found, right);
    let lost: Vec<_> = right
        .iter()
        .filter(|(_, (state, _))| *state == State::Active)
        .filter(|(id, _)| !server.app.store().layout().tenant(&id.parse().unwrap()).exists())
        .collect();
    assert!(lost.is_empty(), "every live user has a file: {lost:?}");
    server.stop().await;
}

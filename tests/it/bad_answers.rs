//! A provider that answers badly: at any moment, in any way, nobody is lost by it, and nobody who is
//! known waits for it.

use serde_json::json;

use crate::{
    harness::{
        self, Server,
        clerk::{Clerk, Fault},
        sender::{deliver, event, user},
    },
    reconcile::{ADMIN, counts, live, server, sync},
};

#[tokio::test]
async fn bad_answers_are_retried_and_then_end_the_run_before_any_deletion() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_1", "x", 10), 1)).await;
    clerk.add(user("user_2", "x", 10));

    clerk.fault(&[Fault::TooMany(0), Fault::Broken, Fault::CutOff, Fault::Slow, Fault::Slow]);
    let let_go = async {
        for _ in 0..2 {
            clerk.let_go().await
        }
    };
    let (answer, ()) = tokio::join!(sync(&server, ""), let_go);
    let report = answer.expect(200).json();
    assert_eq!(counts(&report), [1, 0, 0, 1, 0], "a few are borne: {report}");
    clerk.add(user("user_1", "x", 10));
    sync(&server, "").await.expect(200);

    clerk.remove("user_1");
    for fault in [Fault::Broken, Fault::Nonsense, Fault::LostOnTheWay, Fault::TooMany(0), Fault::CutOff] {
        clerk.world.lock().always = Some(fault);
        let report = sync(&server, "?force=true").await.expect(502).json();
        assert_eq!(report["outcome"], "failed", "{fault:?}");
        assert!(!report["error"].as_str().unwrap().is_empty(), "{fault:?}");
        assert_eq!(live(&server).await, ["user_1", "user_2"], "{fault:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_provider_that_stops_answering_ends_the_run() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &["--provider-timeout", "50ms", "--provider-retries", "1"]).await;
    clerk.world.lock().always = Some(Fault::Silence);
    let report = sync(&server, "").await.expect(502).json();
    assert!(report["error"].as_str().unwrap().contains("cannot be reached"), "{report}");
    server.stop().await;
}

#[tokio::test]
async fn a_list_shorter_than_the_count_deletes_nobody() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_1", "x", 10), 1)).await;
    clerk.add(user("user_2", "x", 10));
    clerk.world.lock().overcount = 50;
    let report = sync(&server, "?force=true").await.expect(502).json();
    assert!(report["error"].as_str().unwrap().contains("listed 1 of the 51"), "{report}");
    assert_eq!(live(&server).await, ["user_1"]);

    clerk.world.lock().overcount = 0;
    clerk.remove("user_2");
    let report = sync(&server, "").await.expect(502).json();
    assert!(report["error"].as_str().unwrap().contains("another instance"), "{report}");
    assert_eq!(live(&server).await, ["user_1"]);
    server.stop().await;
}

#[tokio::test]
async fn any_failure_at_any_request_ends_the_run_with_502_and_deletes_nobody() {
    // What is asked: the count, the pages, and for the absent by name, a hundred at once.
    const PAGES: usize = 1001;
    const ABSENT: usize = 110;
    let faults =
        [Fault::Broken, Fault::Nonsense, Fault::LostOnTheWay, Fault::TooMany(0), Fault::CutOff, Fault::Forbidden];
    let moments = [
        (0, "listing", PAGES),
        (1, "listing", PAGES),
        (2, "listing", PAGES),
        (3, "listing", PAGES),
        (2, "asking", 3),
        (3, "asking", 3),
    ];
    for (well, phase, listed) in moments {
        let clerk = Clerk::start().await;
        let server = server(&clerk, &["--provider-retries", "1", "--sync-max-delete", "1000"]).await;
        for n in 0..listed {
            clerk.add(user(&format!("user_{n:04}"), "new", 20));
        }
        // Of those here one is at Clerk, with a newer name; the others are not there.
        deliver(&server.client, "old", &event("user.created", user("user_0000", "old", 10), 1)).await;
        let absent: Vec<String> = (0..ABSENT).map(|n| format!("user_x{n:03}")).collect();
        for id in &absent {
            deliver(&server.client, id, &event("user.created", user(id, "x", 10), 1)).await;
        }
        for fault in faults {
            {
                let mut world = clerk.world.lock();
                world.well = well;
                world.always = Some(fault);
            }
            let told = format!("{fault:?} after {well} good answers");
            let report = sync(&server, "").await.expect(502).json();
            assert_eq!((&report["outcome"], &report["code"]), (&json!("failed"), &json!("sync_failed")), "{told}");
            assert_eq!(report["stopped"], phase, "{told}");
            assert_eq!(report["deleted"]["count"], 0, "{told}");
            let here = live(&server).await;
            assert!(absent.iter().all(|id| here.contains(id)), "{told}: nobody is deleted");
            if phase == "listing" {
                assert_eq!(here.len(), ABSENT + 1, "{told}: and nothing else is done");
                assert_eq!((counts(&report), report["undone"]["count"].as_u64()), ([0; 5], Some(0)), "{told}");
            } else {
                assert_eq!(report["undone"]["count"], ABSENT, "{told}: what was not done is told");
                assert_eq!(here.len(), ABSENT + listed, "{told}: what came before stays done");
            }
            let last =
                server.client.send(server.client.request("GET", "/api/admin/sync-users").bearer_auth(ADMIN)).await;
            assert_eq!(last.json()["last"]["run"], report["run"], "{told}: it is kept");
        }
        clerk.world.lock().always = None;
        let report = sync(&server, "").await.expect(200).json();
        assert_eq!(report["deleted"]["count"], ABSENT, "once it answers well, all is done: {report}");
        server.stop().await;
    }
}

#[tokio::test]
async fn after_a_request_fails_for_good_no_other_is_sent() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &["--provider-retries", "2"]).await;
    clerk.world.lock().always = Some(Fault::Broken);
    sync(&server, "").await.expect(502);
    assert_eq!(clerk.asked("/"), 3, "one question and two retries");
    server.stop().await;
}

#[tokio::test]
async fn a_page_that_misses_users_deletes_nobody() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &["--sync-max-delete", "100"]).await;
    for n in 0..30 {
        let id = format!("user_{n:02}");
        deliver(&server.client, &id, &event("user.created", user(&id, "x", 10), 1)).await;
        clerk.add(user(&id, "x", 10));
    }
    // Far too short for the count: not believed.
    clerk.world.lock().short = Some(5);
    let report = sync(&server, "?force=true").await.expect(502).json();
    assert!(report["error"].as_str().unwrap().contains("listed 5 of the 30"), "{report}");
    // A little too short: believed as a list, but those who are missing from it are asked for by name.
    clerk.world.lock().short = Some(25);
    let report = sync(&server, "?force=true").await.expect(200).json();
    assert_eq!((report["deleted"]["count"].as_u64(), report["unlisted"]["count"].as_u64()), (Some(0), Some(5)));
    assert_eq!(live(&server).await.len(), 30);
    server.stop().await;
}

#[tokio::test]
async fn a_list_that_repeats_its_pages_ends_the_run() {
    let clerk = Clerk::start().await;
    for n in 0..600 {
        clerk.add(user(&format!("user_{n:03}"), "x", 10));
    }
    let server = server(&clerk, &[]).await;
    clerk.world.lock().circular = true;
    let report = sync(&server, "").await.expect(502).json();
    assert!(report["error"].as_str().unwrap().contains("repeats its pages"), "{report}");
    assert!(live(&server).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn retry_after_is_followed() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    clerk.fault(&[Fault::TooMany(1)]);
    sync(&server, "").await.expect(200);
    let asked = clerk.world.lock().asked_at.clone();
    assert!(asked[1] - asked[0] >= std::time::Duration::from_secs(1), "{:?}", asked[1] - asked[0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_do_not_queue_for_a_provider_that_is_down() {
    let clerk = Clerk::start().await;
    for id in ["user_known", "user_later"] {
        clerk.add(user(id, "ada", 10));
    }
    let flags = clerk.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--provisioning", "on-demand", "--provider-retries", "0", "--provider-timeout", "2s"]);
    let server = Server::with(&flags).await;
    server.client.note("user_known", "mine").await;
    clerk.world.lock().always = Some(Fault::Silence);

    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..1000 {
        let client = server.client.clone();
        crowd.spawn(async move { client.get(&format!("/user_{n}")).await });
    }
    let replies = crowd.join_all().await;
    for reply in &replies {
        assert_eq!(reply.status, 503);
        assert!(["1", "5"].contains(&reply.header("retry-after")), "{}", reply.header("retry-after"));
        assert!(["busy", "provider_unavailable"].contains(&reply.code().as_str()));
    }
    let asked = clerk.asked("/users/user_") - 1;
    // The circuit opens after three failures; before that, no more than 64 are under way.
    assert!((3..=3 + 64).contains(&asked), "Clerk was asked {asked} times");
    let refused = server.client.get("/user_later").await.expect(503);
    assert_eq!(refused.code(), "provider_unavailable");
    assert_eq!(clerk.asked("/users/user_later"), 0, "it is left alone");
    assert_eq!(server.client.texts("user_known").await, ["mine"], "whoever is known is served as ever");

    clerk.world.lock().always = None;
    harness::eventually("it is asked again", async || server.client.get("/user_later").await.status == 200).await;
    server.client.get("/user_0").await.expect(404);
    server.stop().await;
}

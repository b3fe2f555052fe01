//! The reconcile on its pages: looked at first, then applied as it was shown.

use serde_json::Value;

use super::browser::{Browser, Page};
use crate::{
    harness::{
        Server,
        clerk::Clerk,
        eventually,
        sender::{deliver, event, user},
    },
    reconcile::{live, server},
};

/// Waits until the run of a page is over, and gives its page.
async fn over(browser: &Browser, path: &str) -> Page {
    eventually("the run is over", async || !browser.get(path).await.expect(200).text.contains("data-progress")).await;
    browser.get(path).await.expect(200)
}

async fn look(browser: &Browser, force: &str) -> Page {
    let page = browser.get("/admin/sync").await.expect(200);
    let sent = browser.submit(&page, "/admin/sync/look", &[("force", force)]).await.expect(303);
    assert!(sent.location.starts_with("/admin/sync/run_"), "{}", sent.location);
    over(browser, &sent.location).await
}

/// Sends the form that applies what a page shows.
async fn apply(browser: &Browser, page: &Page, confirm: &str) -> Page {
    let form = page.text.split("action=\"/admin/sync/apply\"").nth(1).expect("a plan that can be applied");
    let field = |name: &str| {
        let start = format!("name=\"{name}\" value=\"");
        form.split(&start).nth(1).expect(name).split('"').next().unwrap().to_owned()
    };
    let fields = ["run", "plan", "force", "deletes"].map(|name| (name, field(name)));
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let fields: Vec<(&str, &str)> = fields.into_iter().chain([("confirm", confirm)]).collect();
    browser.submit(page, "/admin/sync/apply", &fields).await.expect(303)
}

async fn filled(clerk: &Clerk, more: &[&str]) -> (Server, Browser) {
    let server = server(clerk, more).await;
    for id in ["user_gone", "user_old"] {
        deliver(&server.client, id, &event("user.created", user(id, "before", 10), 1)).await;
    }
    clerk.add(user("user_old", "after", 20));
    clerk.add(user("user_new", "new", 10));
    let browser = Browser::signed_in(server.address).await;
    (server, browser)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_looked_at_confirmed_and_applied_and_its_run_is_kept() {
    let clerk = Clerk::start().await;
    let (server, browser) = filled(&clerk, &[]).await;
    let plan = look(&browser, "false").await;
    for told in
        ["A dry run: nothing was changed.", "To be created: 1", "To be changed: 1", "To be deleted: 1", "user_gone"]
    {
        assert!(plan.text.contains(told), "{told}: {}", plan.text);
    }
    assert_eq!(live(&server).await, ["user_gone", "user_old"]);
    // Without the number nothing happens.
    let back = apply(&browser, &plan, "delete 2").await;
    let told = browser.get(&back.location).await.expect(200).text;
    assert!(told.contains("what was typed is neither 1 nor"), "{told}");
    assert_eq!(live(&server).await, ["user_gone", "user_old"]);
    let run = apply(&browser, &plan, "delete 1").await.location;
    let done = over(&browser, &run).await;
    assert!(done.text.contains("Deleted: 1") && done.text.contains("Created: 1"), "{}", done.text);
    assert_eq!(live(&server).await, ["user_new", "user_old"]);
    let list = browser.get("/admin/sync").await.expect(200).text;
    assert!(list.contains(&run), "{list}");
    let agreed = look(&browser, "false").await;
    assert!(agreed.text.contains("The catalog and Clerk agree.") && !agreed.text.contains("/admin/sync/apply"));
    let part = browser.get(&format!("{run}/progress")).await.expect(200).text;
    assert!(part.contains("It is over.") && !part.contains("<html"), "{part}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_out_of_date_or_forged_is_told_of_and_does_nothing() {
    let clerk = Clerk::start().await;
    let (server, browser) = filled(&clerk, &[]).await;
    let (plan, other) = (look(&browser, "false").await, Browser::signed_in(server.address).await);
    clerk.add(user("user_newer", "newer", 10));
    let run = apply(&browser, &plan, "1").await.location;
    let told = over(&browser, &run).await.text;
    assert!(told.contains("another one now; nothing was changed") && told.contains("Dry run"), "{told}");
    assert_eq!(live(&server).await, ["user_gone", "user_old"]);

    // Two operators with the same plan: one applies it, the other is told.
    let (one, two) = (look(&browser, "false").await, look(&other, "false").await);
    let run = apply(&browser, &one, "1").await.location;
    over(&browser, &run).await;
    assert_eq!(live(&server).await, ["user_new", "user_newer", "user_old"]);
    let run = apply(&other, &two, "1").await.location;
    assert!(over(&other, &run).await.text.contains("another one now; nothing was changed"));

    clerk.add(user("user_newest", "newest", 10));
    let harm = "<script>alert(1)</script>\u{202e}";
    for plan in ["", "x", harm, &"f".repeat(10_000), &"0".repeat(32)] {
        let page = browser.get("/admin/sync").await.expect(200);
        let fields = [("run", harm), ("plan", plan), ("force", "true")];
        let sent = browser.submit(&page, "/admin/sync/apply", &fields).await.expect(303);
        // A notice is told once, by the first look.
        let told = match sent.location.as_str() {
            "/admin/sync" => browser.get("/admin/sync").await.expect(200).text,
            run => over(&browser, run).await.text,
        };
        assert!(told.contains("Nothing was changed:") || told.contains("nothing was changed"), "{told}");
        assert!(!told.contains("<script>alert") && !told.contains('\u{202e}') && told.len() < 50_000, "{told}");
    }
    for path in ["/admin/sync/apply", "/admin/sync/look"] {
        let forged = browser.post(path, &[("force", "true")]).await.expect(403);
        assert!(forged.text.contains("forged_form"));
        let sent = Browser::new(server.address).post(path, &[("force", "true")]).await.expect(303);
        assert_eq!(sent.location, "/admin/sign-in?next=%2Fadmin%2Fsync");
    }
    browser.get("/admin/sync/%3Cscript%3E").await.expect(404);
    assert_eq!(live(&server).await, ["user_new", "user_newer", "user_old"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_that_are_held_back_are_shown_and_forced_by_a_plan_of_their_own() {
    let clerk = Clerk::start().await;
    let (server, browser) = filled(&clerk, &["--sync-max-delete", "0"]).await;
    let plan = look(&browser, "false").await;
    assert!(plan.text.contains("Held back: 1") && plan.text.contains("CUBBY_SYNC_MAX_DELETE"), "{}", plan.text);
    let forced = look(&browser, "true").await;
    assert!(forced.text.contains("To be deleted: 1"), "{}", forced.text);
    let run = apply(&browser, &plan, "").await.location;
    let done = over(&browser, &run).await.text;
    assert!(done.contains("Held back: 1") && done.contains("Created: 1"), "{done}");
    assert_eq!(live(&server).await, ["user_gone", "user_new", "user_old"]);
    // What was applied meanwhile makes it another plan.
    let run = apply(&browser, &forced, "delete 1").await.location;
    assert!(over(&browser, &run).await.text.contains("another one now"));
    let forced = look(&browser, "true").await;
    let run = apply(&browser, &forced, "delete 1").await.location;
    assert!(over(&browser, &run).await.text.contains("Deleted: 1"));
    assert_eq!(live(&server).await, ["user_new", "user_old"]);
    let _: Value = server.client.get("/healthz").await.expect(200).json();
    server.stop().await;
}

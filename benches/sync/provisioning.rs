use std::time::{Duration, Instant};

use cubby::Store;
use serde_json::json;

use crate::{delivery, event, serve, user};

/// Sign-ups at a steady rate, whatever the server does; each delivers `user.created` and then makes
/// the user's first note. What waits, waits on the clock from the moment it should have begun.
pub async fn run(store: &Store, rate: u32, seconds: u32) {
    let address = serve(store).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let (count, gap) = (rate * seconds, Duration::from_secs(1) / rate);
    let start = Instant::now() + Duration::from_millis(100);
    let mut running = tokio::task::JoinSet::new();
    for n in 0..count {
        let due = start + gap * n;
        tokio::time::sleep_until(due.into()).await;
        let http = http.clone();
        running.spawn(async move {
            let id = format!("user_{n:08}");
            let body = event("user.created", user(&id, "new", 1_700_000_000_000));
            let answer = delivery(&http, address, &format!("msg_{n}"), body).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let created = due.elapsed();
            let note = http.post(format!("http://{address}/{id}")).json(&json!({"text": "hello"}));
            assert_eq!(note.send().await.unwrap().status(), 201);
            (created, due.elapsed())
        });
    }
    let times = running.join_all().await;
    let took = start.elapsed();
    println!("{count} sign-ups at {rate}/s, done in {:.1} s", took.as_secs_f64());
    let (created, noted): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    show("delivery answered", created);
    let p99 = show("first note answered", noted);
    let figure = format!("p99 of {:.0} ms from sign-up to the first note's answer, at {rate}/s", p99 * 1000.0);
    crate::against(&figure, "2000 ms", p99 < 2.0);
}

/// Gives the 99th percentile in seconds.
fn show(what: &str, mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!("{what:<20} p50 {:>8.1} ms   p99 {:>8.1} ms   worst {:>8.1} ms", at(0.5), at(0.99), at(1.0));
    at(0.99) / 1000.0
}

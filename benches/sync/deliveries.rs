use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use cubby::{
    Store,
    catalog::{
        APPLICATION_IDS,
        audit::Author,
        model::{Delivery, DeliveryOutcome, Profile},
        queries::{self, deliveries},
    },
    sqlite::{
        deadline::Deadline,
        open::{self, Options},
    },
    webhooks::{apply, event},
};

use crate::{delivery, event as body, serve, user};

/// Users whom the updates are about.
const USERS: u32 = 100;

pub async fn run(store: &Store, count: u32, senders: u32) {
    for n in 0..USERS {
        store
            .create(&format!("user_{n}").parse().unwrap(), Profile::default(), &Author::program("bench"))
            .await
            .unwrap();
    }
    let of = store.clone();
    let raw = tokio::task::spawn_blocking(move || raw(&of, count / 4)).await.unwrap();
    show("raw: one commit of SQLite each, one thread", raw, raw);

    let one = applied(store, "one", count / 4, 1).await;
    show("applied, one sender", one, raw);
    let many = applied(store, "many", count, senders).await;
    show(&format!("applied, {senders} senders"), many, raw);
    let http = over_http(store, count, senders).await;
    show(&format!("signed, over HTTP, {senders} senders"), http, raw);
    let times = many / raw;
    crate::against(&format!("{times:.1} × raw with {senders} senders"), "5 × raw", times >= 5.0);
}

fn show(what: &str, rate: f64, raw: f64) {
    println!("{what:<44} {rate:>9.0} deliveries/s {:>6.2} × raw", rate / raw);
}

/// The same rows, written by a connection of one's own with the same settings.
fn raw(store: &Store, count: u32) -> f64 {
    let options = Options { application_ids: &APPLICATION_IDS, cache_kib: 8192, ..Options::default() };
    let mut conn = open::open(&store.layout().catalog(), &options, &Deadline::none()).unwrap();
    let id = "user_0".parse().unwrap();
    let started = Instant::now();
    for n in 0..count {
        let text = body("user.updated", user("user_0", "raw", i64::from(n)));
        let parsed = event::parse(text.as_bytes());
        let Ok(event::Event::Seen { user, .. }) = parsed.event else { panic!("an update") };
        let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
        queries::set_profile(&tx, &id, &user.profile).unwrap();
        let row = Delivery {
            svix_id: format!("raw_{n}"),
            kind: parsed.kind,
            tenant: Some(user.id),
            received: 1,
            outcome: DeliveryOutcome::Updated,
            duration_us: 0,
            error: None,
            answer: None,
            body: Some(text.into()),
        };
        deliveries::record(&tx, &row).unwrap();
        tx.commit().unwrap();
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}

async fn applied(store: &Store, name: &str, count: u32, senders: u32) -> f64 {
    let (store, name) = (store.clone(), name.to_owned());
    spread(count, senders, move |n| {
        let (store, id) = (store.clone(), format!("{name}_{n}"));
        async move {
            let text =
                body("user.updated", user(&format!("user_{}", n % USERS), &id, 1_000_000_000_000 + i64::from(n)));
            apply::apply(&store, &id, event::parse(text.as_bytes()), text.into(), None).await.unwrap();
        }
    })
    .await
}

async fn over_http(store: &Store, count: u32, senders: u32) -> f64 {
    let address = serve(store).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    spread(count, senders, move |n| {
        let (http, id) = (http.clone(), format!("http_{n}"));
        async move {
            let text =
                body("user.updated", user(&format!("user_{}", n % USERS), &id, 1_700_000_000_000 + i64::from(n)));
            let answer = delivery(&http, address, &id, text).send().await.unwrap();
            assert_eq!(answer.status(), 200);
        }
    })
    .await
}

/// Runs `count` jobs by `senders` at once; says how many a second.
async fn spread<J, F>(count: u32, senders: u32, job: J) -> f64
where
    J: Fn(u32) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let next = Arc::new(AtomicU32::new(0));
    let started = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..senders {
        let (next, job) = (next.clone(), job.clone());
        running.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return;
                }
                job(n).await;
            }
        });
    }
    running.join_all().await;
    f64::from(count) / started.elapsed().max(Duration::from_micros(1)).as_secs_f64()
}

//! What an overview that is open costs callers.

use std::time::Duration;

use reqwest::header::COOKIE;
use tokio::task::JoinHandle;

use crate::{
    Options,
    client::{KEY, address, http, sign_in},
    load::{Callers, Round},
    make, process,
    server::Server,
    table::{Table, median, spread},
};

/// What is asked of it, as a part of what callers get and take.
const BAR: f64 = 0.01;

/// How often the page is fetched again.
const FETCH: Duration = Duration::from_secs(3);

/// How often a page that is open hears of a new sample.
const SAMPLE: Duration = cubby::telemetry::recent::EVERY;

/// Fetches that are counted without callers.
const FETCHES: u32 = 500;

const TENANTS: u32 = 1000;

/// An operator with an overview.
#[derive(Clone)]
struct Operator {
    http: reqwest::Client,
    base: String,
    cookie: String,
}

impl Operator {
    async fn get(&self, path: &str) -> reqwest::Response {
        let answer = self.http.get(format!("{}{path}", self.base)).header(COOKIE, &self.cookie).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer
    }

    /// Has it open: hears its events, and fetches it every few seconds.
    fn look(&self) -> [JoinHandle<()>; 2] {
        let (hears, fetches) = (self.clone(), self.clone());
        let events = tokio::spawn(async move {
            let mut events = hears.get("/admin/events").await;
            while events.chunk().await.unwrap().is_some() {}
            panic!("the events have ended");
        });
        let pages = tokio::spawn(async move {
            loop {
                assert!(fetches.get("/admin").await.bytes().await.unwrap().len() > 1000);
                tokio::time::sleep(FETCH).await;
            }
        });
        [events, pages]
    }
}

/// Throughput and CPU for each request in one round.
struct Figures {
    rate: f64,
    cpu: f64,
}

async fn round(server: &Server, callers: &Callers, seconds: u32) -> Figures {
    let before = process::cpu(server.id());
    let round: Round = callers.round(None, f64::from(seconds)).await;
    assert_eq!(round.failed, 0, "callers' requests failed");
    Figures { rate: round.rate(), cpu: (process::cpu(server.id()) - before) / round.number() }
}

pub async fn run(options: &Options, table: &mut Table) {
    let data = tempfile::TempDir::new_in(&options.folder).unwrap();
    make::run(data.path(), TENANTS, None).await;
    let http = http();
    let server = Server::start(&http, data.path(), &["--admin-api-key", KEY]).await;
    let cookie = sign_in(&http, &server).await;
    let operator = Operator { http, base: server.base.clone(), cookie };
    let callers = Callers::seed(address(&server), options.connections, TENANTS).await;
    callers.round(None, f64::from(options.seconds)).await;

    let (mut with, mut without) = (Vec::new(), Vec::new());
    for n in 0..2 * options.rounds {
        // Without, with, with, without: what drifts is in both.
        if matches!(n % 4, 1 | 2) {
            let open = operator.look();
            with.push(round(&server, &callers, options.seconds).await);
            for task in open {
                task.abort();
                assert!(task.await.unwrap_err().is_cancelled());
            }
        } else {
            without.push(round(&server, &callers, options.seconds).await);
        }
    }
    let rates = |some: &[Figures]| some.iter().map(|figures| figures.rate).collect::<Vec<_>>();
    let cpus = |some: &[Figures]| some.iter().map(|figures| figures.cpu).collect::<Vec<_>>();
    let bar = format!("< {:.0} %", BAR * 100.0);
    let mut tell = |what: &str, cost: f64, noise: f64, how: String| {
        let figure = format!("{:.2} % ({how}); equal rounds differ by {:.1} %", cost * 100.0, noise * 100.0);
        table.judge(&format!("overview open: {what}"), figure, &bar, cost < BAR);
    };
    let (there, alone) = (median(rates(&with)), median(rates(&without)));
    let noise = spread(&rates(&without)).max(spread(&rates(&with)));
    tell("callers' throughput", 1.0 - there / alone, noise, format!("{there:.0}/s, alone {alone:.0}/s"));
    let (there, alone) = (median(cpus(&with)) * 1e6, median(cpus(&without)) * 1e6);
    let noise = spread(&cpus(&without)).max(spread(&cpus(&with)));
    tell("server's CPU a request", there / alone - 1.0, noise, format!("{there:.2} µs, alone {alone:.2} µs"));

    // The rounds differ by more than the page can cost, so its cost is counted by itself, too: a server that nobody else
    // asks, and an event taken for as much as a page, of which it is a part.
    let before = process::cpu(server.id());
    for _ in 0..FETCHES {
        operator.get("/admin").await.bytes().await.unwrap();
    }
    let each = (process::cpu(server.id()) - before) / f64::from(FETCHES);
    let share = each / FETCH.as_secs_f64() + each / SAMPLE.as_secs_f64();
    let figure = format!("{:.2} ms of CPU a page, {:.3} % of one processor", each * 1e3, share * 100.0);
    table.judge("overview open: by itself", figure, &bar, share < BAR);
    assert!(server.stop());
}

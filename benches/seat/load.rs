//! Callers: reads of one note, and a create after each nine, over connections that are kept.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    client::{Line, get, post},
    make,
    table::at,
};

/// Callers' tenants, whose databases are open all the time.
const TENANTS: u32 = 100;

/// Of so many requests one is a create.
const CREATE_OF: u32 = 10;

/// Callers of a server.
#[derive(Clone)]
pub struct Callers {
    address: SocketAddr,
    connections: u32,
    /// A read and a create of each tenant.
    requests: Arc<Vec<[Vec<u8>; 2]>>,
}

/// Requests that are being made.
pub struct Running {
    began: Instant,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Round>,
}

/// What came of them; times in microseconds.
#[derive(Debug, Default, Clone)]
pub struct Round {
    pub seconds: f64,
    pub reads: Vec<u32>,
    pub creates: Vec<u32>,
    pub failed: u64,
}

impl Callers {
    /// The first tenants of a folder that `make` made, with a note each.
    pub async fn seed(address: SocketAddr, connections: u32, tenants: u32) -> Self {
        let mut line = Line::open(address).await;
        let mut requests = Vec::new();
        for n in 0..tenants.min(TENANTS) {
            let path = format!("/{}", make::id(n));
            let create = post(&path, address, r#"{"text":"Bring the blue notebook and two pens on Thursday."}"#);
            let (status, body) = line.ask(&create).await;
            assert_eq!(status, 201);
            let note: Value = serde_json::from_slice(body).unwrap();
            let note = note["id"].as_str().or(note["note"]["id"].as_str()).expect("the id of a note");
            requests.push([get(&format!("{path}/{note}"), address, ""), create]);
        }
        Self { address, connections, requests: Arc::new(requests) }
    }

    /// Begins with so many requests a second, or as many as there can be.
    pub fn start(&self, rate: Option<u32>) -> Running {
        let (began, stop, mut tasks) = (Instant::now(), Arc::new(AtomicBool::new(false)), JoinSet::new());
        for n in 0..self.connections {
            let pace = rate.map(|rate| {
                let every = Duration::from_secs(1) * self.connections / rate;
                (began + every * n / self.connections, every)
            });
            tasks.spawn(self.clone().call(n, pace, stop.clone()));
        }
        Running { began, stop, tasks }
    }

    /// Requests for so long.
    pub async fn round(&self, rate: Option<u32>, seconds: f64) -> Round {
        let running = self.start(rate);
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        running.stop().await
    }

    async fn call(self, seed: u32, pace: Option<(Instant, Duration)>, stop: Arc<AtomicBool>) -> Round {
        let (mut line, mut round) = (Line::open(self.address).await, Round::default());
        let (mut due, every) = pace.unzip();
        let mut random = u64::from(seed) + 1;
        let mut number = seed;
        while !stop.load(Ordering::Relaxed) {
            // Whoever is late since the answer before was late has waited from the moment that was theirs. The delay of
            // this process's own clock is nobody's.
            let mut from = Instant::now();
            if let Some(due) = &mut due {
                if *due > from {
                    tokio::time::sleep_until((*due).into()).await;
                    from = Instant::now();
                } else {
                    from = *due;
                }
                *due += every.unwrap_or_default();
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let tenant = (random >> 33) as usize % self.requests.len();
            number = number.wrapping_add(1);
            let creates = number.is_multiple_of(CREATE_OF);
            let (status, _) = line.ask(&self.requests[tenant][usize::from(creates)]).await;
            let took = u32::try_from(from.elapsed().as_micros()).unwrap();
            let (times, expected) = if creates { (&mut round.creates, 201) } else { (&mut round.reads, 200) };
            times.push(took);
            round.failed += u64::from(status != expected);
        }
        round
    }
}

impl Running {
    /// Ends them, after the answers that are still to come.
    pub async fn stop(mut self) -> Round {
        self.stop.store(true, Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64();
        let mut all = Round { seconds, ..Round::default() };
        while let Some(one) = self.tasks.join_next().await {
            all.add(one.unwrap());
        }
        all
    }
}

impl Round {
    /// Those of another round as well.
    pub fn add(&mut self, mut other: Self) {
        self.seconds += other.seconds;
        self.reads.append(&mut other.reads);
        self.creates.append(&mut other.creates);
        self.failed += other.failed;
    }

    pub fn number(&self) -> f64 {
        (self.reads.len() + self.creates.len()) as f64
    }

    pub fn rate(&self) -> f64 {
        self.number() / self.seconds
    }

    /// The 99th percentile of all, of reads and of creates, in milliseconds.
    pub fn p99(&self) -> [f64; 3] {
        let mut all = [self.reads.as_slice(), self.creates.as_slice()].concat();
        [at(&mut all, 0.99), at(&mut self.reads.clone(), 0.99), at(&mut self.creates.clone(), 0.99)]
    }
}

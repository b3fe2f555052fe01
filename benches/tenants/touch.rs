//! Every user touched once, with room for few of them open.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    make,
    server::{Server, descriptors, memory},
};

/// The page cache that one open database may fill (`--cache`), in KiB.
const CACHE_KIB: u64 = 1024;

/// What a server may take besides its tenants' caches, in KiB: connections, buffers, the catalog.
const ASIDE_KIB: u64 = 64 * 1024;

/// The most of each that was seen.
#[derive(Debug, Default, Clone, Copy)]
struct Peak {
    descriptors: usize,
    of_tenants: usize,
    memory: u64,
}

pub async fn run(folder: &Path, count: u32, room: u32, connections: u32) -> bool {
    let data = tempfile::TempDir::new_in(folder).unwrap();
    make::run(data.path(), count, None).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let flags = ["--max-open", &room.to_string(), "--cache", &format!("{CACHE_KIB}KiB")];
    let server = Server::start(&http, data.path(), &flags).await;
    let before = memory(server.id());

    let mut good = true;
    for (what, write) in [("a read of each", false), ("a write of each", true)] {
        let done = Arc::new(AtomicBool::new(false));
        let watch = std::thread::spawn({
            let (done, process) = (done.clone(), server.id());
            move || watch(process, &done)
        });
        let started = Instant::now();
        let failures = touch(&http, &server.base, count, connections, write).await;
        let took = started.elapsed();
        done.store(true, Ordering::Release);
        let peak = watch.join().unwrap();

        let bound = (2 * room as usize, before + u64::from(room) * CACHE_KIB + ASIDE_KIB);
        let within = peak.of_tenants <= bound.0 && peak.memory <= bound.1;
        good &= within && failures == 0;
        println!(
            "{what}: {count} users in {took:.1?}, {:.0} a second, {failures} failed\n  tenants' descriptors at most {} \
             (bound {}), all descriptors {}\n  memory at most {:.1} MiB (before {:.1}, bound {:.1})",
            f64::from(count) / took.as_secs_f64(),
            peak.of_tenants,
            bound.0,
            peak.descriptors,
            mib(peak.memory),
            mib(before),
            mib(bound.1),
        );
    }
    good &= server.stop();
    println!("{}", if good { "within its bounds, and nothing failed" } else { "OUT OF BOUNDS, or something failed" });
    good
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Looks until `done`. Between two looks a peak may pass unseen; the bounds are kept by counting in
/// the server, and this is to see that they are.
fn watch(process: u32, done: &AtomicBool) -> Peak {
    let mut peak = Peak::default();
    while !done.load(Ordering::Acquire) {
        let (all, of_tenants) = descriptors(process);
        peak.descriptors = peak.descriptors.max(all);
        peak.of_tenants = peak.of_tenants.max(of_tenants);
        peak.memory = peak.memory.max(memory(process));
        std::thread::sleep(Duration::from_millis(20));
    }
    peak
}

/// One request for each user; tells how many were not answered as they should be.
async fn touch(http: &reqwest::Client, base: &str, count: u32, connections: u32, write: bool) -> u32 {
    let (next, failures) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (http, base, next, failures) = (http.clone(), base.to_owned(), next.clone(), failures.clone());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return;
                }
                let url = format!("{base}/{}", make::id(n));
                let (request, expected) = match write {
                    true => (http.post(url).json(&serde_json::json!({"text": "touched"})), 201),
                    false => (http.get(url), 200),
                };
                let answered = match request.send().await {
                    // Read to its end, so that the connection can be used again.
                    Ok(reply) => (reply.status().as_u16(), reply.bytes().await.is_ok()),
                    Err(_) => (0, false),
                };
                if answered != (expected, true) && failures.fetch_add(1, Ordering::Relaxed) < 5 {
                    println!("user {n} was answered {answered:?}");
                }
            }
        });
    }
    tasks.join_all().await;
    failures.load(Ordering::Relaxed)
}

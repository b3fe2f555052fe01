//! SQLite without a server: the limits that rows about files are held against.
//!
//! - `open`: open a tenant's file, read one note, close it, over many files. With `KEPT_OPEN`, the one
//!   that is closed is the one opened so many files ago, as a server with so much room has it: then
//!   the memory of each is out of the processor's caches when its turn comes.
//! - `create`: a new tenant file and its first note, every durability step taken, many threads.
//!   Measured once as many files are open as may be, so that each new one closes an old one.
//! - `insert`: one file, one connection, every insert a commit of its own.
//!
//! One line of JSON on standard output.

mod catalog;
mod tenant;

use rusqlite::params;
use std::{
    collections::VecDeque,
    env, fs,
    path::{Path, PathBuf},
    process::exit,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const USAGE: &str = "usage: compare-raw open   FOLDER SECONDS FILES [KEPT_OPEN]
       compare-raw create FOLDER SECONDS THREADS KEPT_OPEN
       compare-raw insert FOLDER SECONDS";

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let text: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |position: usize| -> u64 {
        let value = text.get(position).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| {
            eprintln!("{USAGE}");
            exit(2)
        })
    };
    let (Some(&what), Some(&folder)) = (text.first(), text.get(1)) else {
        eprintln!("{USAGE}");
        exit(2)
    };
    let folder = Path::new(folder);
    let time = Duration::from_secs(number(2));
    match what {
        "open" => open(folder, time, number(3), text.get(4).map_or(0, |_| number(4))),
        "create" => create(folder, time, number(3), number(4)),
        "insert" => insert(folder, time),
        _ => {
            eprintln!("{USAGE}");
            exit(2)
        }
    }
}

/// CPU time of this process so far, user and system.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("CPU time is not negative")
}

fn open(folder: &Path, time: Duration, files: u64, kept: u64) {
    let image = tenant::template();
    let layout = tenant::Layout::make(folder);
    let seed = |n| {
        let user = format!("user_{n:06}");
        let path = layout.path(&user);
        fs::write(&path, &image).expect("write a tenant file");
        let connection = tenant::open(&path);
        // Only what is measured need be durable.
        connection.execute_batch("PRAGMA synchronous=OFF").expect("set synchronous");
        tenant::first_note(&connection, &user);
        path
    };
    let paths: Vec<PathBuf> = (0..files).map(seed).collect();
    let mut samples = Vec::new();
    let mut open = VecDeque::new();
    let (cpu_before, start) = (cpu(), Instant::now());
    // A stride coprime to the count visits the files in no order the file system likes.
    for n in (0..).map(|n: u64| n * 7919 % files) {
        let began = Instant::now();
        if began - start >= time {
            break;
        }
        let connection = tenant::open(&paths[n as usize]);
        let note: tenant::Note =
            connection.query_row(tenant::SELECT, [tenant::FIRST], |row| row.try_into()).expect("read the note");
        assert_eq!(note.1, tenant::TEXT);
        open.push_back(connection);
        if open.len() as u64 > kept {
            drop(open.pop_front());
        }
        samples.push(began.elapsed());
    }
    report(samples, start.elapsed(), cpu() - cpu_before);
}

fn create(folder: &Path, time: Duration, threads: u64, kept: u64) {
    let image = tenant::template();
    let layout = tenant::Layout::make(folder);
    let catalog = catalog::Catalog::start(&folder.join("catalog.db"));
    let next = AtomicU64::new(0);
    let barrier = Barrier::new(threads as usize + 1);
    let room = (kept / threads).max(1) as usize;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let catalog = catalog.handle();
                let (image, layout, next, barrier) = (&image, &layout, &next, &barrier);
                scope.spawn(move || {
                    let mut open = VecDeque::new();
                    let mut one = || {
                        let user = format!("user_{}", next.fetch_add(1, Ordering::Relaxed));
                        let path = layout.place(image, &user);
                        catalog.add(&user);
                        let connection = tenant::open(&path);
                        tenant::first_note(&connection, &user);
                        // Room for as many open files as the servers have: the oldest makes way,
                        // and its close, a checkpoint, is part of the work as it is theirs.
                        open.push_back(connection);
                        if open.len() > room {
                            drop(open.pop_front());
                        }
                    };
                    (0..room).for_each(|_| one());
                    barrier.wait();
                    let mut samples = Vec::new();
                    let start = Instant::now();
                    while start.elapsed() < time {
                        let began = Instant::now();
                        one();
                        samples.push(began.elapsed());
                    }
                    samples
                })
            })
            .collect();
        barrier.wait();
        let (cpu_before, start) = (cpu(), Instant::now());
        let samples = workers.into_iter().flat_map(|worker| worker.join().expect("join"));
        let samples: Vec<_> = samples.collect();
        report(samples, start.elapsed(), cpu() - cpu_before);
    });
}

fn insert(folder: &Path, time: Duration) {
    let path = folder.join("one.db");
    fs::write(&path, tenant::template()).expect("write the tenant file");
    let connection = tenant::open(&path);
    let mut samples = Vec::new();
    let (cpu_before, start) = (cpu(), Instant::now());
    let mut insert = connection.prepare(tenant::INSERT).expect("prepare");
    for n in 0_u64.. {
        let began = Instant::now();
        if began - start >= time {
            break;
        }
        insert.execute(params![format!("note_{n:016}"), tenant::TEXT, 0]).expect("insert");
        samples.push(began.elapsed());
    }
    report(samples, start.elapsed(), cpu() - cpu_before);
}

fn report(mut samples: Vec<Duration>, elapsed: Duration, cpu: Duration) {
    samples.sort_unstable();
    let count = samples.len().max(1);
    let at = |share: f64| samples.get((count as f64 * share) as usize).map_or(0, Duration::as_nanos);
    println!(
        r#"{{"requests":{},"seconds":{:.3},"cpu_us":{:.2},"p50_us":{:.1},"p99_us":{:.1},"sqlite":"{}"}}"#,
        samples.len(),
        elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count as f64,
        at(0.50) as f64 / 1e3,
        at(0.99) as f64 / 1e3,
        rusqlite::version(),
    );
}

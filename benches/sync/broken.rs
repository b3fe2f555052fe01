use std::{net::SocketAddr, path::Path, process::Command, time::Instant};

use axum::{Json, Router, extract::RawQuery, routing::get};
use cubby::{
    Store,
    catalog::{audit::Author, queries},
};
use serde_json::{Value, json};

use crate::{
    reconcile::{PAGE, id, parsed},
    user,
};

/// Of a hundred users five are missing here, five have an old name, five a damaged row, one was
/// deleted here, one half-deleted (the row says so, the file is still in its place), and of one in two
/// hundred only the file is left. Three more are here who are not at Clerk. All with their files.
///
/// Then the commands an operator has, on that folder: what is wrong, what mends it, and that nothing
/// is wrong any more.
pub async fn run(store: Store, folder: &Path, users: u64) {
    let started = Instant::now();
    wreck(&store, users).await;
    store.close(tokio::time::Instant::now() + std::time::Duration::from_secs(60)).await;
    drop(store);
    println!("a folder of {users} users at Clerk, made and broken in {:.0} s", started.elapsed().as_secs_f64());
    let clerk = format!("http://{}", serve(users).await);
    let run = async |arguments: &[&str]| cubby(folder, &clerk, arguments).await;

    assert_eq!(run(&["doctor"]).await, 1, "it is broken");
    assert_eq!(run(&["sync", "--dry-run"]).await, 0);
    assert_eq!(run(&["doctor", "--fix"]).await, 0);
    assert_eq!(run(&["sync"]).await, 0);
    assert_eq!(run(&["sync", "--dry-run"]).await, 0);
    assert_eq!(run(&["doctor", "--provider"]).await, 0, "both sides agree, and catalog and files do");
}

async fn wreck(store: &Store, users: u64) {
    let (missing, extra) = (users / 20, users * 3 / 100);
    let mut running = tokio::task::JoinSet::new();
    for n in missing..users + extra {
        if running.len() >= 64 {
            running.join_next().await.unwrap().unwrap();
        }
        let (store, mut of) = (store.clone(), parsed(n));
        running.spawn(async move {
            match n % 20 {
                7 => {
                    of.profile.first_name = Some("old".into());
                    of.profile.provider_updated_at = Some(1);
                }
                13 => of.profile.email = Some("damaged".into()),
                _ => {}
            }
            store.create(&of.id, of.profile, &Author::program("bench")).await.unwrap();
            if n % 100 == 50 {
                store.delete(&of.id, &Author::program("bench")).await.unwrap();
            }
        });
    }
    running.join_all().await;
    let broken = store.catalog().write(move |tx| {
        for n in (missing..users).filter(|n| n % 100 == 0) {
            queries::mark_deleted(tx, &id(n).parse().unwrap(), 2, i64::MAX)?;
        }
        for n in (missing..users).filter(|n| n % 200 == 3) {
            tx.execute("DELETE FROM tenants WHERE id = ?1", [id(n)])?;
        }
        Ok(())
    });
    broken.await.unwrap();
}

/// Runs a command and shows what it says; gives its exit code.
async fn cubby(folder: &Path, clerk: &str, arguments: &[&str]) -> i32 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cubby"));
    command.args(arguments).arg("--data").arg(folder).args(["--clerk-secret-key", "sk_test_bench", "--clerk-api-url"]);
    command.arg(clerk).env("CUBBY_LOG", "warn");
    let started = Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let code = output.status.code().unwrap_or(-1);
    println!("\n$ cubby {}   # exit code {code}, {:.1} s", arguments.join(" "), started.elapsed().as_secs_f64());
    // The figures; of the names the first few of each list.
    let text = String::from_utf8_lossy(&output.stdout);
    let mut named = 0;
    for line in text.lines() {
        named = if line.starts_with("    ") && !line.trim_start().starts_with(|c: char| c.is_ascii_digit()) {
            named + 1
        } else {
            0
        };
        if named <= 2 {
            println!("{line}");
        }
    }
    print!("{}", String::from_utf8_lossy(&output.stderr));
    code
}

/// Clerk's Backend API as far as it is asked, over users with numbers.
async fn serve(users: u64) -> SocketAddr {
    let number = |id: &str| id.strip_prefix("user_").and_then(|n| n.parse::<u64>().ok());
    let written = |n: u64| user(&id(n), "name", 1_700_000_000_000);
    let list = move |RawQuery(query): RawQuery| async move {
        let query = query.unwrap_or_default();
        let text = |value: &str| percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
        let of = |name: &'static str| {
            query
                .split('&')
                .filter_map(move |pair| pair.split_once('='))
                .filter(move |(key, _)| *key == name)
                .map(move |(_, value)| text(value))
        };
        let asked: Vec<String> = of("user_id").collect();
        let found: Vec<Value> = if asked.is_empty() {
            let first = of("starting_after").next().map_or(0, |after| number(&after).unwrap() + 1);
            (first..(first + PAGE).min(users)).map(written).collect()
        } else {
            asked.iter().filter_map(|id| number(id)).filter(|n| *n < users).map(written).collect()
        };
        Json(found)
    };
    let count = move || async move { Json(json!({"object": "total_count", "total_count": users})) };
    let routes = Router::new().route("/users", get(list)).route("/users/count", get(count));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    address
}

//! Start-up, by how many users there are.

use std::{path::Path, time::Duration};

use super::{
    make,
    server::{Server, memory},
};

pub async fn run(folder: &Path, counts: &[u32], times: usize) -> bool {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut rows = Vec::new();
    for count in counts {
        let data = tempfile::TempDir::new_in(folder).unwrap();
        make::run(data.path(), *count, None).await;
        let mut runs: Vec<(Duration, u64)> = Vec::new();
        for _ in 0..times.max(1) {
            let server = Server::start(&http, data.path(), &[]).await;
            runs.push((server.ready_after, memory(server.id())));
            if !server.stop() {
                println!("the server did not end well");
                return false;
            }
        }
        runs.sort();
        let (time, _) = runs[runs.len() / 2];
        let most = runs.iter().map(|(_, memory)| *memory).max().unwrap_or(0);
        rows.push((*count, time, runs[0].0, most));
    }
    println!("\n{:>10}  {:>12}  {:>12}  {:>12}", "users", "ready after", "fastest", "memory");
    for (count, time, fastest, memory) in rows {
        println!("{count:>10}  {time:>12.1?}  {fastest:>12.1?}  {:>8.1} MiB", memory as f64 / 1024.0);
    }
    true
}

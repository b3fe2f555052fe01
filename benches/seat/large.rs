//! One large tenant's export, and what the server's memory grows by.

use std::{path::Path, time::Instant};

use cubby::{
    Store, StoreOptions,
    rusqlite::{Connection, params},
};

use crate::{
    Options,
    beside::{SETTLE, command},
    client::{KEY, http},
    make, process,
    server::Server,
    table::Table,
};

/// What is asked of the growth, in MiB.
const BAR: f64 = 64.0;

/// Bytes of one note's text, so that four notes fill a page. Of a longer one, a part would go to a page of its own.
const TEXT: usize = 900;
const NOTE: u64 = 1024;

const FORMATS: [&str; 4] = ["sqlite", "ndjson", "sql", "csv"];

/// Fills a tenant's file with so many bytes of notes.
fn fill(data: &Path, bytes: u64) -> u64 {
    let store = Store::open(StoreOptions::new(data)).unwrap();
    let path = store.layout().tenant(&make::id(0));
    drop(store);
    let mut conn = Connection::open(&path).unwrap();
    let unsafely = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536";
    conn.execute_batch(unsafely).unwrap();
    // With some that is escaped in each form.
    let text = "It's \"quoted\", and goes on\nin another line. ".repeat(TEXT / 40);
    let text = &text[..TEXT];
    let tx = conn.transaction().unwrap();
    {
        let mut insert = tx.prepare("INSERT INTO notes VALUES (printf('note_%016d', ?1), ?2, ?1, ?1)").unwrap();
        for n in 0..bytes / NOTE {
            insert.execute(params![n as i64, text]).unwrap();
        }
    }
    tx.commit().unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    drop(conn);
    std::fs::metadata(path).unwrap().len()
}

pub async fn run(options: &Options, table: &mut Table) {
    let folder = tempfile::TempDir::new_in(&options.folder).unwrap();
    let data = folder.path().join("data");
    make::run(&data, 2, None).await;
    let size = fill(&data, options.large);
    println!("a tenant of {} MiB", size >> 20);
    let http = http();
    let server = Server::start(&http, &data, &["--admin-api-key", KEY]).await;
    // Another one's, so that what is there once is there.
    let url = |n, format| format!("{}/api/admin/tenants/{}/export?format={format}", server.base, make::id(n));
    let small = http.get(url(1, "sqlite")).bearer_auth(KEY).send().await.unwrap();
    assert!(small.error_for_status().unwrap().bytes().await.unwrap().len() > 4096);
    // Of all of them, so that what one leaves is not given to the next.
    let (before, _) = process::memory(server.id());
    let to = folder.path().join("export");
    for format in FORMATS {
        let one_table = matches!(format, "ndjson" | "csv");
        for by in ["GET", "command"] {
            // The copy before is sent, and the server has yet to let go of it: it makes one of a tenant at a time.
            tokio::time::sleep(SETTLE).await;
            process::forget_most(server.id());
            let began = Instant::now();
            let bytes = if by == "GET" {
                let table = if one_table { "&table=notes" } else { "" };
                let answer = http.get(url(0, format) + table).bearer_auth(KEY).send().await.unwrap();
                let mut answer = answer.error_for_status().unwrap();
                let mut bytes = 0;
                while let Some(piece) = answer.chunk().await.unwrap() {
                    bytes += piece.len() as u64;
                }
                bytes
            } else {
                let (id, to) = (make::id(0), to.to_str().unwrap());
                let mut arguments = vec!["export", id.as_str(), "--to", to, "--format", format];
                arguments.extend(one_table.then_some(["--table", "notes"]).into_iter().flatten());
                assert!(command(&server, &arguments).status().unwrap().success(), "{arguments:?}");
                let bytes = std::fs::metadata(to).unwrap().len();
                std::fs::remove_file(to).unwrap();
                bytes
            };
            let (took, (now, most)) = (began.elapsed().as_secs_f64(), process::memory(server.id()));
            assert!(bytes * 10 > options.large * 9, "{bytes} bytes as {format}");
            let figure = format!(
                "{:.1} MiB over {before:.1}, {:.1} afterwards; {:.0} MB in {took:.1} s",
                most - before,
                now - before,
                bytes as f64 / 1e6
            );
            table.judge(
                &format!("export of {:.1} GB, {format}, {by}", size as f64 / 1e9),
                figure,
                &format!("< {BAR} MiB"),
                most - before < BAR,
            );
        }
    }
    assert!(server.stop());
}

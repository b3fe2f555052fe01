//! Workers that change users' databases in every way that SQL over HTTP lets them, each its own users; and what a
//! user's state is.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    check,
    http::{Http, Reply},
    load,
    rng::Rng,
};

/// What the users' schema has beside the notes.
pub const SCHEMA: &str = "CREATE TABLE blobs (id INTEGER PRIMARY KEY, name TEXT NOT NULL, body BLOB NOT NULL) STRICT;";

/// Of so many users one keeps the schema: its file can be imported.
const PLAIN: usize = 5;

/// An entry of so many bytes is an object of its own.
const LARGE: u64 = 4_600_000;

/// The names of the tables that this makes.
const TABLES: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' AND \
     (name = 'blobs' OR substr(name, 1, 6) = 'extra_') ORDER BY name";

pub struct Worker {
    number: usize,
    tenants: Vec<usize>,
    rng: Rng,
    next: u64,
    pub acknowledged: u64,
    pub violations: Vec<String>,
}

pub fn workers(seed: u64, tenants: usize, count: usize) -> Vec<Worker> {
    let worker = |number| Worker {
        number,
        tenants: (0..tenants).filter(|tenant| tenant % count == number).collect(),
        rng: Rng::new(seed, 4000 + number as u64),
        next: 0,
        acknowledged: 0,
        violations: Vec::new(),
    };
    (0..count).map(worker).collect()
}

/// Whether a user's schema stays as migrations made it.
pub fn is_plain(tenant: usize) -> bool {
    tenant.is_multiple_of(PLAIN)
}

/// Lets the workers work until `stop`, which runs beside them, returns.
pub fn run<T>(address: SocketAddr, workers: &mut [Worker], stop: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in workers.iter_mut() {
            let done = &done;
            scope.spawn(move || worker.work(address, done));
        }
        let result = stop();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Runs a text of several statements on a user's database. None if it is not known whether it was done.
pub fn execute(http: &mut Http, tenant: usize, sql: &str) -> Option<Result<(), String>> {
    let requests = [json!({"type": "sequence", "sql": sql}), json!({"type": "close"})];
    let path = format!("/{}/sql/v2/pipeline", load::tenant(tenant));
    match http.post(&path, &json!({"baton": null, "requests": requests})) {
        Reply::Answer(answer) if answer.status == 200 => {
            let text = answer.text();
            Some(if text.contains(r#""message":"#) { Err(text) } else { Ok(()) })
        }
        Reply::Answer(answer) if answer.status < 500 => Some(Err(format!("{} {}", answer.status, answer.text()))),
        _ => None,
    }
}

impl Worker {
    fn work(&mut self, address: SocketAddr, done: &AtomicBool) {
        let mut http = Http::new(address);
        while !done.load(Ordering::Relaxed) {
            let tenant = self.tenants[self.rng.index(self.tenants.len())];
            let sql = self.transaction(tenant);
            match execute(&mut http, tenant, &sql) {
                Some(Ok(())) => self.acknowledged += 1,
                Some(Err(why)) => {
                    let begin: String = sql.chars().take(120).collect();
                    self.violations.push(format!("STATUS: user {tenant}: {begin}: {why}"));
                }
                // The server is gone, or asks for a pause.
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn transaction(&mut self, tenant: usize) -> String {
        if is_plain(tenant) {
            return self.content("blobs");
        }
        let extra = format!("extra_{}", self.rng.range(0, 3));
        match self.rng.range(0, 20) {
            0..=2 => {
                let shape = SCHEMA.replacen("CREATE TABLE blobs", &format!("CREATE TABLE IF NOT EXISTS {extra}"), 1);
                let insert = self.insert(&extra);
                format!("BEGIN; {shape} {insert} COMMIT")
            }
            3 => format!("DROP TABLE IF EXISTS {extra}"),
            4 => "CREATE INDEX IF NOT EXISTS blobs_by_name ON blobs (name)".to_owned(),
            5 => "DROP INDEX IF EXISTS blobs_by_name".to_owned(),
            6 => format!("BEGIN; DROP TABLE IF EXISTS {extra}; DELETE FROM blobs; ROLLBACK"),
            _ => self.content("blobs"),
        }
    }

    fn content(&mut self, table: &str) -> String {
        let nth = self.rng.range(0, 4);
        let insert = self.insert(table);
        match self.rng.range(0, 20) {
            0..=8 => insert,
            9..=11 => {
                let more: String = (0..self.rng.range(1, 6)).map(|_| self.insert(table)).collect();
                format!("BEGIN; {insert} {more} COMMIT")
            }
            12..=14 => format!("BEGIN; {insert} DELETE FROM {table} WHERE id % 4 = {nth}; COMMIT"),
            15 | 16 => format!("UPDATE {table} SET body = randomblob(length(body)) WHERE id % 4 = {nth}"),
            17 => format!("BEGIN IMMEDIATE; {insert} UPDATE {table} SET name = name || 'x'; ROLLBACK"),
            18 => format!("DELETE FROM {table} WHERE id % 3 = {}", nth % 3),
            _ => format!("DELETE FROM {table}"),
        }
    }

    fn insert(&mut self, table: &str) -> String {
        self.next += 1;
        let length = match self.rng.range(0, 100) {
            0 => LARGE,
            1..=4 => self.rng.range(100_000, 600_000),
            5..=30 => self.rng.range(3_000, 40_000),
            _ => self.rng.range(0, 2_000),
        };
        format!("INSERT INTO {table} (name, body) VALUES ('{}-{}', randomblob({length}));", self.number, self.next)
    }
}

/// One line for each row of a table.
fn lines(table: &str) -> String {
    format!(
        "SELECT '{table} ' || id || ' ' || name || ' ' || length(body) || ' ' || hex(substr(body, 1, 16)) \
         FROM {table} ORDER BY id"
    )
}

/// A user's state, as the server has it.
pub fn read(http: &mut Http, tenant: usize) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for table in select(http, tenant, TABLES)? {
        all.extend(select(http, tenant, &lines(&table))?);
    }
    Ok(all)
}

/// The same of a file that nobody else has open.
pub fn read_file(path: &Path) -> cubby::Result<Vec<String>> {
    let conn = check::connect(path)?;
    let column = |sql: &str| -> cubby::Result<Vec<String>> {
        let mut statement = conn.prepare(sql)?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    };
    let mut all = Vec::new();
    for table in column(TABLES)? {
        all.extend(column(&lines(&table))?);
    }
    Ok(all)
}

/// The first column of what a statement gives.
fn select(http: &mut Http, tenant: usize, sql: &str) -> Result<Vec<String>, String> {
    let requests = [json!({"type": "execute", "stmt": {"sql": sql}}), json!({"type": "close"})];
    let path = format!("/{}/sql/v2/pipeline", load::tenant(tenant));
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let reply = http.post(&path, &json!({"baton": null, "requests": requests}));
        let answer = match &reply {
            Reply::Answer(answer) if answer.status == 200 => answer.json(),
            _ if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            _ => return Err(format!("UNREADABLE: user {tenant}: {reply}")),
        };
        let Some(rows) = answer["results"][0]["response"]["result"]["rows"].as_array() else {
            return Err(format!("UNREADABLE: user {tenant}: {reply}"));
        };
        let first = |row: &Value| row[0]["value"].as_str().unwrap_or_default().to_owned();
        return Ok(rows.iter().map(first).collect());
    }
}

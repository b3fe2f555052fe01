//! The list of tenants, its orders, states and pages, and the search.

use std::time::Instant;

use cubby::catalog::queries::search::Cursor;

use crate::{
    Options,
    client::{KEY, Line, address, get, http, sign_in},
    fill::{self, Person, RARE, STRANGERS, mixed, person},
    process,
    server::Server,
    table::{Table, at},
};

/// What is asked of each page's p99, in milliseconds.
const BAR: f64 = 20.0;

/// The query of a page for somebody who is drawn.
type Query = fn(&Person, u32) -> String;

/// A page and what it must have.
struct Page {
    name: &'static str,
    query: Query,
    /// Part of what is on it, for who is drawn.
    has: fn(&Person) -> String,
}

fn nothing(_: &Person) -> String {
    String::new()
}

fn anybody(_: &Person) -> String {
    "href=\"/admin/tenants/user_".to_owned()
}

fn them(who: &Person) -> String {
    format!("href=\"/admin/tenants/{}\"", who.id)
}

fn cursor(key: i64, id: &str) -> String {
    format!("cursor={}", Cursor { key, id: id.to_owned() })
}

/// Behind whoever is drawn, in an order.
fn behind(sort: &str, key: i64, who: &Person) -> String {
    format!("sort={sort}&{}", cursor(key, who.id.as_str()))
}

const fn page(name: &'static str, query: Query, has: fn(&Person) -> String) -> Page {
    Page { name, query, has }
}

const PAGES: [Page; 27] = [
    page("first page, by id", |_, _| String::new(), anybody),
    page("first page, newest first", |_, _| "sort=created".into(), anybody),
    page("first page, last used first", |_, _| "sort=seen".into(), anybody),
    page("first page, largest first", |_, _| "sort=size".into(), anybody),
    page("active", |_, _| "state=active".into(), anybody),
    page("suspended", |_, _| "state=suspended".into(), anybody),
    page("quarantined", |_, _| "state=quarantined".into(), anybody),
    page("deleted", |_, _| "state=deleted".into(), anybody),
    page("active, newest first", |_, _| "state=active&sort=created".into(), anybody),
    page("suspended, last used first", |_, _| "state=suspended&sort=seen".into(), anybody),
    page("quarantined, largest first", |_, _| "state=quarantined&sort=size".into(), anybody),
    page("deep, by id", |who, _| behind("id", 0, who), nothing),
    page("deep, newest first", |who, _| behind("created", who.created, who), nothing),
    page("deep, last used first", |who, _| behind("seen", who.seen.unwrap_or(0), who), nothing),
    page("deep, largest first", |who, _| behind("size", who.bytes.unwrap_or(0), who), nothing),
    page(
        "deep, suspended, newest first",
        |who, _| format!("state=suspended&{}", behind("created", who.created, who)),
        nothing,
    ),
    page("search: an id", |who, _| format!("q={}", who.id), them),
    page("search: an address", |who, _| format!("q={}", who.email), them),
    page("search: part of an address", |who, n| format!("q={}{n}", &who.last_name.to_lowercase()), them),
    page("search: beginning of a name", |who, _| format!("q={}", &who.first_name[..3]), anybody),
    page(
        "search: a name, and the beginning of another",
        |who, _| format!("q={}+{}", who.first_name, &who.last_name[..2]),
        anybody,
    ),
    page(
        "search: what many have inside",
        |_, n| format!("q={}", ["son", "exa", "user_", "ann"][n as usize % 4]),
        anybody,
    ),
    page(
        "search: the same, suspended",
        |_, n| format!("q={}&state=suspended", ["son", "ann"][n as usize % 2]),
        nothing,
    ),
    page("search: the same, deep", |_, n| format!("q=son&{}", cursor(i64::from(n), "")), nothing),
    page("search: what few have inside", |_, _| format!("q={}", &RARE[2..9]), anybody),
    page("search: two names that nobody has together", |_, _| format!("q={}", STRANGERS.replace(' ', "+")), nothing),
    page("search: beginning of an id", |_, n| format!("q={}", ["us", "u"][n as usize % 2]), anybody),
];

pub async fn run(options: &Options, table: &mut Table) {
    let data = tempfile::TempDir::new_in(&options.folder).unwrap();
    fill::run(data.path(), options.listed).await;
    let http = http();
    let server = Server::start(&http, data.path(), &["--admin-api-key", KEY]).await;
    let cookie = format!("cookie: {}\r\n", sign_in(&http, &server).await);
    let (address, load) = (address(&server), process::machine_load());
    let mut line = Line::open(address).await;
    println!("pages of {} tenants, {} requests each, machine's load {load}", options.listed, options.requests);
    let mut worst: f64 = 0.0;
    for (number, Page { name, query, has }) in PAGES.iter().enumerate() {
        let (mut times, mut bytes, mut found) = (Vec::new(), 0, 0);
        for request in 0..options.requests {
            // Another one each time, so that no page is warm from the one before.
            let n = mixed(((number as u64) << 32) | u64::from(request)) % u64::from(options.listed);
            let n = u32::try_from(n).unwrap();
            let who = person(n);
            let target = get(&format!("/admin/tenants?{}", query(&who, n)), address, &cookie);
            let began = Instant::now();
            let (status, body) = line.ask(&target).await;
            times.push(u32::try_from(began.elapsed().as_micros()).unwrap());
            let has = has(&who);
            assert_eq!(status, 200, "{name}");
            found += u32::from(memchr::memmem::find(body, has.as_bytes()).is_some());
            bytes += body.len();
        }
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| at(&mut times, share));
        worst = worst.max(p99);
        let each = bytes / options.requests as usize / 1000;
        let figure = format!("p50 {p50:.2} ms, p99 {p99:.2} ms, slowest {most:.2} ms; {each} kB");
        let (all, missed) = (found == options.requests, options.requests - found);
        let figure = if all { figure } else { format!("{figure}; who is looked for is not there {missed} times") };
        table.judge(name, figure, &format!("p99 < {BAR} ms"), p99 < BAR && all);
    }
    table.judge("all of these", format!("largest p99 {worst:.2} ms"), &format!("p99 < {BAR} ms"), worst < BAR);
    assert!(server.stop());
}

//! Which open databases are used most or are largest.

use serde_json::{Value, json};

use crate::harness::{Process, Server, cubby, run, stdout, terminal::Terminal};

const ADMIN: &str = "an operator's key of some length";
const PATH: &str = "/api/admin/open-tenants";

fn ids(found: &Value) -> Vec<&str> {
    found["tenants"].as_array().unwrap().iter().map(|tenant| tenant["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_busiest_or_the_largest_open_databases_come_first() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    let none = operator.get(PATH).await.expect(200).json();
    assert_eq!((&none["open"], ids(&none).len()), (&json!(0), 0));
    for n in 0..20 {
        server.client.note("large", &format!("{n} {}", "x".repeat(100_000))).await;
    }
    server.client.note("small", "x").await;
    for _ in 0..200 {
        server.client.get("/busy").await.expect(200);
    }
    let busy = operator.get(PATH).await.expect(200).json();
    assert_eq!(busy["open"], 2, "who never wrote is not there, and to look opens nothing");
    server.client.note("busy", "x").await;
    for _ in 0..200 {
        server.client.get("/busy").await.expect(200);
    }
    let busy = operator.get(PATH).await.expect(200).json();
    assert_eq!((ids(&busy)[0], ids(&busy).len()), ("busy", 3), "{busy}");
    let first = &busy["tenants"][0];
    assert!(first["requests_per_second"].as_f64().unwrap() > 1.0, "{busy}");
    assert_eq!((&first["in_use"], &first["schema_version"]), (&json!(0), &json!(2)));
    assert_eq!(ids(&operator.get(&format!("{PATH}?limit=1")).await.expect(200).json()), ["busy"]);
    for (query, status) in [("limit=0", 400), ("limit=1001", 400), ("by=age", 400), ("by=bytes", 200)] {
        operator.get(&format!("{PATH}?{query}")).await.expect(status);
    }
    server.client.get(PATH).await.expect(401);
    server.stop().await;
}

#[tokio::test]
async fn the_command_prints_a_table_once_where_there_is_no_terminal() {
    let folder = tempfile::TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--admin-api-key", ADMIN]);
    server.client.note("ada", "x").await;
    let url = format!("http://{}", server.address);
    let top = |more: &[&str]| {
        let mut command = cubby();
        command.args(["tenants", "top"]).args(more).arg("--data").arg(folder.path());
        stdout(&command.env("CUBBY_URL", &url).env("ADMIN_API_KEY", ADMIN).output().unwrap())
    };
    let text = top(&[]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("1 databases open of ") && lines[2].starts_with("id  "), "{text}");
    assert!(lines[3].starts_with("ada ") && lines.len() == 4 && !text.contains('\u{1b}'), "{text}");
    let found: Value = serde_json::from_str(&top(&["--by", "bytes", "--json"])).unwrap();
    assert_eq!(ids(&found), ["ada"]);
    server.signal("TERM");
    assert!(server.wait().success());
    let output = run(folder.path(), &["tenants", "top"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no server holds the data folder"), "{output:?}");
}

#[tokio::test]
async fn on_a_terminal_the_table_is_drawn_anew_until_it_is_interrupted() {
    let folder = tempfile::TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--admin-api-key", ADMIN]);
    let mut command = cubby();
    command.args(["tenants", "top", "--every", "100ms", "--data"]).arg(folder.path());
    command.env("CUBBY_URL", format!("http://{}", server.address)).env("ADMIN_API_KEY", ADMIN);
    let mut terminal = Terminal::start(command);
    terminal.sees("\u{1b}[?1049h");
    terminal.sees("0 databases open of ");
    // Who comes later is on a later drawing.
    server.client.note("ada", "x").await;
    terminal.sees("1 databases open of ");
    terminal.sees("\nada ");
    let child = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(child, rustix::process::Signal::INT).unwrap();
    let (rest, status) = terminal.ends();
    assert!(status.success(), "{status}");
    assert!(rest.ends_with("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l"), "the screen is as it was before: {rest:?}");
    server.signal("TERM");
    assert!(server.wait().success());
}

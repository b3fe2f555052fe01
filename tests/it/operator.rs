//! API keys, the operator's routes, and the commands that use them on a running server.

use std::{path::Path, sync::mpsc};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::harness::{Client, Process, Server, cubby, eventually, run, stdout};

const ADMIN: &str = "an operator's key of some length";

fn flags(mode: &str) -> Vec<String> {
    ["--auth", mode, "--admin-api-key", ADMIN].map(str::to_owned).to_vec()
}

/// The body of an answer without the id of its request.
fn told(reply: &crate::harness::Reply) -> (u16, Value) {
    let mut body = reply.json();
    body.as_object_mut().unwrap().remove("request_id").expect("a request id");
    (reply.status, body)
}

async fn make_key(operator: &Client, draft: Value) -> (String, String) {
    let made = operator.post("/api/admin/keys", draft).await.expect(201).json();
    (made["key"]["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_key_reaches_what_it_is_for_and_nothing_else() {
    let server = Server::with_flags(&flags("keys")).await;
    let operator = server.client.bearing(ADMIN);
    let all = server.client.bearing(make_key(&operator, json!({"name": "all"})).await.1);
    let one = server.client.bearing(make_key(&operator, json!({"name": "one", "user_id": "ada"})).await.1);
    let reader = server.client.bearing(make_key(&operator, json!({"name": "r", "read_only": true})).await.1);

    let note = all.note("ada", "x").await;
    all.note("eve", "y").await;
    assert_eq!(one.texts("ada").await, ["x"]);
    let unknown = told(&one.get("/nobody").await);
    assert_eq!(unknown.0, 404);
    for path in ["/eve", "/eve/note_x", "/%00"] {
        assert_eq!(told(&one.get(path).await), unknown, "{path}");
    }
    assert_eq!(told(&one.post("/eve", json!({"text": "z"})).await), unknown);
    assert_eq!(told(&one.post("/nobody", json!({"text": "z"})).await), unknown);

    assert_eq!(reader.texts("eve").await, ["y"]);
    for user in ["ada", "nobody"] {
        let refused = reader.post(&format!("/{user}"), json!({"text": "z"})).await.expect(403);
        assert_eq!(refused.code(), "read_only");
    }
    reader.delete(&format!("/ada/{note}")).await.expect(403);
    reader.patch(&format!("/ada/{note}"), json!({"text": "z"})).await.expect(403);
    assert_eq!(all.texts("ada").await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn a_revoked_or_expired_or_made_up_key_is_refused_on_the_next_request() {
    let server = Server::with_flags(&flags("keys")).await;
    let operator = server.client.bearing(ADMIN);
    let (id, secret) = make_key(&operator, json!({"name": "a"})).await;
    let client = server.client.bearing(&secret);
    client.note("ada", "x").await;
    operator.post(&format!("/api/admin/keys/{id}/revoke"), json!({})).await.expect(200);
    let refused = client.get("/ada").await.expect(401);
    assert_eq!(refused.code(), "invalid_token");
    assert_eq!(refused.header("www-authenticate"), "Bearer realm=\"cubby\", error=\"invalid_token\"");

    let same = told(&refused);
    for made_up in
        [cubby::identity::keys::generate(), "cubby_live_x".into(), secret.replace("live", "test"), ADMIN.into()]
    {
        let reply = server.client.bearing(&made_up).get("/ada").await;
        assert_eq!(reply.status, 401, "{made_up}");
        if made_up.starts_with("cubby_live_") {
            assert_eq!(told(&reply), same);
        }
    }
    let (_, short) = make_key(&operator, json!({"name": "b", "expires_in": 1})).await;
    eventually("the key ends", async || server.client.bearing(&short).get("/ada").await.status == 401).await;
    server.stop().await;
}

#[tokio::test]
async fn the_key_itself_is_nowhere_in_the_data_folder() {
    let server = Server::with_flags(&flags("keys")).await;
    let operator = server.client.bearing(ADMIN);
    let (_, secret) = make_key(&operator, json!({"name": "a"})).await;
    server.client.bearing(&secret).note("ada", "x").await;
    let listed = operator.get("/api/admin/keys").await.expect(200);
    assert!(!String::from_utf8_lossy(&listed.body).contains(&secret));
    for (path, ..) in crate::harness::tree(&server.data()) {
        if path.is_file() {
            let content = std::fs::read(&path).unwrap();
            // Not even the part that is random.
            let random = &secret.as_bytes()[11..43];
            assert!(!content.windows(random.len()).any(|window| window == random), "{}", path.display());
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn when_a_key_was_last_used_is_kept() {
    let folder = TempDir::new().unwrap();
    let list = ["--auth", "keys", "--admin-api-key", ADMIN];
    let server = Server::on(folder.path(), &list).await;
    let operator = server.client.bearing(ADMIN);
    let (_, secret) = make_key(&operator, json!({"name": "a"})).await;
    server.client.bearing(&secret).note("ada", "x").await;
    server.stop().await;

    let server = Server::on(folder.path(), &list).await;
    let keys = server.client.bearing(ADMIN).get("/api/admin/keys").await.expect(200).json();
    assert!(keys["keys"][0]["last_used"].as_str().unwrap().ends_with('Z'), "{keys}");
    assert_eq!(server.client.bearing(&secret).texts("ada").await, ["x"], "keys outlive a restart");
    server.stop().await;
}

#[tokio::test]
async fn the_operators_routes_want_the_operators_key() {
    let server = Server::with_flags(&flags("keys")).await;
    let operator = server.client.bearing(ADMIN);
    let (_, key) = make_key(&operator, json!({"name": "a"})).await;
    let routes = [
        ("GET", "/api/admin/tenants"),
        ("POST", "/api/admin/tenants"),
        ("GET", "/api/admin/tenants/ada"),
        ("DELETE", "/api/admin/tenants/ada"),
        ("POST", "/api/admin/tenants/ada/suspend"),
        ("POST", "/api/admin/tenants/ada/resume"),
        ("POST", "/api/admin/tenants/ada/restore"),
        ("GET", "/api/admin/keys"),
        ("POST", "/api/admin/keys"),
        ("POST", "/api/admin/keys/x/revoke"),
        ("GET", "/api/admin/audit"),
    ];
    for (method, path) in routes {
        for client in [&server.client, &server.client.bearing(&key), &server.client.bearing("x")] {
            let reply = client.send(client.request(method, path).json(&json!({}))).await;
            assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorized"), "{method} {path}");
        }
    }
    server.stop().await;

    let server = Server::start().await;
    let reply = server.client.bearing(ADMIN).get("/api/admin/tenants").await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "admin_not_configured"));
    server.stop().await;
}

#[tokio::test]
async fn an_operator_creates_suspends_resumes_deletes_and_restores() {
    let server = Server::with_flags(&flags("none")).await;
    let operator = server.client.bearing(ADMIN);
    let path = "/api/admin/tenants/ada";
    let made = operator.post("/api/admin/tenants", json!({"id": "ada", "email": "ada@example.com"})).await.expect(201);
    assert_eq!(made.json(), json!({"id": "ada", "created": true}));
    operator.post("/api/admin/tenants", json!({"id": "ada"})).await.expect(200);
    server.client.note("ada", "x").await;

    let suspended = operator.post(&format!("{path}/suspend"), json!({"reason": "unpaid"})).await.expect(200).json();
    assert_eq!(suspended["state"], "suspended");
    assert_eq!(server.client.get("/ada").await.expect(403).code(), "suspended");
    operator.post(&format!("{path}/resume"), json!({})).await.expect(200);
    assert_eq!(server.client.texts("ada").await, ["x"]);
    operator.delete(path).await.expect(200);
    server.client.get("/ada/note_x").await.expect(404);
    operator.post("/api/admin/tenants", json!({"id": "ada"})).await.expect(409);
    operator.post(&format!("{path}/restore"), json!({})).await.expect(200);
    assert_eq!(server.client.texts("ada").await, ["x"]);

    let one = operator.get(path).await.expect(200).json();
    assert_eq!((&one["state"], &one["email"]), (&json!("active"), &json!("ada@example.com")));
    let list = operator.get("/api/admin/tenants?state=active&limit=10").await.expect(200).json();
    assert_eq!(list["tenants"].as_array().unwrap().len(), 1);
    assert_eq!(list["counts"]["active"], 1);
    for (path, code) in [("nobody", "unknown_user"), ("a%2Fb", "unknown_user")] {
        assert_eq!(operator.get(&format!("/api/admin/tenants/{path}")).await.expect(404).code(), code);
    }
    operator.get("/api/admin/tenants?state=happy").await.expect(400);
    operator.get("/api/admin/tenants?limit=0").await.expect(400);
    assert_eq!(operator.post("/api/admin/tenants", json!({"id": "../x"})).await.expect(422).code(), "invalid_field");

    let trail = operator.get("/api/admin/audit").await.expect(200).json();
    let trail: Vec<String> = trail["audit"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|row| {
            assert_eq!((&row["actor"], &row["origin"]), (&json!("operator"), &json!("127.0.0.1")));
            format!("{} {} {}", row["action"].as_str().unwrap(), row["target"].as_str().unwrap(), row["result"])
        })
        .collect();
    assert_eq!(
        trail,
        [
            r#"tenants create ada "done""#,
            r#"tenants suspend ada "done""#,
            r#"tenants resume ada "done""#,
            r#"tenants delete ada "done""#,
            r#"tenants create ada "409 conflict""#,
            r#"tenants restore ada "done""#,
            r#"tenants create ../x "422 invalid_field""#,
        ]
    );
    server.stop().await;
}

/// The audit trail as the catalog has it: `action target result`, oldest first.
async fn trail(server: &Server) -> Vec<String> {
    let rows = server.app.store().catalog().query(|conn| {
        let mut rows =
            conn.prepare("SELECT action || ' ' || coalesce(target, '') || ' ' || result FROM audit ORDER BY id")?;
        rows.query_map([], |row| row.get(0))?.collect()
    });
    rows.await.unwrap()
}

/// A write to the catalog that lasts until it is told to end.
struct BusyCatalog {
    gate: mpsc::Sender<()>,
    write: JoinHandle<cubby::Result<()>>,
}

impl BusyCatalog {
    async fn start(server: &Server) -> Self {
        let store = server.app.store().clone();
        let (gate, opened) = mpsc::channel();
        let (begun, has_begun) = oneshot::channel();
        let wait = move |_: &rusqlite::Transaction| {
            let _ = begun.send(());
            let _ = opened.recv();
            Ok(())
        };
        let write = tokio::spawn(async move { store.catalog().write(wait).await });
        has_begun.await.unwrap();
        Self { gate, write }
    }

    async fn end(self) {
        drop(self.gate);
        self.write.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_change_whose_client_hangs_up_is_finished_and_recorded() {
    // Every request is over before it has begun: as when whoever asked hangs up.
    let mut all = flags("keys");
    all.extend(["--request-timeout", "0s"].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    let operator = server.client.bearing(ADMIN);
    // Nor can it end before it is: the catalog takes no writes meanwhile.
    let busy = BusyCatalog::start(&server).await;
    let cut = operator.post("/api/admin/keys", json!({"name": "a"})).await.expect(503);
    assert_eq!(cut.code(), "request_timeout");
    busy.end().await;
    eventually("the creation is in the trail", async || trail(&server).await.len() == 1).await;
    let made = trail(&server).await.remove(0);
    let id = made.strip_prefix("keys create ").and_then(|rest| rest.strip_suffix(" done")).expect("a key's id");
    let busy = BusyCatalog::start(&server).await;
    operator.post(&format!("/api/admin/keys/{id}/revoke"), json!({})).await.expect(503);
    busy.end().await;
    eventually("the revocation is in the trail", async || trail(&server).await.len() == 2).await;
    assert_eq!(trail(&server).await[1], format!("keys revoke {id} done"));
    server.stop().await;
}

#[tokio::test]
async fn a_dry_run_parameter_of_other_routes_does_not_hide_a_change() {
    let server = Server::with_flags(&flags("none")).await;
    let operator = server.client.bearing(ADMIN);
    operator.post("/api/admin/tenants?dry_run=true", json!({"id": "ada"})).await.expect(201);
    operator.delete("/api/admin/tenants/ada?dry_run").await.expect(200);
    // The last one counts, and there is no provider to ask.
    operator.post("/api/admin/sync-users?dry_run=true&dry_run=false", json!({})).await.expect(503);
    assert_eq!(
        trail(&server).await,
        ["tenants create ada done", "tenants delete ada done", "sync  503 provider_not_configured"]
    );
    server.stop().await;
}

/// Runs a command that finds the folder locked by the server at `url`.
fn ask(data: &Path, url: &str, arguments: &[&str]) -> std::process::Output {
    cubby().args(arguments).arg("--data").arg(data).env("CUBBY_URL", url).env("ADMIN_API_KEY", ADMIN).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_on_a_running_server_and_on_the_folder_alike() {
    let folder = TempDir::new().unwrap();
    let data = folder.path();
    assert_eq!(stdout(&run(data, &["tenants", "create", "ada"])), "ada created\n");
    let offline = stdout(&run(data, &["keys", "create", "--name", "offline"])).trim().to_owned();

    let server = Process::start(data, &["--auth", "keys", "--admin-api-key", ADMIN]);
    let url = server.client.url("");
    server.client.bearing(&offline).note("ada", "x").await;
    let made = stdout(&ask(data, &url, &["keys", "create", "--name", "online", "--expires", "90d", "--json"]));
    let made: Value = serde_json::from_str(&made).unwrap();
    let online = server.client.bearing(made["secret"].as_str().unwrap());
    assert_eq!(online.texts("ada").await, ["x"], "a new key works at once");

    assert_eq!(
        stdout(&ask(data, &url, &["tenants", "suspend", "ada", "--reason", "unpaid"])),
        "ada is suspended: unpaid\n"
    );
    online.get("/ada").await.expect(403);
    stdout(&ask(data, &url, &["tenants", "resume", "ada"]));
    let shown = stdout(&ask(data, &url, &["tenants", "show", "ada"]));
    assert!(shown.contains("state           active"), "{shown}");
    let listed = stdout(&ask(data, &url, &["tenants", "list"]));
    assert!(listed.contains("1 active, 0 suspended"), "{listed}");
    let unknown = ask(data, &url, &["tenants", "show", "nobody|+"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("\"nobody|+\" is unknown"), "{unknown:?}");

    let id = made["key"]["id"].as_str().unwrap();
    stdout(&ask(data, &url, &["keys", "revoke", id]));
    online.get("/ada").await.expect(401);
    let keys = stdout(&ask(data, &url, &["keys", "list"]));
    assert!(keys.contains("revoked") && keys.contains("good"), "{keys}");

    let without = cubby().args(["keys", "list", "--data"]).arg(data).output().unwrap();
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(!without.status.success() && said.contains("ADMIN_API_KEY"), "{said}");
    // As with one file of settings for the server and the commands.
    let mut same = cubby();
    same.args(["keys", "list", "--data"]).arg(data).env("ADMIN_API_KEY", ADMIN);
    let listed = same.env("CUBBY_LISTEN", server.address.to_string()).output().unwrap();
    assert!(stdout(&listed).contains(id), "{listed:?}");
    let nowhere = ask(data, "http://127.0.0.1:1", &["keys", "list"]);
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("--url"), "{nowhere:?}");
    server.signal("TERM");
    assert!(server.wait().success());

    let keys = stdout(&run(data, &["keys", "list"]));
    assert!(keys.contains(id), "{keys}");
    let gone = run(data, &["keys", "revoke", "key_nobody"]);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("cubby keys list"), "{gone:?}");
}

//! Where settings come from, and which are refused.

use std::process::{Command, Output};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Process, cubby, sender};

/// A command in a folder of its own, with a `.env` there.
fn with_env_file(content: &str) -> (TempDir, Command) {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join(".env"), content).unwrap();
    let mut command = cubby();
    command.current_dir(folder.path());
    (folder, command)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_file_named_env_is_read_and_the_environment_and_flags_go_before_it() {
    let file = format!(
        "# a comment\nCUBBY_LISTEN=127.0.0.1:0\nCUBBY_DATA=from-file\nCUBBY_LOG_FORMAT=json\n\
         CUBBY_PROVISIONING=webhook\nCLERK_WEBHOOK_SECRET=\"{} {}\"\n",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        sender::SECRET
    );
    let (folder, mut command) = with_env_file(&file);
    command.arg("serve");
    let server = Process::spawn(command);
    server.client.post("/ada", json!({"text": "x"})).await.expect(404);
    let event = json!({"type": "user.created", "data": {"id": "ada"}});
    sender::deliver(&server.client, "msg_1", &event).await;
    server.client.note("ada", "x").await;
    assert!(folder.path().join("from-file/catalog.db").is_file());
    drop(server);

    let (folder, mut command) = with_env_file(&file);
    command.env("CUBBY_DATA", "from-environment").env("CUBBY_PROVISIONING", "open");
    command.args(["serve", "--data", "from-flag"]);
    let server = Process::spawn(command);
    server.client.note("ada", "x").await;
    assert!(folder.path().join("from-flag/catalog.db").is_file());
    assert!(!folder.path().join("from-environment").exists() && !folder.path().join("from-file").exists());
}

#[test]
fn a_broken_env_file_is_told_of_without_what_is_in_it() {
    let (_folder, mut command) = with_env_file("CUBBY_DATA=x\nCLERK_WEBHOOK_SECRET=whsec_abc def ghi\n");
    let output = command.args(["tenants", "list"]).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains(".env") && text.contains("the line after CUBBY_DATA"), "{text}");
    assert!(!text.contains("whsec_abc") && !text.contains("def"), "{text}");
}

#[test]
fn an_address_that_others_reach_is_refused_without_authentication_and_says_what_would_allow_it() {
    let folder = TempDir::new().unwrap();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        let output = cubby().args(["serve", "--listen", listen, "--data"]).arg(folder.path()).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{listen}: {text}");
        assert!(text.contains("CUBBY_INSECURE"), "{text}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was opened");
}

#[test]
fn a_setting_that_cannot_be_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    for (name, value, flag) in [
        ("CUBBY_LISTEN", "8080", "--listen"),
        ("CUBBY_PROVISIONING", "never", "--provisioning"),
        ("CUBBY_MAX_OPEN", "0", "--max-open"),
        ("CUBBY_IDLE", "soon", "--idle"),
        ("CUBBY_QUOTA", "1XB", "--quota"),
        ("CUBBY_MAX_NOTE_BYTES", "1TB", "--max-note-bytes"),
        ("CUBBY_LOG", "cubby=loud", "--log"),
        ("CLERK_WEBHOOK_SECRET", "whsec_not base64!", "CLERK_WEBHOOK_SECRET"),
        ("CLERK_WEBHOOK_SECRET", "   ", "CLERK_WEBHOOK_SECRET"),
    ] {
        let output = cubby()
            .env(name, value)
            .args(["serve", "--data"])
            .arg(folder.path().join("data"))
            .args(if name == "CUBBY_LISTEN" { &[][..] } else { &["--listen", "127.0.0.1:0"] })
            .output()
            .unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {text}");
        assert!(text.contains(flag) && !text.contains("serving"), "{name}={value}: {text}");
        assert!(!text.contains("not base64!"), "a secret is not shown: {text}");
    }
}

/// The settings that the README gives for a deployment, with ports that are free and an issuer that is
/// not asked.
#[tokio::test(flavor = "multi_thread")]
async fn the_settings_for_a_deployment_start_a_server_that_is_closed() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, rest) = readme.split_once("<!-- cubby.env -->\n```ini\n").expect("the README has a cubby.env");
    let file = rest.split("```").next().unwrap();
    let file = file.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:8081", "127.0.0.1:0");
    let file = file.replace("https://clerk.example.com/.well-known", "http://127.0.0.1:9");
    assert!(file.contains("CUBBY_TRUSTED_PROXIES") && file.contains("CUBBY_AUTHORIZED_PARTIES"), "{file}");
    let (_folder, mut command) = with_env_file(&file);
    command.args(["serve", "--log-format", "json", "--address-rate", "1/h:2"]);
    let server = Process::spawn(command);
    let from = |address: &str, method: &str, path: &str| {
        let request = server.client.request(method, path).header("x-forwarded-for", address);
        server.client.send(request.bearer_auth("made-with-openssl-rand-hex-32").json(&json!({"text": "x"})))
    };
    for (index, (method, path, status)) in [
        ("GET", "/ada", 401),
        ("POST", "/ada", 401),
        // Not there, and then no more than any user's id is.
        ("GET", "/api/admin/tenants", 404),
        ("GET", "/metrics", 401),
        ("POST", "/webhooks/clerk", 400),
    ]
    .into_iter()
    .enumerate()
    {
        from(&format!("198.51.100.{index}"), method, path).await.expect(status);
    }
    // Behind the proxy each caller counts by their own address.
    let ask = async |from: &str| {
        server.client.send(server.client.request("GET", "/ada").header("x-forwarded-for", from)).await.status
    };
    assert_eq!([ask("203.0.113.1").await, ask("203.0.113.1").await, ask("203.0.113.1").await], [401, 401, 429]);
    assert_eq!(ask("203.0.113.2").await, 401);
}

#[test]
fn a_port_that_is_taken_says_so() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = cubby().args(["serve", "--listen", &address, "--data"]).arg(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(&address) && stderr(&output).contains("--listen"), "{}", stderr(&output));
}

//! A command gives the same answer on the data folder and through the server that holds it.

use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Process, Server,
    clerk::Clerk,
    cubby,
    sender::{SECRET, deliver, event, user},
};

const ADMIN: &str = "an operator's key of some length";

/// Every command that exists in both forms, in an order in which each finds what it needs. `KEY` is the
/// id of the newest API key. Commands that change something, and those that are refused, are in between.
const COMMANDS: &[&str] = &[
    "tenants list",
    "tenants list --json",
    "tenants list --state active --limit 1 --json",
    "tenants list --after user_new",
    "tenants show user_old",
    "tenants show user_old --json",
    "tenants show nobody|+",
    "tenants create ben --email ben@example.com",
    "tenants create ben --json",
    "tenants suspend ben --reason overdue",
    "tenants suspend ben --reason again --json",
    "tenants suspend nobody --reason x",
    "tenants list --state suspended",
    "tenants resume ben",
    "tenants resume ben --json",
    "tenants restore ben",
    "tenants delete ben --json",
    "tenants delete nobody",
    "tenants create ben",
    "tenants show ben",
    "tenants restore ben",
    "tenants quota ben",
    "tenants quota ben --bytes 5GiB --rate 200/s",
    "tenants quota ben --bytes default --rate off --json",
    "tenants quota ben",
    "tenants quota nobody",
    "tenants quota nobody --bytes 1",
    "usage --user nobody",
    "usage --user nobody --format json",
    "tenants purge ben --yes",
    "tenants quota ben --bytes 1",
    "tenants delete ben",
    "tenants adopt user_new --from user_new",
    "tenants adopt user_new --from user_old",
    "tenants delete user_old",
    "tenants adopt user_new --from user_old",
    "tenants revive user_new",
    "tenants purge ben",
    "tenants purge ben --yes",
    "tenants purge nobody --yes",
    "tenants show ben --json",
    "tenants restore ben",
    "tenants revive ben",
    "tenants revive nobody",
    "keys list",
    "keys create --name backend",
    "keys create --name reports --tenant user_new --read-only --expires 90d --json",
    "keys create --name \t",
    "keys list",
    "keys list --json",
    "keys revoke KEY",
    "keys revoke KEY",
    "keys revoke key_nobody",
    "keys list",
    "deliveries list",
    "deliveries list --json",
    "deliveries list --outcome created --limit 1 --json",
    "deliveries list --user user_new",
    "deliveries show m2",
    "deliveries show m2 --json",
    "deliveries show no/such",
    "deliveries replay m2",
    "deliveries replay m1",
    "deliveries replay no/such",
    "deliveries list",
    "sync --dry-run",
    "sync --dry-run --json",
    "sync --json",
    "sync",
    "tenants list --json",
];

/// One of the two forms: a data folder, and the server that holds it, if any.
struct Form {
    data: PathBuf,
    url: Option<String>,
    key: String,
}

impl Form {
    /// Runs a command; gives its exit code and its output with ids, times and sizes of files masked.
    fn run(&mut self, line: &str, clerk: &[String]) -> (Option<i32>, String) {
        let mut command = cubby();
        command.args(line.split(' ').map(|word| if word == "KEY" { &self.key } else { word }));
        if line.starts_with("sync") {
            command.args(clerk);
        }
        if let Some(url) = &self.url {
            command.env("CUBBY_URL", url).env("ADMIN_API_KEY", ADMIN);
        }
        let output = command.arg("--data").arg(&self.data).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap().replace(self.data.to_str().unwrap(), "DATA");
        let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
        let masked = match values {
            Ok(values) if line.contains("--json") => {
                if let Some(id) = values.first().and_then(|made| made["key"]["id"].as_str()) {
                    self.key = id.to_owned();
                }
                values.iter().map(|value| format!("{:#}\n", masked_value("", value))).collect()
            }
            _ if line.starts_with("tenants list") => {
                // The columns of sizes and of the last use, which a server notes when it closes a file.
                let shown =
                    |row: &str| row.get(..57).zip(row.get(96..)).map_or(row.to_owned(), |(l, r)| l.to_owned() + r);
                text.lines().map(|row| shown(row) + "\n").collect()
            }
            _ => text.lines().map(masked_line).collect(),
        };
        (output.status.code(), masked)
    }
}

/// Names of what differs between two runs.
const VARIES: &[&str] = &["secret", "hint", "run", "duration_us", "duration_ms", "bytes", "file_bytes", "last_seen"];

fn masked_value(name: &str, value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), masked_value(name, value))).collect(),
        Value::Array(items) => items.iter().map(|item| masked_value(name, item)).collect(),
        _ if VARIES.contains(&name) => json!(format!("[{name}]")),
        Value::Number(number) if number.as_i64().is_some_and(|at| at > 1_500_000_000_000) => json!("[time]"),
        Value::String(text) => json!(masked_line(text).trim_end()),
        other => other.clone(),
    }
}

/// Text with ids of keys and runs, times, and sizes of files replaced by a word each.
fn masked_line(line: &str) -> String {
    let word = |word: &str| {
        let is_time = word.len() >= 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
        let starts = |prefix: &&&str| word.starts_with(**prefix);
        match ["key_", "run_", "cubby_live_", "…"].iter().find(starts) {
            Some(prefix) if word != "key_nobody" => format!("[{prefix}]"),
            _ if is_time => "[time]".to_owned(),
            _ => word.to_owned(),
        }
    };
    if ["file size ", "last seen ", "took "].iter().any(|name| line.starts_with(name)) {
        return String::new();
    }
    line.split(' ').map(word).collect::<Vec<_>>().join(" ") + "\n"
}

async fn with_users(data: &Path) {
    let server = Server::on(data, &["--clerk-webhook-secret", SECRET]).await;
    for (message, name) in [("m1", "user_old"), ("m2", "user_new")] {
        deliver(&server.client, message, &event("user.created", user(name, name, 10), 1)).await;
        server.client.note(name, &format!("note of {name}")).await;
    }
    server.stop().await;
}

/// The audit trail, oldest first: who and from where, and what was done to whom.
async fn trail(server: &Process) -> (BTreeSet<String>, Vec<String>) {
    let page = server.client.bearing(ADMIN).get("/api/admin/audit").await.expect(200).json();
    let rows = page["audit"].as_array().unwrap().iter().rev();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or("-").to_owned();
    let by = rows.clone().map(|row| format!("{} from {}", text(row, "actor"), text(row, "origin")));
    let did = rows.map(|row| ["action", "target", "result"].map(|name| masked_line(&text(row, name))).concat());
    (by.collect(), did.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_answers_the_same_on_the_folder_and_through_its_server() {
    let clerk = Clerk::start().await;
    for name in ["user_new", "user_clerk"] {
        clerk.add(user(name, name, 20));
    }
    let (folder, served) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    with_users(folder.path()).await;
    let copied = Command::new("cp").arg("-a").arg(folder.path().join(".")).arg(served.path()).status().unwrap();
    assert!(copied.success());
    let flags = [clerk.flags(), ["--auth", "keys", "--admin-api-key", ADMIN].map(str::to_owned).to_vec()].concat();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Process::start(served.path(), &flags);

    let mut on_folder = Form { data: folder.path().to_owned(), url: None, key: String::new() };
    let mut through = Form { data: served.path().to_owned(), url: Some(server.client.url("")), key: String::new() };
    for line in COMMANDS {
        let (left, right) =
            tokio::task::block_in_place(|| (on_folder.run(line, &clerk.flags()), through.run(line, &clerk.flags())));
        assert_eq!(left, right, "`cubby {line}` on the folder (left) and through the server (right)");
    }

    let restarted = Process::start(folder.path(), &flags);
    let ((by, left), (by_server, right)) = (trail(&restarted).await, trail(&server).await);
    assert_eq!(left, right, "both audit trails say the same");
    let uid = own_uid(folder.path());
    assert_eq!(by, BTreeSet::from([format!("uid {uid} from command line")]));
    assert_eq!(by_server, BTreeSet::from(["operator from 127.0.0.1".to_owned()]));
}

/// The user that this process runs as.
fn own_uid(made: &Path) -> u32 {
    made.metadata().unwrap().uid()
}

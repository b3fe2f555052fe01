//! Everybody's migration by a running server while callers are served.

use std::{
    path::{Path, PathBuf},
    process::Child,
};

use serde_json::Value;

use crate::{
    Options,
    beside::{self, Work, command},
    client::{KEY, address, http},
    load::Callers,
    make,
    server::Server,
    table::Table,
};

/// What the folder's tenants lack.
const NEW: &str =
    "CREATE TABLE tags (note TEXT NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (note, tag)) STRICT, WITHOUT ROWID;
CREATE INDEX tags_by_tag ON tags (tag, note);";

/// A run of migrations, watched by `cubby migrate`.
struct Migration<'s> {
    server: &'s Server,
    http: reqwest::Client,
    child: Option<Child>,
    begun: bool,
    over: bool,
}

impl Work for Migration<'_> {
    fn go_on(&mut self) {
        let arguments = if self.begun { ["migrate", "resume"] } else { ["migrate", "--all"] };
        self.begun = true;
        self.child = Some(command(self.server, &arguments).spawn().unwrap());
    }

    fn is_over(&mut self) -> bool {
        self.over |= self.child.as_mut().and_then(|child| child.try_wait().unwrap()).is_some();
        self.over
    }

    fn pause(&mut self) {
        if self.is_over() {
            return;
        }
        if let Some(mut child) = self.child.take() {
            // It may have come to its end meanwhile: then there is nothing to pause.
            let paused = command(self.server, &["migrate", "pause"]).status().unwrap().success();
            child.wait().unwrap();
            self.over = !paused;
        }
    }

    async fn done(&mut self) -> u64 {
        self.run().await["handled"].as_u64().unwrap_or(0)
    }
}

impl Migration<'_> {
    async fn run(&self) -> Value {
        let url = format!("{}/api/admin/migrations", self.server.base);
        let answer = self.http.get(url).bearer_auth(KEY).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["run"].take()
    }
}

/// A folder with the server's own migrations and one more.
fn migrations(folder: &Path) -> PathBuf {
    let to = folder.join("migrations");
    std::fs::create_dir(&to).unwrap();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/tenant");
    let mut newest = 0;
    for entry in std::fs::read_dir(own).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let number = name.trim_start_matches('V').split("__").next().unwrap();
        newest = newest.max(number.parse::<u32>().unwrap());
        std::fs::copy(&path, to.join(name)).unwrap();
    }
    std::fs::write(to.join(format!("V{}__tags.sql", newest + 1)), NEW).unwrap();
    to
}

pub async fn run(options: &Options, table: &mut Table) {
    let folder = tempfile::TempDir::new_in(&options.folder).unwrap();
    let data = folder.path().join("data");
    make::run(&data, options.migrated, Some(4096)).await;
    let (http, more) = (http(), migrations(folder.path()));
    let flags = ["--admin-api-key", KEY, "--migrations", more.to_str().unwrap()];
    let server = Server::start(&http, &data, &flags).await;
    // Their databases are opened, and so migrated, before the run begins.
    let callers = Callers::seed(address(&server), options.connections, options.migrated).await;
    let mut work = Migration { server: &server, http, child: None, begun: false, over: false };
    let name = format!("migration of {}", options.migrated);
    beside::measure(&name, options, &callers, &mut work, table).await;
    let run = work.run().await;
    let status = if work.over { "done" } else { "paused" };
    assert_eq!((&run["status"], &run["failed"]), (&status.into(), &0.into()), "{run}");
    let figure = format!("{} of {} migrated, none failed", run["migrated"], run["total"]);
    table.tell(&format!("{name}, in all"), figure);
    assert!(server.stop());
}

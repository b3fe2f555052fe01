//! Migrations as other tools have them: run by the same rules, and written down where the tool looks.

use std::{fs, path::Path};

use cubby::{Store, StoreOptions, sqlite::migrate::Schema};
use rusqlite::types::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    harness::{PATIENCE, Process, run, shell, stdout},
    migrations::{file, refused, shown},
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/data/migrations");

/// A copy of a folder as its tool wrote it.
fn written_by(tool: &str) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let (from, name) = {
                let e = entry.unwrap();
                (e.path(), e.file_name())
            };
            match from.is_dir() {
                true => copy(&from, &to.join(name)),
                false => drop(fs::copy(&from, to.join(name)).unwrap()),
            }
        }
    }
    let folder = TempDir::new().unwrap();
    copy(&Path::new(FIXTURES).join(tool), folder.path());
    folder
}

/// A form, its migrations' files in their order, and the table in which its tool looks.
struct Tool {
    folder: &'static str,
    files: &'static [&'static str],
    table: Option<&'static str>,
}

const TOOLS: [Tool; 4] = [
    Tool {
        folder: "drizzle",
        files: &["0000_init.sql", "0001_gray_warstar.sql", "0002_seed-users.sql"],
        table: Some("__drizzle_migrations"),
    },
    Tool {
        folder: "drizzle_folders",
        files: &[
            "20261122074138_init/migration.sql",
            "20261122074140_gray_warstar/migration.sql",
            "20261122074141_seed-users/migration.sql",
        ],
        table: Some("__drizzle_migrations"),
    },
    Tool {
        folder: "prisma",
        files: &["20250102030405_init/migration.sql", "20250203040506_email_required/migration.sql"],
        table: Some("_prisma_migrations"),
    },
    Tool { folder: "plain", files: &["001_init.sql", "002_email-required.sql"], table: None },
];

impl Tool {
    /// Its folder with just the first `count` migrations.
    fn first(&self, count: usize) -> TempDir {
        let folder = written_by(self.folder);
        for file in &self.files[count..] {
            remove(folder.path(), file);
        }
        folder
    }

    fn hash(&self, folder: &Path, at: usize) -> String {
        hex::encode(Sha256::digest(fs::read(folder.join(self.files[at])).unwrap()))
    }

    /// What messages call a migration.
    fn name(&self, at: usize) -> &str {
        self.files[at].trim_end_matches("/migration.sql").trim_end_matches(".sql")
    }
}

/// Removes a migration as its tool does.
fn remove(folder: &Path, file: &str) {
    match file.strip_suffix("/migration.sql") {
        Some(own) => fs::remove_dir_all(folder.join(own)).unwrap(),
        None => fs::remove_file(folder.join(file)).unwrap(),
    }
    journal(folder, |entries| entries.retain(|entry| format!("{}.sql", entry["tag"].as_str().unwrap()) != file));
}

/// Changes the journal, if there is one.
fn journal(folder: &Path, change: impl FnOnce(&mut Vec<serde_json::Value>)) {
    let path = folder.join("meta/_journal.json");
    let Ok(text) = fs::read(&path) else { return };
    let mut journal: serde_json::Value = serde_json::from_slice(&text).unwrap();
    change(journal["entries"].as_array_mut().unwrap());
    fs::write(&path, journal.to_string()).unwrap();
}

/// Adds a migration between the first and the second.
fn add_late(tool: &Tool, folder: &Path) -> &'static str {
    let sql = "CREATE TABLE late (x integer);";
    match tool.folder {
        "drizzle" => {
            fs::write(folder.join("0000_late.sql"), sql).unwrap();
            let entry = serde_json::json!({"idx": 1, "when": 1_795_333_299_000_i64, "tag": "0000_late"});
            journal(folder, |entries| entries.insert(1, entry));
            "0000_late"
        }
        _ => {
            let name = if tool.folder == "prisma" { "20250103000000_late" } else { "20261122074139_late" };
            fs::create_dir(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("migration.sql"), sql).unwrap();
            name
        }
    }
}

fn flags(folder: &Path) -> [&str; 2] {
    ["--migrations", folder.to_str().unwrap()]
}

fn open(data: &Path, migrations: &Path) -> Store {
    let schema = Some(Schema::from_folder(migrations).unwrap());
    Store::open(StoreOptions { schema, ..StoreOptions::new(data) }).unwrap()
}

/// Runs SQL on a user's database, who is made if need be.
async fn write(data: &Path, migrations: &Path, user: &str, sql: &'static str) {
    let store = open(data, migrations);
    let (tenant, _) = store.lease_or_create(&user.parse().unwrap()).await.unwrap();
    tenant.write(move |tx| Ok(tx.execute_batch(sql)?)).await.unwrap();
    drop(tenant);
    assert_eq!(store.close(Instant::now() + PATIENCE).await, 0);
}

/// A server's start and stop.
fn serve(data: &Path, migrations: &Path) {
    let server = Process::start(data, &flags(migrations));
    server.signal("TERM");
    assert!(server.wait().success());
}

/// What a query answers, asked of the file itself.
fn rows(data: &Path, user: &str, sql: &str) -> Vec<Vec<Value>> {
    let conn = shell(&file(data, user));
    let mut statement = conn.prepare(sql).unwrap();
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row| (0..columns).map(|at| row.get(at)).collect();
    statement.query_map([], row).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

fn history(data: &Path, user: &str, tool: &Tool) -> Vec<Vec<Value>> {
    tool.table.map_or_else(Vec::new, |table| rows(data, user, &format!("SELECT * FROM {table} ORDER BY rowid")))
}

fn columns(data: &Path, user: &str, table: &str) -> String {
    let sql = format!(
        "SELECT group_concat(concat_ws(' ', name, type, iif(\"notnull\", 'NOT NULL', NULL), iif(pk, 'KEY', NULL)), ', ') \
         FROM pragma_table_info('{table}')"
    );
    match &rows(data, user, &sql)[0][0] {
        Value::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    }
}

const TWO_USERS: &str = "INSERT INTO users (id, name, email) VALUES (1, 'ada', 'a@b.c'), (2, 'ben', ''); INSERT INTO posts \
                         (id, user, title) VALUES (1, 1, 'hello'), (2, 2, 'there')";
const TWO_USERS_PRISMA: &str = "INSERT INTO User (id, name) VALUES (1, 'ada'), (2, 'ben'); INSERT INTO Post (id, userId, \
                                title) VALUES (1, 1, 'hello'), (2, 2, 'there')";

impl Tool {
    fn two_users(&self) -> &'static str {
        if self.folder == "prisma" { TWO_USERS_PRISMA } else { TWO_USERS }
    }

    fn posts(&self) -> &'static str {
        if self.folder == "prisma" { "SELECT * FROM Post" } else { "SELECT * FROM posts" }
    }
}

#[tokio::test]
async fn an_older_file_gets_the_migrations_behind_and_keeps_its_rows() {
    for tool in &TOOLS {
        let data = TempDir::new().unwrap();
        let (first, whole) = (tool.first(1), written_by(tool.folder));
        write(data.path(), first.path(), "ada", tool.two_users()).await;
        let before = history(data.path(), "ada", tool);
        assert_eq!(before.len(), usize::from(tool.table.is_some()), "{}", tool.folder);

        // By the next start and the first request, and by the command; also for a new user's file.
        write(data.path(), whole.path(), "ada", "SELECT 1").await;
        let count = tool.files.len();
        assert_eq!(shown(data.path(), "ada", &flags(whole.path()))["schema_version"], count, "{}", tool.folder);
        write(data.path(), whole.path(), "new", "SELECT 1").await;
        // The rows that refer to a table that was made anew: no reference deleted them.
        assert_eq!(rows(data.path(), "ada", tool.posts()).len(), 2, "{}", tool.folder);
        assert_eq!(rows(data.path(), "ada", "PRAGMA foreign_key_check"), Vec::<Vec<Value>>::new());
        let after = history(data.path(), "ada", tool);
        assert_eq!(after[..before.len()], before, "{}: what was there is as it was", tool.folder);
        let expected = if tool.table.is_some() { count } else { 0 };
        assert_eq!((after.len(), history(data.path(), "new", tool).len()), (expected, expected), "{}", tool.folder);

        // And all of that once.
        serve(data.path(), whole.path());
        stdout(&run(data.path(), &[&["migrate", "--all"][..], &flags(whole.path())].concat()));
        stdout(&run(data.path(), &[&["doctor"][..], &flags(whole.path())].concat()));
        assert_eq!(history(data.path(), "ada", tool), after, "{}", tool.folder);
    }
}

#[tokio::test]
async fn what_ran_is_written_where_drizzle_looks() {
    let (data, folder) = (TempDir::new().unwrap(), written_by("drizzle"));
    write(data.path(), folder.path(), "ada", "SELECT 1").await;
    let made = columns(data.path(), "ada", "__drizzle_migrations");
    assert_eq!(made, "id SERIAL KEY, hash TEXT NOT NULL, created_at numeric");
    let times = [1_795_333_298_894, 1_795_333_300_042, 1_795_333_301_200];
    let expected: Vec<Vec<Value>> = (0..3)
        .map(|at| vec![Value::Null, Value::Text(TOOLS[0].hash(folder.path(), at)), Value::Integer(times[at])])
        .collect();
    assert_eq!(history(data.path(), "ada", &TOOLS[0]), expected);
}

#[tokio::test]
async fn what_ran_is_written_where_the_newer_drizzle_looks() {
    let (data, folder) = (TempDir::new().unwrap(), written_by("drizzle_folders"));
    write(data.path(), folder.path(), "ada", "SELECT 1").await;
    let made = columns(data.path(), "ada", "__drizzle_migrations");
    assert_eq!(made, "id INTEGER KEY, hash TEXT NOT NULL, created_at numeric, name TEXT, applied_at TEXT");
    let found = rows(
        data.path(),
        "ada",
        "SELECT id, hash, created_at, name, applied_at GLOB '20??-??-??T??:??:??.???Z' FROM __drizzle_migrations",
    );
    let second = vec![
        Value::Integer(2),
        Value::Text(TOOLS[1].hash(folder.path(), 1)),
        Value::Integer(1_795_333_300_000),
        Value::Text("20261122074140_gray_warstar".to_owned()),
        Value::Integer(1),
    ];
    assert_eq!((found.len(), &found[1]), (3, &second));
}

#[tokio::test]
async fn drizzle_kit_up_changes_nothing_for_files() {
    let data = TempDir::new().unwrap();
    let (old, new) = (written_by("drizzle"), written_by("drizzle_folders"));
    write(data.path(), old.path(), "ada", TWO_USERS).await;
    serve(data.path(), new.path());
    let next = new.path().join("20261201000000_next");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("migration.sql"), "CREATE TABLE next (x integer);").unwrap();
    write(data.path(), new.path(), "ada", "INSERT INTO next VALUES (1)").await;
    assert_eq!(history(data.path(), "ada", &TOOLS[0]).len(), 4, "the older table, which the tool adds columns to");
    assert_eq!(rows(data.path(), "ada", "SELECT * FROM posts").len(), 2);
}

#[tokio::test]
async fn what_ran_is_written_where_prisma_looks() {
    let (data, folder) = (TempDir::new().unwrap(), written_by("prisma"));
    write(data.path(), folder.path(), "ada", "SELECT 1").await;
    assert_eq!(
        columns(data.path(), "ada", "_prisma_migrations"),
        "id TEXT NOT NULL KEY, checksum TEXT NOT NULL, finished_at DATETIME, migration_name TEXT NOT NULL, logs TEXT, \
         rolled_back_at DATETIME, started_at DATETIME NOT NULL, applied_steps_count INTEGER UNSIGNED NOT NULL"
    );
    let uuid = "[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]-????-4???-[89ab]???-????????????";
    let found = rows(
        data.path(),
        "ada",
        &format!(
            "SELECT migration_name, checksum, id GLOB '{uuid}' AND typeof(finished_at) = 'integer' AND started_at > \
             1700000000000 AND applied_steps_count = 1 AND logs IS NULL AND rolled_back_at IS NULL FROM \
             _prisma_migrations ORDER BY started_at"
        ),
    );
    let expected = |at: usize| {
        let [name, hash] = [TOOLS[2].name(at).to_owned(), TOOLS[2].hash(folder.path(), at)].map(Value::Text);
        vec![name, hash, Value::Integer(1)]
    };
    assert_eq!(found, [expected(0), expected(1)]);
}

#[tokio::test]
async fn what_the_tool_ran_on_a_file_itself_is_not_run_again() {
    for (tool, written) in [
        (&TOOLS[0], "INSERT INTO __drizzle_migrations (hash, created_at) VALUES ('{hash}', 1795333300042.0)"),
        (
            &TOOLS[2],
            "INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at, applied_steps_count) VALUES \
             ('x', '{hash}', '20250203040506_email_required', current_timestamp, 1)",
        ),
    ] {
        let data = TempDir::new().unwrap();
        let (first, whole) = (tool.first(1), written_by(tool.folder));
        write(data.path(), first.path(), "ada", tool.two_users()).await;
        let conn = shell(&file(data.path(), "ada"));
        conn.execute_batch("PRAGMA foreign_keys=OFF").unwrap();
        conn.execute_batch(&fs::read_to_string(whole.path().join(tool.files[1])).unwrap()).unwrap();
        // As if it made something that cannot be made twice.
        conn.execute_batch("CREATE TABLE __new_posts (x); CREATE TABLE new_User (x)").unwrap();
        conn.execute_batch(&written.replace("{hash}", &tool.hash(whole.path(), 1))).unwrap();
        conn.close().unwrap();
        write(data.path(), whole.path(), "ada", "SELECT 1").await;
        assert_eq!(history(data.path(), "ada", tool).len(), tool.files.len(), "{}", tool.folder);
        let ran = rows(data.path(), "ada", "SELECT version FROM refinery_schema_history");
        assert_eq!(ran.len(), tool.files.len(), "{}", tool.folder);
    }
}

#[tokio::test]
async fn a_set_that_does_not_go_on_from_what_ran_is_refused_in_every_form() {
    for tool in &TOOLS {
        let data = TempDir::new().unwrap();
        let whole = written_by(tool.folder);
        write(data.path(), whole.path(), "ada", tool.two_users()).await;
        let refuse = |folder: &TempDir, parts: &[&str]| refused(data.path(), &["ada"], &flags(folder.path()), parts);

        let edited = written_by(tool.folder);
        let path = edited.path().join(tool.files[1]);
        fs::write(&path, fs::read_to_string(&path).unwrap() + "\n-- a later thought\n").unwrap();
        refuse(&edited, &[tool.name(1), "edited"]);

        let older = tool.first(1);
        refuse(&older, &["end at version 1"]);

        let missing = written_by(tool.folder);
        remove(missing.path(), tool.files[1]);
        if tool.files.len() == 2 {
            // Otherwise it would be as old as that version.
            add_last(tool, missing.path());
        }
        // As the history has it.
        let (_, name) = tool.name(1).split_once('_').unwrap();
        refuse(&missing, &[&name.replace('-', "_"), "missing"]);

        if tool.folder != "plain" {
            let late = written_by(tool.folder);
            let name = add_late(tool, late.path());
            refuse(&late, &[name, "has not run"]);
        }
        serve(data.path(), whole.path());
    }
}

/// Adds a migration behind all others, in a form that needs no journal for it.
fn add_last(tool: &Tool, folder: &Path) {
    let sql = "CREATE TABLE more (x integer);";
    match tool.folder {
        "plain" => fs::write(folder.join("003_more.sql"), sql).unwrap(),
        _ => {
            fs::create_dir(folder.join("20300101000000_more")).unwrap();
            fs::write(folder.join("20300101000000_more/migration.sql"), sql).unwrap();
        }
    }
}

#[tokio::test]
async fn a_plain_file_between_two_that_ran_is_refused() {
    let (data, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(folder.path().join("001_a.sql"), "CREATE TABLE a (x);").unwrap();
    fs::write(folder.path().join("010_b.sql"), "CREATE TABLE b (x);").unwrap();
    write(data.path(), folder.path(), "ada", "SELECT 1").await;
    fs::write(folder.path().join("005_late.sql"), "CREATE TABLE c (x);").unwrap();
    refused(data.path(), &["ada"], &flags(folder.path()), &["005_late", "010_b", "has not run", "higher"]);
    fs::rename(folder.path().join("005_late.sql"), folder.path().join("011_late.sql")).unwrap();
    write(data.path(), folder.path(), "ada", "INSERT INTO c VALUES (1)").await;
}

#[tokio::test]
async fn no_form_takes_over_files_of_another() {
    // The same SQL under the same name, with a journal and without.
    let data = TempDir::new().unwrap();
    let drizzle = written_by("drizzle");
    write(data.path(), drizzle.path(), "ada", TWO_USERS).await;
    let plain = written_by("drizzle");
    fs::remove_dir_all(plain.path().join("meta")).unwrap();
    refused(data.path(), &["ada"], &flags(plain.path()), &["another form", "Drizzle's", "001_name.sql"]);
    refused(data.path(), &["ada"], &[], &["another form", "Drizzle's"]);

    let data = TempDir::new().unwrap();
    let prisma = written_by("prisma");
    write(data.path(), prisma.path(), "ada", "SELECT 1").await;
    let folders = written_by("prisma");
    fs::remove_file(folders.path().join("migration_lock.toml")).unwrap();
    fs::write(folders.path().join("20250102030405_init/snapshot.json"), "{}").unwrap();
    refused(data.path(), &["ada"], &flags(folders.path()), &["another form", "Prisma's", "Drizzle's"]);
    serve(data.path(), prisma.path());
}

/// A folder of files with these contents.
fn folder_of(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn a_folder_that_is_in_no_form_or_in_two_is_refused_and_told_why() {
    let (a, lock) = ("CREATE TABLE a (x);", "provider = \"sqlite\"\n");
    let journal = r#"{"dialect":"sqlite","entries":[{"when":1700000000000,"tag":"0000_a"}]}"#;
    let postgres = journal.replace("\"sqlite\"", "\"postgresql\"");
    let alter = "CREATE TABLE users (email); CREATE TABLE posts (user); CREATE INDEX by_user ON posts (user);\n"
        .to_owned()
        + &fs::read_to_string(format!("{FIXTURES}/alter_column.sql")).unwrap();
    let cases: &[(&[(&str, &str)], &[&str])] = &[
        (&[("V1__a.sql", a), ("001_a.sql", a)], &["two forms", "V1__name.sql", "001_name.sql"]),
        (
            &[("meta/_journal.json", journal), ("0000_a.sql", a), ("migration_lock.toml", lock)],
            &["two forms", "Drizzle", "Prisma"],
        ),
        (&[("V1__a.sql", a), ("20250101000000_a/migration.sql", a)], &["two forms", "20250101000000_a/migration.sql"]),
        (&[("meta/_journal.json", journal), ("20250101000000_a/snapshot.json", "{}")], &["drizzle-kit up"]),
        (&[("20250101000000_a/migration.sql", a)], &["migration_lock.toml", "snapshot.json"]),
        (&[("migrations/migration_lock.toml", lock)], &["migrations are in the folder migrations"]),
        (&[("schema.sql", a)], &["V1__", "001_name.sql", "Drizzle", "Prisma"]),
        (&[("migration_lock.toml", "provider = \"postgresql\"")], &["postgresql", "sqlite"]),
        (&[("migration_lock.toml", "# nothing")], &["does not say"]),
        (&[("migration_lock.toml", lock)], &["no migration"]),
        (
            &[("migration_lock.toml", lock), ("20250101000000_a/other.sql", a)],
            &["20250101000000_a/migration.sql is missing"],
        ),
        (&[("meta/_journal.json", &postgres), ("0000_a.sql", a)], &["postgresql", "sqlite"]),
        (&[("meta/_journal.json", journal)], &["0000_a.sql is missing"]),
        (&[("meta/_journal.json", "{"), ("0000_a.sql", a)], &["not as Drizzle writes it"]),
        (
            &[("meta/_journal.json", journal), ("0000_a.sql", a), ("0001_b.sql", a)],
            &["0001_b.sql is not in meta/_journal.json"],
        ),
        (&[("meta/_journal.json", &journal.replace("0000_a", "../0000_a"))], &["not the name of a file"]),
        (&[("init/snapshot.json", "{}"), ("init/migration.sql", a)], &["does not begin with a time"]),
        (&[("20250101000000_a/snapshot.json", "{}")], &["20250101000000_a/migration.sql is missing"]),
        (&[("001_a.sql", a), ("more.sql", a)], &["more.sql does not begin with a number"]),
        (&[("001_a.sql", a), ("1_b.sql", a)], &["one number"]),
        (&[("001_a.sql", a), ("001_a.down.sql", a)], &["001_a.down.sql"]),
        (&[("001_a.sql", "-- migrate:up\nCREATE TABLE a (x);\n-- migrate:down\nDROP TABLE a;")], &["-- migrate:down"]),
        (&[("001_a.sql", "CREATE TABLE a (x);\0")], &["NUL"]),
        (&[("meta/_journal.json", journal), ("0000_a.sql", &alter)], &["0000_a", "ALTER COLUMN", "dialect \"sqlite\""]),
        (
            &[
                ("migration_lock.toml", lock),
                ("1_a/migration.sql", "DROP TABLE IF EXISTS _prisma_migrations; CREATE TABLE _prisma_migrations (x);"),
            ],
            &["1_a", "_prisma_migrations"],
        ),
        (&[("migration_lock.toml", lock), ("1_a/migration.sql", "CREATE TABLE a (x); COMMIT;")], &["1_a", "COMMIT"]),
    ];
    for (files, parts) in cases {
        let (data, folder) = (TempDir::new().unwrap(), folder_of(files));
        let output = run(data.path(), &[&["tenants", "create", "ada"][..], &flags(folder.path())].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{files:?}: {text}");
        for part in *parts {
            assert!(text.contains(part), "{files:?}: no {part:?} in {text}");
        }
    }
}

#[test]
fn a_file_of_sql_that_nobody_would_run_is_refused_by_its_name_in_every_form() {
    let (a, lock) = ("CREATE TABLE a (x);", "provider = \"sqlite\"\n");
    let journal = r#"{"dialect":"sqlite","entries":[{"when":1700000000000,"tag":"0000_a"}]}"#;
    let (numbered, folders) = ("name it V<number>__<name>.sql", "name it 20250102030405_name/migration.sql");
    let cases: &[(&[&str], &[&str], &str)] = &[
        (&["V1__a.sql"], &["V2_q.sql", "V2__q.SQL", "v2__q.sql", "q.sql", "V2__a-b.sql", "|2__q.sql"], numbered),
        (&["more/V1__a.sql"], &["V2_q.sql", "more/V2_q.sql"], numbered),
        (&["001_a.sql"], &["q.sql", "002_q.SQL"], "name it 001_name.sql"),
        (&["meta/_journal.json", "0000_a.sql"], &["q.sql", "0001_q.SQL"], "is not in meta/_journal.json"),
        (
            &["20250101000000_a/migration.sql", "20250101000000_a/snapshot.json"],
            &["q.sql", "20250102000000_q/migrations.sql"],
            folders,
        ),
        (&["migration_lock.toml", "20250101000000_a/migration.sql"], &["q.sql"], folders),
    ];
    let text = |name: &str| match name.rsplit(['/', '.']).next() {
        Some("json") if name.ends_with("_journal.json") => journal,
        Some("json") => "{}",
        Some("toml") => lock,
        _ => a,
    };
    let data = TempDir::new().unwrap();
    for (files, strays, part) in cases {
        let files: Vec<(&str, &str)> = files.iter().map(|name| (*name, text(name))).collect();
        // What is no SQL, is hidden, or is in a folder of its own, is nobody's business.
        let beside = [("README.md", ""), (".q.sql", a), ("seeds/q.sql", a)];
        // Each folder in Prisma's is a migration.
        let beside = if files[0].0 == "migration_lock.toml" { &beside[..2] } else { &beside[..] };
        Schema::from_folder(folder_of(&[&files[..], beside].concat()).path()).unwrap();
        for stray in *strays {
            let folder = folder_of(&[&files[..], &[(*stray, a)]].concat());
            let output = run(data.path(), &[&["tenants", "create", "ada"][..], &flags(folder.path())].concat());
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{files:?} {stray}: {told}");
            assert!(
                told.contains(&format!("{stray} is not ")) || told.contains(&format!("{stray} does not ")),
                "{told}"
            );
            assert!(told.contains(part), "{files:?} {stray}: {told}");
        }
    }
}

#[tokio::test]
async fn statements_without_semicolons_and_what_is_undone_are_taken_as_their_tools_do() {
    let journal = r#"{"dialect":"sqlite","entries":[{"when":1700000000000,"tag":"0000_a"}]}"#;
    let sql = "CREATE TABLE a (x)\n--> statement-breakpoint\nCREATE TABLE b (x)--> statement-breakpoint\nINSERT INTO b VALUES (1)";
    let drizzle = folder_of(&[("meta/_journal.json", journal), ("0000_a.sql", sql)]);
    let pairs = folder_of(&[
        ("1_a.up.sql", "CREATE TABLE a (x);"),
        ("1_a.down.sql", "DROP TABLE a;"),
        ("10_b.up.sql", "INSERT INTO b SELECT 1;"),
        ("9_b.sql", "CREATE TABLE b (x);"),
    ]);
    for folder in [drizzle, pairs] {
        let data = TempDir::new().unwrap();
        write(data.path(), folder.path(), "ada", "INSERT INTO a SELECT x FROM b").await;
        assert_eq!(rows(data.path(), "ada", "SELECT x FROM a"), [[Value::Integer(1)]]);
    }
}

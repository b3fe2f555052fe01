//! The layers of the house, read off the source: which module imports which, and where axum, SQL
//! and the environment are.

use std::collections::BTreeSet;

use crate::source::{self, Source};

/// From the roof down. A module imports from floors below its own, and from its own floor only
/// where that is one room.
const FLOORS: &[Floor] = &[
    Floor::shared(&["main", "cli"]),
    Floor::shared(&["server", "router"]),
    // Features know nothing of each other.
    Floor::apart(&["notes", "webhooks", "admin"]),
    Floor::shared(&["app", "http"]),
    Floor::apart(&["reconcile", "backup"]),
    Floor::shared(&["tenants"]),
    // The provider's answers become the catalog's profiles; the catalog knows no provider.
    Floor::shared(&["identity"]),
    Floor::shared(&["catalog"]),
    Floor::shared(&["sqlite", "error", "config", "telemetry", "clock"]),
];

/// The one name that floors below its own may use: what a tenant's id may be is a matter of every
/// floor.
const EVERYWHERE: &str = "tenants::id";

/// Who may speak axum: the toolkit, the way in, and each feature's routes.
const AXUM: &[&str] = &["http/*", "server.rs", "router.rs", "*/routes.rs", "*/routes/*", "admin/*"];

/// Who may hold SQL: the catalog's and the features' queries, the SQLite toolkit, and the three
/// files that make a new database or look whose it is.
const SQL: &[&str] = &[
    "*/queries.rs",
    "*/queries/*",
    "sqlite/*",
    "catalog/mod.rs",
    "tenants/disk/template.rs",
    "tenants/open/database.rs",
];

/// Who may read environment variables. `.env` becomes variables in `cli/mod.rs`, before anything
/// is read.
const ENVIRONMENT: &[&str] = &["config.rs", "config/*"];
const DOTENV: &[&str] = &["cli/mod.rs"];

/// Who may look at the command line: the lock names the command that holds it.
const ARGUMENTS: &[&str] = &["cli/*", "tenants/disk/lock.rs"];

struct Floor {
    rooms: &'static [&'static str],
    apart: bool,
}

impl Floor {
    const fn shared(rooms: &'static [&'static str]) -> Self {
        Self { rooms, apart: false }
    }

    const fn apart(rooms: &'static [&'static str]) -> Self {
        Self { rooms, apart: true }
    }
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.rooms.contains(&module))
}

/// Everything in one file that is against the rules, as sentences.
fn violations(path: &str, text: &str) -> Vec<String> {
    let source = Source::parse(text);
    let mut found = Vec::new();
    if path != "lib.rs" {
        found.extend(upward_imports(path, &source));
    }
    let code = &source.code;
    let mut only = |allowed: &[&str], what: &str, there: bool| {
        if there && !allowed.iter().any(|pattern| matches(pattern, path)) {
            found.push(format!("{path}: {what} belongs in {}", allowed.join(", ")));
        }
    };
    only(AXUM, "axum", code.contains("axum::") || code.contains("StatusCode"));
    only(SQL, "SQL", source.strings.iter().any(|text| is_sql(text)));
    let variables = ["env::var", "env::vars", "env::var_os", "env::vars_os", "env::set_var", "env::remove_var"];
    only(ENVIRONMENT, "the environment", variables.iter().any(|name| code.contains(name)) || code.contains(", env ="));
    only(DOTENV, "the .env file", code.contains("dotenvy::"));
    only(ARGUMENTS, "the command line", code.contains("env::args") || code.contains("env::args_os"));
    found
}

fn upward_imports(path: &str, source: &Source) -> BTreeSet<String> {
    let own = module_of(path);
    let Some(at) = floor_of(&own) else {
        return BTreeSet::from([format!("{path}: module {own} has no floor; give it one in FLOORS")]);
    };
    let mut found = BTreeSet::new();
    for name in source.crate_paths(depth_of(path)) {
        let name = home_of(&name);
        let other = name.split("::").next().unwrap_or(name);
        if other == own || name.starts_with(EVERYWHERE) {
            continue;
        }
        match floor_of(other) {
            None => drop(found.insert(format!("{path}: {own} imports {name}, which has no floor"))),
            Some(to) if to > at || (to == at && !FLOORS[at].apart) => {}
            Some(_) => drop(found.insert(format!("{path}: {own} must not import {other}"))),
        }
    }
    found
}

/// Where the names that lib.rs passes on live.
fn home_of(name: &str) -> &str {
    match name.split("::").next() {
        Some("Error" | "ErrorKind" | "Result") => "error",
        Some("Store" | "StoreOptions" | "Tenant") => "tenants::store",
        Some("TenantId") => EVERYWHERE,
        _ => name,
    }
}

fn module_of(path: &str) -> String {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs").to_owned()
}

/// How many `super::` lead from a file to the root of the crate.
fn depth_of(path: &str) -> usize {
    path.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").count()
}

/// `*` is any run of characters.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((start, rest)) => path
            .strip_prefix(start)
            .is_some_and(|path| (0..=path.len()).any(|at| path.is_char_boundary(at) && matches(rest, &path[at..]))),
    }
}

/// A string that begins as a statement does. Prose begins a sentence with one capital, not a word
/// of them.
fn is_sql(text: &str) -> bool {
    const VERBS: &[&str] = &[
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "REPLACE",
        "WITH",
        "CREATE",
        "DROP",
        "ALTER",
        "PRAGMA",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "VACUUM",
        "ATTACH",
        "DETACH",
        "REINDEX",
        "ANALYZE",
        "EXPLAIN",
    ];
    let word: String = text.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    VERBS.contains(&word.as_str())
}

#[test]
fn imports_run_downward_and_each_thing_is_in_its_place() {
    let files = source::all();
    assert!(files.len() > 30, "only {} files were found", files.len());
    let wrong: Vec<String> = files.iter().flat_map(|(path, text)| violations(path, text)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A checker that finds nothing may be blind: each rule broken once.
#[test]
fn a_broken_layer_is_caught() {
    let broken = [
        ("tenants/store.rs", "use crate::app::App;"),
        ("tenants/store.rs", "use crate::{\n    error::Result,\n    http::{body, problem::Problem},\n};"),
        ("sqlite/open.rs", "use crate::{clock::{self, Millis}, catalog::{model::{Row, State}, queries}};"),
        ("sqlite/open.rs", "fn f() { crate::tenants::store::open() }"),
        ("sqlite/open.rs", "use crate::Store;"),
        ("sqlite/open.rs", "use super::super::app;"),
        ("sqlite/mod.rs", "use super::app;"),
        ("error.rs", "use super::sqlite::{self}; use super::notes;"),
        ("catalog/queries.rs", "use crate::tenants::store::Store;"),
        ("catalog/queries.rs", "use crate::identity::Provider;"),
        ("notes/routes.rs", "use crate::webhooks::verify;"),
        ("webhooks/apply.rs", "use crate::admin::routes;"),
        ("attic.rs", ""),
        ("notes/model.rs", "use axum::Json;"),
        ("tenants/store.rs", "fn f() -> StatusCode {}"),
        ("notes/routes.rs", r#"const Q: &str = "SELECT 1";"#),
        ("tenants/store.rs", r##"const Q: &str = r#" DELETE FROM notes"#;"##),
        ("tenants/store.rs", "const Q: &str = \"\\\n    UPDATE notes\";"),
        ("app.rs", r#"fn f() { std::env::var("CUBBY_DATA"); }"#),
        ("cli/serve.rs", r#"struct A { #[arg(long, env = "CUBBY_X")] x: u8 }"#),
        ("app.rs", "fn f() { dotenvy::dotenv(); }"),
        ("app.rs", "fn f() { std::env::args(); }"),
    ];
    for (path, text) in broken {
        assert_eq!(violations(path, text).len(), 1, "{path}: {text}\n{:?}", violations(path, text));
    }
}

#[test]
fn what_is_allowed_is_not_caught() {
    let fine = [
        ("catalog/queries.rs", "use crate::tenants::id::TenantId;"),
        ("app.rs", "use crate::{http::body, tenants::store::Store, config::ServeConfig};"),
        ("notes/routes.rs", "use super::{model::Note, queries}; use axum::Json; use crate::http::problem;"),
        ("notes/queries.rs", r#"const Q: &str = "SELECT 1";"#),
        ("catalog/queries/audit.rs", r#"const Q: &str = "SELECT 1";"#),
        ("app.rs", "// axum::Json and \"SELECT\" in a comment\n/* use crate::cli; /* nested */ */\n//! [`crate::cli`]"),
        ("app.rs", r#"const T: &str = "use crate::cli; axum::Json: With care, select one";"#),
        ("app.rs", "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // \"SELECT"),
        ("app.rs", "#[cfg(test)]\nmod tests {\n use crate::cli;\n fn f() { \"SELECT 1\"; }\n}"),
        ("sqlite/open.rs", "use super::migrate; mod inner { use super::super::pool; }"),
    ];
    for (path, text) in fine {
        assert_eq!(violations(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

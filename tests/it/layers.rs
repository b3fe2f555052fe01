//! The layers, read off the source: which module imports which, which files import each other, how long
//! they are, and where axum, SQL and the environment are.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{self, Source};

/// From the roof down. A module imports from floors below its own, and from its own floor only
/// where that is one room.
const FLOORS: &[Floor] = &[
    Floor::shared(&["main", "cli"]),
    Floor::shared(&["server", "router"]),
    // Features know nothing of each other.
    Floor::apart(&["notes", "sql", "changes", "export", "webhooks", "admin"]),
    Floor::shared(&["app"]),
    Floor::shared(&["http"]),
    Floor::shared(&["reconcile", "rollout", "bulk", "replica", "backup"]),
    Floor::shared(&["tenants"]),
    // The provider's answers become the catalog's profiles; the catalog knows no provider.
    Floor::shared(&["identity"]),
    Floor::shared(&["catalog"]),
    Floor::shared(&["sqlite", "log", "error", "config", "telemetry", "clock", "rate"]),
];

/// The one name that floors below its own may use: what a tenant's id may be is a matter of every
/// floor.
const EVERYWHERE: &str = "tenants::id";

/// Who may speak axum: the toolkit, the way in, and each feature's routes.
const AXUM: &[&str] = &["http/*", "server.rs", "router.rs", "*/routes.rs", "*/routes/*", "admin/*", "cli/target.rs"];

/// What the toolkit must not name: the features that use it.
const FEATURES: &[&str] = &["notes", "webhooks", "clerk", "admin"];

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

/// Imports that close a cycle between files and are still to go: from which file, and of which.
const KNOWN_CYCLES: &[(&str, &str)] = &[];

/// The most lines of a file, and files that are still longer.
const MOST_LINES: usize = 450;
const KNOWN_LONG: &[&str] = &[];

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
    if path.starts_with("http/") {
        let named = |feature: &str| {
            let is_it = |text: &String| {
                text == feature || (text.starts_with('/') && text.split('/').any(|part| part == feature))
            };
            source.words().contains(feature) || source.strings.iter().any(is_it)
        };
        let features = FEATURES.iter().filter(|feature| named(feature));
        found.extend(features.map(|feature| format!("{path}: the toolkit must not name {feature}")));
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
    for name in source.paths(&path_of(path)) {
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

/// The module that a file is.
fn path_of(path: &str) -> String {
    let name = path.trim_end_matches(".rs");
    if name == "lib" { String::new() } else { name.trim_end_matches("/mod").replace('/', "::") }
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Which file uses what of which other, by the paths in their code. What a file declares or passes on
/// (`mod`, `pub use`) it does not use; a name that is passed on is used of the file that has it.
fn graph(files: &[(String, String)]) -> Graph {
    let sources: Vec<_> = files.iter().map(|(path, text)| (path, path_of(path), Source::parse(text))).collect();
    let modules: BTreeMap<&str, &str> = sources.iter().map(|(path, module, _)| (&**module, &***path)).collect();
    let mut passed_on = BTreeMap::new();
    for (_, module, source) in &sources {
        for from in source.reexports(module) {
            let name = from.rsplit("::").next().unwrap_or(&from);
            passed_on.insert(format!("{module}::{name}").trim_start_matches("::").to_owned(), from);
        }
    }
    let mut graph = Graph::new();
    for (path, module, source) in &sources {
        if path.as_str() == "lib.rs" || path.as_str() == "main.rs" {
            continue;
        }
        let declared = source.reexports(module);
        let used = source.paths(module).into_iter().filter(|name| !declared.contains(name));
        let files = used.filter_map(|name| file_of(name, &modules, &passed_on)).filter(|file| file != *path);
        graph.insert((*path).clone(), files.filter(|file| file != "lib.rs").collect());
    }
    graph
}

fn file_of(mut name: String, modules: &BTreeMap<&str, &str>, passed_on: &BTreeMap<String, String>) -> Option<String> {
    // As often as a name may be passed on.
    'passed_on: for _ in 0..4 {
        let parts: Vec<&str> = name.split("::").collect();
        for length in 1..=parts.len() {
            if let Some(from) = passed_on.get(&parts[..length].join("::")) {
                name = [&[from.as_str()], &parts[length..]].concat().join("::");
                continue 'passed_on;
            }
        }
        break;
    }
    let parts: Vec<&str> = name.split("::").collect();
    (1..=parts.len()).rev().find_map(|length| modules.get(&*parts[..length].join("::"))).map(|file| (*file).to_owned())
}

/// The shortest way from one file to another along what they import.
fn way(graph: &Graph, from: &str, to: &str) -> Option<Vec<String>> {
    let mut ways = std::collections::VecDeque::from([vec![from.to_owned()]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        let last = way.last().unwrap();
        if last == to {
            return Some(way);
        }
        for next in graph.get(last).into_iter().flatten().filter(|next| seen.insert((*next).clone())) {
            ways.push_back([way.as_slice(), std::slice::from_ref(next)].concat());
        }
    }
    None
}

/// Every import that is part of a cycle, with the shortest cycle that it is part of.
fn cycles(graph: &Graph) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for (from, all) in graph {
        for to in all {
            if let Some(back) = way(graph, to, from) {
                found.insert((from.clone(), to.clone()), format!("{from} -> {}", back.join(" -> ")));
            }
        }
    }
    found
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
    // Alone it is a method of HTTP, and no statement.
    VERBS.contains(&word.as_str()) && text != "DELETE"
}

#[test]
fn imports_run_downward_and_each_thing_is_in_its_place() {
    let files = source::all();
    assert!(files.len() > 30, "only {} files were found", files.len());
    let wrong: Vec<String> = files.iter().flat_map(|(path, text)| violations(path, text)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_two_files_import_each_other() {
    let mut graph = graph(&source::all());
    assert!(graph.values().map(BTreeSet::len).sum::<usize>() > 200, "too few imports were found: {graph:#?}");
    let all = cycles(&graph);
    for (from, to) in KNOWN_CYCLES {
        let known = ((*from).to_owned(), (*to).to_owned());
        assert!(all.contains_key(&known), "{from} -> {to} is in no cycle any more: remove it from KNOWN_CYCLES");
        graph.get_mut(*from).unwrap().remove(*to);
    }
    let left: BTreeSet<String> = cycles(&graph).into_values().collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_cycle_is_caught_however_the_files_name_each_other() {
    let found = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        cycles(&graph(&files)).into_keys().map(|(from, to)| format!("{from} -> {to}")).collect::<Vec<_>>()
    };
    let both = ["a/x.rs -> a/y.rs", "a/y.rs -> a/x.rs"];
    assert_eq!(found(&[("a/x.rs", "use super::y;"), ("a/y.rs", "use crate::a::x::X;")]), both);
    assert_eq!(found(&[("a/x.rs", "fn f() { super::y::f() }"), ("a/y.rs", "use super::{z, x::{self, X}};")]), both);
    let three = [
        ("a.rs", "use crate::b;"),
        ("b.rs", "use crate::c::C;"),
        ("c.rs", "use crate::{a};"),
        ("d.rs", "use crate::a;"),
    ];
    assert_eq!(found(&three), ["a.rs -> b.rs", "b.rs -> c.rs", "c.rs -> a.rs"]);
    let child = [("a.rs", "mod b; fn f() { b::f() }"), ("a/b.rs", "use super::A;")];
    assert_eq!(found(&child), ["a.rs -> a/b.rs", "a/b.rs -> a.rs"]);
    let passed_on = [
        ("lib.rs", "pub use a::y::Y;"),
        ("a/x.rs", "use super::y;"),
        ("a/y.rs", "use super::X;"),
        ("a/mod.rs", "pub use x::X;"),
    ];
    assert_eq!(found(&passed_on), both);
    let with_lib = [("lib.rs", "pub use a::A;"), ("a.rs", "use crate::b;"), ("b.rs", "use crate::A;")];
    assert_eq!(found(&with_lib), ["a.rs -> b.rs", "b.rs -> a.rs"]);
    // Declared, passed on, used by a test, or only said.
    let fine = [
        ("a/mod.rs", "pub mod x; pub mod y; pub use x::X; pub use self::y::Y;"),
        ("a/x.rs", "use super::y; use super::Y; mod inner { use super::X; }"),
        (
            "a/y.rs",
            "// super::x\n#[cfg(test)]\nmod tests { use super::super::x; }\nuse std::x; const X: &str = \"super::x\";",
        ),
    ];
    assert_eq!(found(&fine), [""; 0]);
}

fn is_too_long(text: &str) -> bool {
    text.lines().count() > MOST_LINES
}

#[test]
fn no_file_is_too_long() {
    let files = source::all();
    let long: Vec<&str> = files.iter().filter(|(_, text)| is_too_long(text)).map(|(path, _)| path.as_str()).collect();
    assert_eq!(long, KNOWN_LONG, "divide a file by subject, or remove it from KNOWN_LONG");
    assert!(is_too_long(&"\n".repeat(MOST_LINES + 1)) && !is_too_long(&"\n".repeat(MOST_LINES)));
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
        ("sql/run.rs", "use crate::notes::queries;"),
        ("sql/run.rs", "use axum::http::StatusCode;"),
        ("webhooks/apply.rs", "use crate::admin::routes;"),
        ("attic.rs", ""),
        ("notes/model.rs", "use axum::Json;"),
        ("tenants/store.rs", "fn f() -> StatusCode {}"),
        ("notes/routes.rs", r#"const Q: &str = "SELECT 1";"#),
        ("tenants/store.rs", r##"const Q: &str = r#" DELETE FROM notes"#;"##),
        ("tenants/store.rs", "const Q: &str = \"\\\n    UPDATE notes\";"),
        ("http/door.rs", "use crate::app::App;"),
        ("http/openapi.rs", "struct Open { notes: bool }"),
        ("http/openapi.rs", r#"const TAG: &str = "webhooks";"#),
        ("http/limits.rs", r#"fn f(path: &str) -> bool { path.starts_with("/api/admin/") }"#),
        ("http/limits/in_flight.rs", r#"const P: &str = "/webhooks/clerks";"#),
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
        (
            "http/limits.rs",
            r#"fn f(c: &Config) -> Problem { c.admin_api_key; Problem::new("set ADMIN_API_KEY for the admin API") }"#,
        ),
        ("app.rs", r#"const T: &str = "use crate::cli; axum::Json: With care, select one";"#),
        ("app.rs", "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // \"SELECT"),
        ("app.rs", "#[cfg(test)]\nmod tests {\n use crate::cli;\n fn f() { \"SELECT 1\"; }\n}"),
        ("sqlite/open.rs", "use super::migrate; mod inner { use super::super::pool; }"),
    ];
    for (path, text) in fine {
        assert_eq!(violations(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

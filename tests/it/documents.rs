//! The documents say what the program does: settings, routes, error codes, links.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{harness::cubby, source};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

const SETTINGS: &str = "<!-- settings -->\n";

/// The settings of `cubby serve --help`, as rows of a table.
fn settings(help: &str) -> String {
    let mut table = "| variable | flag | default | what |\n|---|---|---|---|\n".to_owned();
    // Each setting begins with its flag; what follows is indented further.
    for block in help.split("\n      --").skip(1) {
        let lines: Vec<&str> = block.lines().map(str::trim).collect();
        let value = |name: &str| {
            lines.iter().find_map(|line| line.strip_prefix(name)?.strip_suffix(']').map(|v| v.trim_end_matches('=')))
        };
        let Some(variable) = value("[env: ") else { continue };
        let flag = lines[0].split_whitespace().next().unwrap();
        let default = value("[default: ").map_or("-".to_owned(), |value| format!("`{value}`"));
        let paragraph = lines.iter().skip(1).skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty());
        let what = paragraph.copied().collect::<Vec<_>>().join(" ");
        let choices = lines.iter().filter_map(|line| line.strip_prefix("- ")?.split_once(':'));
        let choices: Vec<_> = choices.map(|(name, _)| format!("`{name}`")).collect();
        let choices = if choices.is_empty() { String::new() } else { format!(": {}", choices.join(", ")) };
        table.push_str(&format!("| `{variable}` | `--{flag}` | {default} | {what}{choices} |\n"));
    }
    table
}

/// After a change of a setting: `CUBBY_WRITE_DOCS=1 cargo test --test it documents`.
#[test]
#[expect(clippy::disallowed_methods, reason = "whoever runs the test is asked, not the program's settings")]
fn the_readme_lists_every_setting_as_help_does() {
    let help = cubby().args(["serve", "--help"]).output().unwrap();
    let table = settings(&String::from_utf8(help.stdout).unwrap());
    assert!(table.lines().count() > 20, "{table}");
    let readme = page("README.md");
    let (before, rest) = readme.split_once(SETTINGS).expect("the README has a table of settings");
    let after = rest.find("\n\n").map_or("", |end| &rest[end + 1..]);
    let wanted = format!("{before}{SETTINGS}{table}{after}");
    if readme != wanted && std::env::var_os("CUBBY_WRITE_DOCS").is_some() {
        std::fs::write(root().join("README.md"), wanted).unwrap();
        return;
    }
    assert!(readme == wanted, "the README's settings are not those of --help: run this with CUBBY_WRITE_DOCS=1");
}

/// The words under "Commands:" in a help text.
fn commands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_whitespace().next()).filter(|word| *word != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_is_documented() {
    let help = |command: &[&str]| {
        let output = cubby().args(command).arg("--help").output().unwrap();
        commands(&String::from_utf8(output.stdout).unwrap())
    };
    let mut all = Vec::new();
    for command in help(&[]) {
        let below = help(&[&command]);
        match below.is_empty() {
            true => all.push(format!("`cubby {command}")),
            false => all.extend(below.iter().map(|name| format!("`cubby {command} {name}"))),
        }
    }
    assert!(all.contains(&"`cubby tenants list".to_owned()), "{all:?}");
    let manual = page("docs/OPERATIONS.md");
    let missing: Vec<_> = all.iter().filter(|command| !manual.contains(*command)).collect();
    assert!(missing.is_empty(), "docs/OPERATIONS.md does not have {missing:?}");
}

/// `METHOD path` of every route in the source: `.route("…", get(…).post(…))`, and what
/// `#[utoipa::path(get, path = "…")]` says.
pub fn routes(files: &[(String, String)]) -> BTreeSet<String> {
    const METHODS: &[&str] = &["get", "post", "put", "patch", "delete"];
    let mut found = BTreeSet::new();
    for (_, text) in files {
        for call in calls(text, ".route(") {
            let Some((_, rest)) = call.split_once('"') else { continue };
            let (path, handlers) = rest.split_once('"').expect("a string ends");
            let named = METHODS.iter().filter(|method| {
                handlers
                    .match_indices(&format!("{method}("))
                    .any(|(at, _)| !handlers[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            });
            found.extend(named.map(|method| format!("{} {path}", method.to_uppercase())));
        }
        for call in calls(text, "utoipa::path(") {
            let Some((_, rest)) = call.split_once("path = \"") else { continue };
            let path = rest.split('"').next().unwrap();
            let words = call.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
            let method = words.into_iter().find(|word| METHODS.contains(word)).unwrap_or("get");
            found.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    found
}

/// The text between the brackets of each call.
fn calls<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = &'t str> {
    text.match_indices(name).map(move |(at, _)| {
        let rest = &text[at + name.len()..];
        let mut depth = 1;
        let end = rest.find(|c| {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            depth == 0
        });
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn every_route_is_documented() {
    let routes = routes(&source::all());
    for known in ["GET /{user_id}", "POST /{user_id}", "DELETE /{user_id}/{note_id}", "POST /webhooks/clerk"] {
        assert!(routes.contains(known), "{known} was not found: {routes:?}");
    }
    let api = page("docs/API.md");
    let missing: Vec<_> = routes.iter().filter(|route| !api.contains(&format!("`{route}`"))).collect();
    assert!(missing.is_empty(), "docs/API.md does not have {missing:?}");
}

/// The words that stand where a problem's code does.
fn codes(files: &[(String, String)]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, text) in files {
        let after_status = text.match_indices("StatusCode::").filter_map(|(at, mark)| {
            let rest = text[at + mark.len()..].trim_start_matches(|c: char| c.is_ascii_uppercase() || c == '_');
            rest.trim_start().strip_prefix(',')?.trim_start().strip_prefix('"')
        });
        let assigned = text.match_indices(".code = \"").map(|(at, mark)| &text[at + mark.len()..]);
        let words = after_status.chain(assigned).filter_map(|rest| rest.split('"').next());
        found.extend(words.filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_')).map(str::to_owned));
    }
    found
}

#[test]
fn every_error_code_is_documented() {
    let codes = codes(&source::all());
    for known in ["unknown_user", "bad_signature", "delivery_rejected", "method_not_allowed"] {
        assert!(codes.contains(known), "{known} was not found: {codes:?}");
    }
    let api = page("docs/API.md");
    let missing: Vec<_> = codes.iter().filter(|code| !api.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "docs/API.md does not have {missing:?}");
}

/// Every page of the project, by its path from the root.
fn pages() -> Vec<String> {
    let mut found: Vec<String> =
        ["README.md", "CHANGELOG.md", "data/README.md", "migrations/README.md"].map(str::to_owned).to_vec();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// Relative links of a page that lead nowhere. `headings` gives a page's anchors; none if there is
/// no such file.
fn dead_links(name: &str, text: &str, headings: impl Fn(&Path) -> Option<BTreeSet<String>>) -> Vec<String> {
    let folder = Path::new(name).parent().unwrap();
    let links = text.match_indices("](").filter_map(|(at, _)| text[at + 2..].split(')').next());
    let relative = links.filter(|link| !link.contains("://") && !link.starts_with("mailto:"));
    let dead = relative.filter(|link| {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { PathBuf::from(name) } else { folder.join(file) };
        !headings(&target).is_some_and(|anchors| anchor.is_empty() || anchors.contains(anchor))
    });
    dead.map(|link| format!("{name}: {link}")).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            title.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
        })
        .collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let on_disk = |target: &Path| {
        let path = root().join(target);
        path.exists().then(|| anchors(&std::fs::read_to_string(path).unwrap_or_default()))
    };
    let dead: Vec<_> = pages().iter().flat_map(|name| dead_links(name, &page(name), on_disk)).collect();
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn the_proxys_settings_fit_the_servers() {
    let caddy = page("deploy/Caddyfile");
    let word = |name: &str| {
        let mut lines = caddy.lines().filter_map(|line| line.trim().strip_prefix(name));
        lines.next().unwrap_or_else(|| panic!("deploy/Caddyfile has no {name}")).trim().to_owned()
    };
    let seconds = |text: &str| text.trim_end_matches('s').parse::<u32>().unwrap();
    let help = cubby().args(["serve", "--help"]).output().unwrap();
    let help = settings(&String::from_utf8(help.stdout).unwrap());
    let default = |flag: &str| {
        let row = help.lines().find(|row| row.contains(&format!("`--{flag}`"))).unwrap();
        row.split('`').nth(5).unwrap().to_owned()
    };
    // Else a request may be sent over a connection that the server is just closing, and be lost.
    assert!(seconds(&word("keepalive ")) < seconds(&default("header-timeout")));
    assert!(seconds(&word("response_header_timeout ")) > seconds(&default("request-timeout")));
    // On a full disk `/readyz` is red, and reads go on.
    assert_eq!(word("health_uri "), "/healthz");
}

/// What a page names as a test or a step of CI and is none. A name is `subject::test`, of this binary,
/// or `module::tests::test`, beside the code; `text` gives a file of the project, if there is one.
fn no_tests(page: &str, text: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let named = page.split('`').skip(1).step_by(2);
    let lost = named.filter(|name| {
        if let Some(step) = name.strip_prefix(".ci/run ") {
            let run = text(".ci/run").unwrap_or_default();
            return !run.lines().any(|line| {
                let mut words = line.split_whitespace();
                matches!(words.next(), Some("step" | "beside")) && words.next() == Some(step)
            });
        }
        let parts: Vec<&str> = name.split("::").collect();
        let word = |part: &&str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let [modules @ .., test] = parts.as_slice() else { return false };
        if modules.is_empty() || !parts.iter().all(word) {
            return false;
        }
        let file = match modules {
            [subject] => text(&format!("tests/it/{subject}.rs")),
            [path @ .., "tests"] => text(&format!("src/{}.rs", path.join("/"))),
            path => text(&format!("tests/it/{}.rs", path.join("/"))),
        };
        // The attributes above it say that it is one.
        let file = file.unwrap_or_default();
        let above = file.split_once(&format!("fn {test}(")).and_then(|(before, _)| before.rsplit_once('\n'));
        let mut attributes = above
            .into_iter()
            .flat_map(|(above, _)| above.lines().rev())
            .take_while(|line| line.trim().starts_with("#["));
        !attributes.any(|line| line.contains("test"))
    });
    lost.map(str::to_owned).collect()
}

#[test]
fn every_test_that_the_security_page_names_is_there() {
    let security = page("docs/SECURITY.md");
    assert!(security.matches("attacks::").count() > 5, "the page names tests");
    let lost = no_tests(&security, |file| std::fs::read_to_string(root().join(file)).ok());
    assert!(lost.is_empty(), "docs/SECURITY.md names what is no test: {lost:#?}");
}

#[test]
fn the_checkers_see_what_is_missing() {
    let file = |text: &str| [("x.rs".to_owned(), text.to_owned())];
    let found = routes(&file(".route(\n\"/a/{b}\",\n get(x).delete(forget(y)))\n#[utoipa::path(post, path = \"/c\")]"));
    assert_eq!(found, BTreeSet::from(["GET /a/{b}", "DELETE /a/{b}", "POST /c"].map(str::to_owned)));
    let found = codes(&file(
        "Problem::new(\n StatusCode::BAD_REQUEST,\n \"one\", x) (StatusCode::OK, \"two\") p.code = \"three\"",
    ));
    assert_eq!(found, BTreeSet::from(["one", "two", "three"].map(str::to_owned)));
    let project = |file: &str| match file {
        "tests/it/a.rs" => Some("#[test]\nfn one() {}\n\nfn helper() {}\n".to_owned()),
        "src/b/c.rs" => {
            Some("    #[tokio::test(flavor = \"x\")]\n    #[expect(x)]\n    async fn two() {}\n".to_owned())
        }
        ".ci/run" => Some("step  good  x\nbeside fine x\n# step bad\n".to_owned()),
        _ => None,
    };
    let named = "`a::one` `b::c::tests::two` `.ci/run good` `.ci/run fine` `x` `File::open` `a::none` `a::helper` \
                 `z::one` `.ci/run bad`";
    assert_eq!(no_tests(named, project), ["a::none", "a::helper", "z::one", ".ci/run bad"]);
    let there = |target: &Path| (target == Path::new("docs/there.md")).then(|| anchors("# One two\n## `GET /x`"));
    let dead = dead_links("docs/x.md", "[a](there.md#one-two) [b](gone.md) [c](there.md#three) [d](https://x)", there);
    assert_eq!(dead, ["docs/x.md: gone.md", "docs/x.md: there.md#three"]);
    assert!(
        settings("x\n      --a-b <C>\n   What\n   it is.\n\n   [env: A_B=]\n   [default: 5s]\n")
            .contains("| `A_B` | `--a-b` | `5s` | What it is. |")
    );
}

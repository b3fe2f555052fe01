//! Rust source as the checkers need it: code without comments, strings and test modules; the
//! strings apart; and the paths that lead out of a module. Not a parser: it reads what rustfmt
//! leaves.

use std::{collections::BTreeSet, path::Path};

/// One file.
pub struct Source {
    /// The code. Comments are gone, strings are empty, `#[cfg(test)]` modules are left out.
    pub code: String,
    /// What was in the strings, in order.
    pub strings: Vec<String>,
}

/// The text of every Rust file below `src/`, by its path from there.
pub fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

impl Source {
    pub fn parse(text: &str) -> Self {
        let (code, strings) = strip(text);
        let tests = test_modules(&code);
        let in_tests = |at: usize| tests.iter().any(|range| range.contains(&at));
        let strings = strings.into_iter().filter(|(at, _)| !in_tests(*at)).map(|(_, text)| text).collect();
        let code = code.char_indices().filter(|(at, _)| !in_tests(*at)).map(|(_, c)| c).collect();
        Self { code, strings }
    }

    /// Every path that the code names, from the root of the crate and without `crate::`. `module` is where
    /// the code is, as `tenants::store`; it is empty for the root. A path that begins with a name of its own
    /// (`std::fmt`, `child::f`) is taken as one from `module`, since it may be a child's.
    pub fn paths(&self, module: &str) -> BTreeSet<String> {
        let tokens = tokens(&self.code);
        let mut found = BTreeSet::new();
        // The module of each open brace that belongs to an inline `mod`.
        let mut inline: Vec<(usize, &str)> = Vec::new();
        let (mut braces, mut at) = (0, 0);
        while at < tokens.len() {
            let is_path = tokens.get(at + 1) == Some(&"::") && (at == 0 || tokens[at - 1] != "::");
            let mut here: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
            here.extend(inline.iter().map(|(_, name)| *name));
            match tokens[at] {
                "{" => {
                    if at >= 2 && tokens[at - 2] == "mod" {
                        inline.push((braces, tokens[at - 1]));
                    }
                    braces += 1;
                }
                "}" => {
                    braces -= 1;
                    inline.pop_if(|(opened, _)| *opened == braces);
                }
                "crate" | "cubby" if is_path => {
                    at = tree(&tokens, at + 2, "", &mut found);
                    continue;
                }
                // `pub(super)` is no path.
                "super" if is_path => {
                    while tokens.get(at) == Some(&"super") && tokens.get(at + 1) == Some(&"::") {
                        here.pop();
                        at += 2;
                    }
                    at = tree(&tokens, at, &here.join("::"), &mut found);
                    continue;
                }
                "self" if is_path => {
                    at = tree(&tokens, at + 2, &here.join("::"), &mut found);
                    continue;
                }
                name if is_path && is_word(name) => {
                    at = tree(&tokens, at, &here.join("::"), &mut found);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        found
    }

    /// What the code passes on under another path: each name of a `pub use`, and where it is from.
    pub fn reexports(&self, module: &str) -> BTreeSet<String> {
        let mut uses = String::new();
        let mut rest = self.code.as_str();
        while let Some(at) = rest.find("pub use ") {
            let end = rest[at..].find(';').map_or(rest.len(), |end| at + end + 1);
            uses.push_str(&rest[at..end]);
            rest = &rest[end..];
        }
        Self { code: uses, strings: Vec::new() }.paths(module)
    }

    /// The names in the code, each once.
    pub fn words(&self) -> BTreeSet<&str> {
        tokens(&self.code).into_iter().filter(|token| is_word(token)).collect()
    }
}

/// Reads `a::{b, c::d}` and gives where it ends.
fn tree(tokens: &[&str], mut at: usize, prefix: &str, found: &mut BTreeSet<String>) -> usize {
    let mut path = prefix.to_owned();
    loop {
        match tokens.get(at) {
            Some(&"{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| *token != "}") {
                    at = match tokens[at] {
                        "," => at + 1,
                        _ => tree(tokens, at, &path, found),
                    };
                }
                return at + 1;
            }
            Some(&name) if is_word(name) || name == "*" => {
                if name != "self" {
                    path = if path.is_empty() { name.to_owned() } else { format!("{path}::{name}") };
                }
                at += 1;
                match tokens.get(at) {
                    Some(&"::") => at += 1,
                    Some(&"as") => {
                        found.insert(path);
                        return at + 2;
                    }
                    _ => {
                        found.insert(path);
                        return at;
                    }
                }
            }
            // A turbofish, or something this cannot read: what is known so far counts.
            _ => {
                found.insert(path);
                return at + 1;
            }
        }
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            c if c.is_alphanumeric() || c == '_' => {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            }
            ':' if rest.starts_with("::") => 2,
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        found.push(token);
        rest = after.trim_start();
    }
    found
}

/// Takes comments out and strings apart. Each string goes with its place in the code that is left.
fn strip(text: &str) -> (String, Vec<(usize, String)>) {
    let (mut code, mut strings) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = after_block_comment(rest);
            code.push(' ');
        } else if let Some((content, after)) = raw_string(rest, &code).or_else(|| string(rest)) {
            strings.push((code.len(), content));
            code.push_str("\"\"");
            rest = after;
        } else if first == '\'' {
            let length = char_literal(rest).unwrap_or(1);
            code.push('\'');
            rest = &rest[length..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    (code, strings)
}

fn after_block_comment(text: &str) -> &str {
    let (mut depth, mut at) = (0, 0);
    loop {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return &text[at..];
            }
        } else if let Some(c) = rest.chars().next() {
            at += c.len_utf8();
        } else {
            return "";
        }
    }
}

/// `"…"`, with a line that ends in a backslash joined to the next.
fn string(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut content = String::new();
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Some((content, rest)),
            '\\' if rest.starts_with('\n') => rest = rest.trim_start(),
            '\\' => {
                let escaped = rest.chars().next()?;
                content.push(escaped);
                rest = &rest[escaped.len_utf8()..];
            }
            _ => content.push(c),
        }
    }
}

/// `r"…"`, `r#"…"#`, …, if what comes before is not a word that ends in r.
fn raw_string<'t>(text: &'t str, before: &str) -> Option<(String, &'t str)> {
    let word_goes_on =
        before.chars().next_back().is_some_and(|c| (c.is_alphanumeric() && c != 'b' && c != 'c') || c == '_');
    let rest = text.strip_prefix('r').filter(|_| !word_goes_on)?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let rest = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = rest.find(&end)?;
    Some((rest[..length].to_owned(), &rest[length + end.len()..]))
}

/// The length of `'x'` or `'\…'`; nothing for a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        chars.next()?;
        return chars.find(|(_, c)| *c == '\'').map(|(at, _)| at + 1);
    }
    chars.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1)
}

/// Where `#[cfg(test)] mod … { … }` are.
fn test_modules(code: &str) -> Vec<std::ops::Range<usize>> {
    const MARK: &str = "#[cfg(test)]";
    let mut found = Vec::new();
    for (start, _) in code.match_indices(MARK) {
        let after = &code[start + MARK.len()..];
        if !after.trim_start().starts_with("mod ") {
            continue;
        }
        let mut depth = 0;
        for (at, c) in after.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 1 => {
                    found.push(start..start + MARK.len() + at + 1);
                    break;
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    found
}

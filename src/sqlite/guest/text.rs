//! Statements as text: where one ends, and which control transactions. SQLite itself decides everything else.

use super::model::{Kind, Mode};

/// What a statement does to transactions; none if nothing.
pub fn transaction_verb(sql: &str) -> Option<Kind> {
    let mut words = words(sql);
    let verb = words.next()?;
    let is = |word: &str, other: &str| word.eq_ignore_ascii_case(other);
    match verb {
        _ if is(verb, "BEGIN") => {
            let mode = match words.next() {
                Some(word) if is(word, "IMMEDIATE") => Mode::Immediate,
                Some(word) if is(word, "EXCLUSIVE") => Mode::Exclusive,
                Some(word) if is(word, "TRANSACTION") && words.next().is_some_and(|name| is(name, "READONLY")) => {
                    Mode::ReadOnly
                }
                _ => Mode::Deferred,
            };
            Some(Kind::Begin(mode))
        }
        _ if is(verb, "COMMIT") || is(verb, "END") => Some(Kind::Commit),
        _ if is(verb, "ROLLBACK") => Some(if words.any(|w| is(w, "TO")) { Kind::RollbackTo } else { Kind::Rollback }),
        _ if is(verb, "SAVEPOINT") => Some(Kind::Savepoint),
        _ if is(verb, "RELEASE") => Some(Kind::Release),
        _ => None,
    }
}

/// The name in `SAVEPOINT`, `RELEASE` or `ROLLBACK TO`, in lower case, as SQLite compares it; none if none is there.
pub fn savepoint_name(sql: &str) -> Option<String> {
    let named = tokens(sql).skip_while(|(token, _)| *token == Token::Semicolon);
    let (token, end) = named.take_while(|(token, _)| *token != Token::Semicolon).last()?;
    let name = match token {
        Token::Word(word) => word,
        _ => {
            let (before, close) = (sql.get(..end - 1)?, sql.as_bytes()[end - 1]);
            let open = if close == b']' { '[' } else { char::from(close) };
            before.rsplit_once(open)?.1
        }
    };
    Some(name.to_ascii_lowercase())
}

/// Whether a statement looks as if it changed nothing. Only SQLite knows.
pub fn seems_to_read(sql: &str) -> bool {
    const WORDS: &[&str] = &[
        "SELECT",
        "VALUES",
        "WITH",
        "EXPLAIN",
        "PRAGMA",
        "BEGIN",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
    ];
    first_word(sql).is_none_or(|word| WORDS.iter().any(|known| known.eq_ignore_ascii_case(word)))
}

/// Whether a statement is a pragma.
pub fn is_pragma(sql: &str) -> bool {
    first_word(sql).is_some_and(|word| word.eq_ignore_ascii_case("PRAGMA"))
}

/// Whether a statement has a body or a new name that SQLite does not ask about: it makes a trigger or alters something.
pub(super) fn makes_trigger_or_alters(sql: &str) -> bool {
    let is = |word: Option<&str>, other: &str| word.is_some_and(|word| word.eq_ignore_ascii_case(other));
    let mut words = words(sql);
    let first = words.next();
    is(first, "ALTER") || (is(first, "CREATE") && words.take(2).any(|word| is(Some(word), "TRIGGER")))
}

/// The first word of a statement.
pub fn first_word(sql: &str) -> Option<&str> {
    words(sql).next()
}

/// Splits SQL into statements, as SQLite's `sqlite3_complete` finds their ends: at semicolons, but not at those in the
/// body of a trigger. Without those that are empty.
pub fn split(sql: &str) -> impl Iterator<Item = &str> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let (statement, after) = rest.split_at(end_of_first(rest).unwrap_or(rest.len()));
            rest = after;
            if !is_empty(statement) {
                return Some(statement);
            }
        }
    })
}

/// Whether there is no statement: nothing but spaces, comments and semicolons.
pub fn is_empty(sql: &str) -> bool {
    tokens(sql).all(|(token, _)| token == Token::Semicolon)
}

/// The length of the first statement, with its semicolon; none if that is not there.
pub fn end_of_first(sql: &str) -> Option<usize> {
    /// As in `sqlite3_complete`.
    #[derive(Clone, Copy)]
    enum At {
        Start,
        Normal,
        Explain,
        Create,
        Trigger,
        Semicolon,
        End,
    }
    let mut at = At::Start;
    for (token, end) in tokens(sql) {
        let is = |word: &str| matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word));
        at = match (at, token) {
            (At::Start | At::Normal | At::Explain | At::Create | At::End, Token::Semicolon) => return Some(end),
            (At::Trigger | At::Semicolon, Token::Semicolon) => At::Semicolon,
            (At::Start, _) if is("EXPLAIN") => At::Explain,
            (At::Start | At::Explain, _) if is("CREATE") => At::Create,
            (At::Explain, _) if is("QUERY") || is("PLAN") => At::Explain,
            (At::Create, _) if is("TEMP") || is("TEMPORARY") => At::Create,
            (At::Create, _) if is("TRIGGER") => At::Trigger,
            (At::Start | At::Normal | At::Explain | At::Create, _) => At::Normal,
            (At::Semicolon, _) if is("END") => At::End,
            (At::Trigger | At::Semicolon | At::End, _) => At::Trigger,
        };
    }
    None
}

fn words(sql: &str) -> impl Iterator<Item = &str> {
    tokens(sql)
        .skip_while(|(token, _)| *token == Token::Semicolon)
        .map_while(|(token, _)| match token {
            Token::Word(word) => Some(word),
            _ => None,
        })
        .take(6)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'s> {
    Word(&'s str),
    Semicolon,
    /// Anything else: a literal, an operator, a quoted name.
    Other,
}

/// The tokens of SQL without spaces and comments, and where each ends.
fn tokens(sql: &str) -> impl Iterator<Item = (Token<'_>, usize)> {
    let bytes = sql.as_bytes();
    let mut at = 0;
    // The end of what `closes`, from `from` on.
    let until =
        move |from: usize, closes: &str| sql.get(from..).and_then(|s| s.find(closes)).map(|n| from + n + closes.len());
    std::iter::from_fn(move || {
        loop {
            let first = *bytes.get(at)?;
            let start = at;
            let end = match first {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0c => {
                    // A vertical tab is a space after another one, and no token of its own.
                    at += 1 + bytes[at + 1..].iter().take_while(|byte| **byte == 0x0b).count();
                    continue;
                }
                b'-' if bytes.get(at + 1) == Some(&b'-') => {
                    at = until(at, "\n").unwrap_or(sql.len());
                    continue;
                }
                b'/' if bytes.get(at + 1) == Some(&b'*') => {
                    at = until(at + 2, "*/").unwrap_or(sql.len());
                    continue;
                }
                // A byte order mark, which SQLite skips.
                0xef if sql[at..].starts_with('\u{feff}') => {
                    at += 3;
                    continue;
                }
                b';' => {
                    at += 1;
                    return Some((Token::Semicolon, at));
                }
                b'\'' => until(at + 1, "'"),
                b'"' => until(at + 1, "\""),
                b'`' => until(at + 1, "`"),
                b'[' => until(at + 1, "]"),
                byte if is_word(byte) => {
                    at += bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
                    return Some((Token::Word(&sql[start..at]), at));
                }
                _ => Some(at + 1),
            };
            at = end.unwrap_or(sql.len());
            return Some((Token::Other, at));
        }
    })
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_verbs_are_found_behind_comments_and_in_any_case() {
        for (sql, kind) in [
            ("BEGIN", Some(Kind::Begin(Mode::Deferred))),
            ("begin deferred transaction;", Some(Kind::Begin(Mode::Deferred))),
            (" ; -- one\n /* two */ BEGIN IMMEDIATE", Some(Kind::Begin(Mode::Immediate))),
            ("BEGIN EXCLUSIVE TRANSACTION", Some(Kind::Begin(Mode::Exclusive))),
            ("BEGIN TRANSACTION READONLY", Some(Kind::Begin(Mode::ReadOnly))),
            ("BEGIN TRANSACTION other", Some(Kind::Begin(Mode::Deferred))),
            ("COMMIT", Some(Kind::Commit)),
            ("END TRANSACTION;", Some(Kind::Commit)),
            ("ROLLBACK TRANSACTION", Some(Kind::Rollback)),
            ("ROLLBACK TO a", Some(Kind::RollbackTo)),
            ("ROLLBACK TRANSACTION TO SAVEPOINT a", Some(Kind::RollbackTo)),
            ("SAVEPOINT a", Some(Kind::Savepoint)),
            ("RELEASE a", Some(Kind::Release)),
            ("EXPLAIN COMMIT", None),
            ("'BEGIN'", None),
            (" \u{b}BEGIN", Some(Kind::Begin(Mode::Deferred))),
            ("\u{b}BEGIN", None),
            ("\u{feff}BEGIN", Some(Kind::Begin(Mode::Deferred))),
            ("", None),
            ("SELECT 1", None),
        ] {
            assert_eq!(transaction_verb(sql), kind, "{sql:?}");
        }
    }

    #[test]
    fn savepoints_are_named_with_or_without_quotes() {
        for sql in [
            "SAVEPOINT one",
            "release savepoint ONE;",
            "ROLLBACK TO \"One\" -- two",
            "SAVEPOINT [one]",
            "RELEASE `one` ;",
            "SAVEPOINT 'one'",
        ] {
            assert_eq!(savepoint_name(sql).as_deref(), Some("one"), "{sql}");
        }
        assert_eq!(savepoint_name(";"), None);
    }

    #[test]
    fn statements_end_at_semicolons_that_are_not_in_texts_comments_or_triggers() {
        let parts = |sql: &'static str| split(sql).map(str::trim).collect::<Vec<_>>();
        assert_eq!(
            parts("SELECT ';'; SELECT \";\" -- ;\n;;/* ; */; SELECT [;]"),
            ["SELECT ';';", "SELECT \";\" -- ;\n;", "SELECT [;]"]
        );
        let trigger =
            "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; DELETE FROM b; END;";
        assert_eq!(
            parts(
                "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; DELETE FROM b; END; SELECT 1"
            ),
            [trigger, "SELECT 1"]
        );
        assert_eq!(parts("SELECT 'it''s'; SELECT 'open"), ["SELECT 'it''s';", "SELECT 'open"]);
        assert!(parts(" ;; -- nothing\n ;").is_empty());
    }
}

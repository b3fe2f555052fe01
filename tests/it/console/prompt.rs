//! The prompt, typed at through a pseudoterminal.

use std::{os::unix::fs::PermissionsExt, path::Path};

use tempfile::TempDir;

use super::Folder;
use crate::harness::{stdout, terminal::Terminal};

const PROMPT: &str = "cubby> ";
const IN_TRANSACTION: &str = "cubby*> ";
const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";
const UP: &str = "\u{1b}[A";

fn prompt(folder: &Folder, state: &Path) -> Terminal {
    let mut command = folder.cubby(&["sql", "ada"]);
    command.env("XDG_STATE_HOME", state);
    let mut terminal = Terminal::start(command);
    terminal.sees(".help says what else there is");
    terminal.sees(PROMPT);
    terminal
}

#[test]
fn a_person_types_statements_of_several_lines_and_transactions() {
    let (folder, state) = (Folder::new(), TempDir::new().unwrap());
    let mut terminal = prompt(&folder, state.path());
    terminal.enters("SELECT 6 *");
    terminal.sees("...> ");
    terminal.enters("7 AS answer; SELECT 'next'");
    terminal.sees("42\r\n(1 row)\r\n");
    terminal.sees("...> ");
    terminal.enters(";");
    terminal.sees("next\r\n(1 row)\r\n");
    terminal.sees(PROMPT);

    terminal.enters("SELECT 'dropped");
    terminal.sees("...> ");
    terminal.types(CTRL_C);
    terminal.sees(PROMPT);
    terminal.enters(".tables");
    terminal.sees("items ");
    terminal.sees(PROMPT);
    terminal.enters(".mode csv");
    terminal.sees(PROMPT);
    terminal.enters("SELECT 5 + 5 AS ten; SELEC; SELECT 'what follows an error';");
    terminal.sees("ten\r\r\n10\r\r\n");
    let rest = terminal.sees(PROMPT);
    assert!(rest.contains("error: near \"SELEC\": syntax error (SQLITE_ERROR)"), "{rest}");
    assert!(!rest.contains("what follows"), "{rest}");
    terminal.enters(".mode table");
    terminal.sees(PROMPT);

    terminal.enters("BEGIN;");
    terminal.sees(IN_TRANSACTION);
    terminal.enters("INSERT INTO items (name) VALUES ('kept');");
    terminal.sees("1 row changed");
    terminal.sees(IN_TRANSACTION);
    terminal.enters("COMMIT;");
    terminal.sees(PROMPT);
    terminal.enters("BEGIN;");
    terminal.sees(IN_TRANSACTION);
    terminal.enters("INSERT OR ROLLBACK INTO items (name) VALUES ('kept');");
    terminal.sees("note: the transaction was rolled back");
    terminal.sees(PROMPT);
    terminal.enters("BEGIN;");
    terminal.sees(IN_TRANSACTION);
    terminal.enters("INSERT INTO items (name) VALUES ('left');");
    terminal.sees("1 row changed");
    terminal.sees(IN_TRANSACTION);
    terminal.types(CTRL_D);
    let (last, status) = terminal.ends();
    assert!(last.contains("note: the open transaction was rolled back"), "{last}");
    assert!(status.success());

    let file = state.path().join("cubby/sql_history");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut again = prompt(&folder, state.path());
    again.types(UP);
    again.sees("INSERT INTO items (name) VALUES ('left');");
    again.types(CTRL_C);
    again.sees(PROMPT);
    again.enters("SELECT group_concat(name) AS names FROM items;");
    again.sees("names\r\n-----\r\nkept\r\n(1 row)");
    again.sees(PROMPT);
    again.enters(".quit");
    assert!(again.ends().1.success());
    assert!(!std::fs::read_to_string(file).unwrap().contains("dropped"));
}

#[test]
fn a_history_that_others_could_read_is_closed_to_them_and_one_that_is_unusable_is_not_needed() {
    let (folder, state) = (Folder::new(), TempDir::new().unwrap());
    let file = state.path().join("history");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    for (history, kept) in [(file.to_str().unwrap(), true), ("", false), ("/dev/null/none", false)] {
        let mut command = folder.cubby(&["sql", "ada"]);
        command.env("CUBBY_SQL_HISTORY", history).env("XDG_STATE_HOME", state.path());
        let mut terminal = Terminal::start(command);
        terminal.sees(PROMPT);
        terminal.enters("SELECT 1 + 1;");
        terminal.sees("2\r\n(1 row)");
        terminal.sees(PROMPT);
        terminal.types(CTRL_D);
        assert!(terminal.ends().1.success());
        assert!(!state.path().join("cubby").exists());
        if kept {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert!(std::fs::read_to_string(&file).unwrap().contains("SELECT 1 + 1;"));
        }
    }
    let piped = stdout(&folder.cubby(&["sql", "ada", "SELECT 1 AS a"]).output().unwrap());
    assert_eq!(piped, "{\"a\":1}\n");
}

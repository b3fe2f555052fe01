//! What a guest's statements may do.

use rusqlite::hooks::{AuthAction, AuthContext, TransactionOperation};

use super::model::Rules;
use crate::sqlite::migrate::HISTORY_TABLES;

/// Pragmas that answer a question; an argument names what it is about.
const ASKED: &[&str] = &[
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "foreign_key_check",
    "integrity_check",
    "quick_check",
    "function_list",
    "compile_options",
    // Asked by FTS5 itself.
    "data_version",
];

/// Pragmas of the connection that a guest may set, and that are set back after it.
const SETTINGS: &[&str] =
    &["foreign_keys", "defer_foreign_keys", "case_sensitive_like", "recursive_triggers", "read_uncommitted"];

/// Functions that read or write files, load code, or give out addresses. None is in the SQLite that is built with this
/// crate but `load_extension` and `fts3_tokenizer`, which it refuses by itself.
const FUNCTIONS: &[&str] = &["load_extension", "readfile", "writefile", "fsdir", "edit", "fts3_tokenizer"];

/// The modules of virtual tables that keep what they have in tables of the same file.
const MODULES: &[&str] = &["fts3", "fts4", "fts5", "fts5vocab", "fts3tokenize", "fts4aux", "rtree", "rtree_i32"];

/// What the server's own savepoints begin with.
pub(super) const OWN: &str = "cubby_";

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub message: String,
    pub code: &'static str,
    /// Allowed all the same if this table exists, since nothing is made then.
    pub unless_exists: Option<String>,
}

/// What a statement that is allowed will do to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect<'a> {
    None,
    /// It sets this pragma to this value.
    Sets(&'a str, &'a str),
}

/// Whether an action is allowed.
pub(super) fn judge<'a>(context: &AuthContext<'a>, rules: &Rules) -> Result<Effect<'a>, Refusal> {
    let temporary = context.database_name.is_some_and(|name| name.eq_ignore_ascii_case("temp"));
    match context.action {
        AuthAction::Select | AuthAction::Recursive | AuthAction::Read { .. } => Ok(Effect::None),
        AuthAction::Function { function_name } => match is_one_of(function_name, FUNCTIONS) {
            true => refuse(format!("the function {function_name} is not available here")),
            false => Ok(Effect::None),
        },
        AuthAction::Pragma { pragma_name, pragma_value } => pragma(pragma_name, pragma_value, rules),
        AuthAction::Transaction { operation } => {
            let word = match operation {
                TransactionOperation::Begin => "BEGIN",
                TransactionOperation::Rollback => "ROLLBACK",
                _ => "COMMIT",
            };
            refuse(format!("{word} is not possible here: send it as a statement of its own"))
        }
        AuthAction::Savepoint { savepoint_name, .. } => match starts_with(savepoint_name, OWN) {
            true => refuse(format!("savepoints whose names begin with {OWN} are the server's; use another name")),
            false => Ok(Effect::None),
        },
        AuthAction::Attach { .. } | AuthAction::Detach { .. } => {
            refuse("ATTACH and DETACH are not available: each user's database is by itself")
        }
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } => {
            writes(rules)?;
            unprotected(table_name)
        }
        AuthAction::Reindex { .. } | AuthAction::Analyze { .. } => writes(rules),
        AuthAction::CreateTempTable { table_name: name }
        | AuthAction::DropTempTable { table_name: name }
        | AuthAction::CreateTempView { view_name: name }
        | AuthAction::DropTempView { view_name: name }
        | AuthAction::CreateTempIndex { index_name: name, .. }
        | AuthAction::DropTempIndex { index_name: name, .. }
        | AuthAction::CreateTempTrigger { trigger_name: name, .. }
        | AuthAction::DropTempTrigger { trigger_name: name, .. } => makes_temporary(name, rules),
        // Made by ANALYZE.
        AuthAction::CreateTable { table_name } if starts_with(table_name, "sqlite_stat") => writes(rules),
        // Tools say IF NOT EXISTS of what they need, and SQLite asks before it looks.
        AuthAction::CreateTable { table_name } if !rules.read_only => changes_schema(table_name, rules)
            .map_err(|refusal| Refusal { unless_exists: Some(table_name.to_owned()), ..refusal }),
        AuthAction::AlterTable { table_name, .. } if temporary => makes_temporary(table_name, rules),
        AuthAction::CreateTable { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::DropVtable { table_name, .. }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::DropIndex { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::DropTrigger { table_name, .. } => changes_schema(table_name, rules),
        AuthAction::CreateView { view_name } | AuthAction::DropView { view_name } => changes_schema(view_name, rules),
        AuthAction::CreateVtable { table_name, module_name } => match is_one_of(module_name, MODULES) {
            true => changes_schema(table_name, rules),
            false => refuse(format!("virtual tables of the module {module_name} are not available here")),
        },
        _ => refuse("this statement is not available here"),
    }
}

fn refuse<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { message: message.into(), code: "SQLITE_AUTH", unless_exists: None })
}

fn read_only<T>() -> Result<T, Refusal> {
    let message = "this may only read, and the statement writes".to_owned();
    Err(Refusal { message, code: "SQLITE_READONLY", unless_exists: None })
}

pub(super) fn refuse_write(rules: &Rules) -> Result<(), Refusal> {
    if rules.read_only { read_only() } else { Ok(()) }
}

fn writes<'a>(rules: &Rules) -> Result<Effect<'a>, Refusal> {
    refuse_write(rules).map(|()| Effect::None)
}

fn unprotected<'a>(table: &str) -> Result<Effect<'a>, Refusal> {
    match starts_with(table, OWN) || is_one_of(table, &HISTORY_TABLES) {
        true => refuse(format!("the table {table} is the server's and may only be read")),
        false => Ok(Effect::None),
    }
}

/// What a trigger's body or a new name does is judged where it runs, and the server's own statements run, too: neither
/// may name the server's tables.
pub(super) fn names_no_protected(sql: &str) -> Result<(), String> {
    let sql = sql.to_ascii_lowercase();
    match std::iter::once(OWN).chain(HISTORY_TABLES).find(|name| sql.contains(name)) {
        Some(name) => Err(format!("a trigger and a new name may not have {name} in it: that is the server's")),
        None => Ok(()),
    }
}

fn makes_temporary<'a>(name: &str, rules: &Rules) -> Result<Effect<'a>, Refusal> {
    writes(rules)?;
    if !rules.temp {
        return refuse("temporary tables are possible in an interactive transaction only; begin one first");
    }
    unprotected(name)
}

fn changes_schema<'a>(name: &str, rules: &Rules) -> Result<Effect<'a>, Refusal> {
    writes(rules)?;
    if !rules.ddl {
        return refuse(
            "the schema is the same for all users and is not changed here: put the change into the folder of migrations \
             that CUBBY_MIGRATIONS names, or set CUBBY_SQL_DDL=allow for development",
        );
    }
    unprotected(name)
}

fn pragma<'a>(name: &'a str, value: Option<&'a str>, rules: &Rules) -> Result<Effect<'a>, Refusal> {
    match value {
        _ if is_one_of(name, ASKED) => Ok(Effect::None),
        None if is_one_of(name, SETTINGS) || name.eq_ignore_ascii_case("user_version") => Ok(Effect::None),
        Some(value) if is_one_of(name, SETTINGS) => Ok(Effect::Sets(name, value)),
        Some(_) if name.eq_ignore_ascii_case("user_version") => {
            refuse("PRAGMA user_version is the server's and may only be read: it says which migrations have run")
        }
        _ if name.eq_ignore_ascii_case("optimize") => writes(rules),
        _ => refuse(format!("PRAGMA {name} is not available here")),
    }
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|other| other.eq_ignore_ascii_case(name))
}

fn starts_with(name: &str, prefix: &str) -> bool {
    name.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

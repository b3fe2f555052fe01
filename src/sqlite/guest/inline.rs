//! What a guest may run on a thread that serves others too: what is surely done in no time. Everything else is refused
//! there as out of time, and runs again on a thread that may block.
//!
//! A function is called between two looks at the clock, and preparing has none. So texts, values and memory have bounds
//! there under which each of these takes microseconds, and a function is known to take a time of its arguments' length.

use rusqlite::hooks::AuthAction;

use super::model::Rules;

/// The longest statement, in bytes.
pub(super) const LONGEST: usize = 8 << 10;

/// The longest string, blob or row, in bytes.
const LONGEST_VALUE: i32 = 64 << 10;

/// The most memory, in bytes: preparing takes time as it takes memory.
const MEMORY: usize = 2 << 20;

/// Functions that take no more time than to look at their arguments. `count` is not among them: without a condition it
/// walks the whole table in one instruction.
const FUNCTIONS: &[&str] = &[
    "->",
    "->>",
    "abs",
    "avg",
    "changes",
    "coalesce",
    "concat",
    "concat_ws",
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "datetime",
    "hex",
    "if",
    "ifnull",
    "iif",
    "instr",
    "json",
    "json_array",
    "json_array_length",
    "json_extract",
    "json_group_array",
    "json_group_object",
    "json_object",
    "json_quote",
    "json_type",
    "json_valid",
    "julianday",
    "last_insert_rowid",
    "length",
    "likely",
    "lower",
    "ltrim",
    "max",
    "min",
    "nullif",
    "octet_length",
    "quote",
    "random",
    "replace",
    "round",
    "rtrim",
    "sign",
    "strftime",
    "substr",
    "substring",
    "sum",
    "time",
    "total",
    "total_changes",
    "trim",
    "typeof",
    "unicode",
    "unixepoch",
    "unlikely",
    "upper",
];

/// Pragmas that look at the whole file.
const PRAGMAS: &[&str] = &["integrity_check", "quick_check", "foreign_key_check", "optimize"];

/// The rules on such a thread.
pub(super) fn reduce(rules: &Rules) -> Rules {
    Rules { memory: rules.memory.min(MEMORY), value_bytes: rules.value_bytes.min(LONGEST_VALUE), ..rules.clone() }
}

/// Whether an action is done in no time, or looks at the clock meanwhile.
pub(super) fn is_cheap(action: &AuthAction<'_>) -> bool {
    let is_one_of = |name: &str, names: &[&str]| names.iter().any(|other| other.eq_ignore_ascii_case(name));
    match action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Savepoint { .. } => true,
        // Of the schema's table: a part of CREATE or DROP.
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } => !table_name.starts_with("sqlite_"),
        AuthAction::Function { function_name } => is_one_of(function_name, FUNCTIONS),
        AuthAction::Pragma { pragma_name, .. } => !is_one_of(pragma_name, PRAGMAS),
        _ => false,
    }
}

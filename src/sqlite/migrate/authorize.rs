//! What a migration may not do: it would leave half of itself in the file after a failure, or the file could not be
//! opened again.

use rusqlite::hooks::{AuthAction, TransactionOperation};

/// Why an action is refused; none for one that is allowed. `history` is the table in which the migrations' tool looks
/// for what has run.
pub(super) fn refusal(action: AuthAction, history: Option<&str>) -> Option<String> {
    let is_history = |table: &str| history.is_some_and(|history| history.eq_ignore_ascii_case(table));
    match action {
        AuthAction::Transaction { operation } => {
            let word = match operation {
                TransactionOperation::Begin => "BEGIN",
                TransactionOperation::Rollback => "ROLLBACK",
                _ => "COMMIT (or END)",
            };
            Some(format!("it says {word}; the transaction it runs in must not be ended, remove that"))
        }
        AuthAction::Pragma { pragma_name, pragma_value: Some(value) } => {
            let pragma = pragma_name.to_ascii_lowercase();
            let kept = match pragma.as_str() {
                // Marks of the file, settings of the connection, and limits of the whole process.
                "application_id" | "locking_mode" | "query_only" | "wal_autocheckpoint" | "soft_heap_limit"
                | "hard_heap_limit" => true,
                "journal_mode" => !value.eq_ignore_ascii_case("wal"),
                _ => false,
            };
            kept.then(|| format!("it sets PRAGMA {pragma}, which is the server's; remove that"))
        }
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
            if table_name.starts_with("cubby_") =>
        {
            Some(format!("it changes the table {table_name}, which is the server's; remove that"))
        }
        AuthAction::CreateTable { table_name }
        | AuthAction::CreateView { view_name: table_name }
        | AuthAction::CreateTempTable { table_name }
        | AuthAction::CreateTempView { view_name: table_name }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
            if is_history(table_name) =>
        {
            Some(format!("it changes the table {table_name}, where the server writes what has run; remove that"))
        }
        // The server's bookkeeping would be written to it, and be lost with the connection.
        AuthAction::CreateTempTable { table_name: name } | AuthAction::CreateTempView { view_name: name }
            if ["cubby_", "refinery_"].iter().any(|prefix| name.to_ascii_lowercase().starts_with(prefix)) =>
        {
            Some(format!("it makes a temporary {name}, which would hide the server's; give it another name"))
        }
        _ => None,
    }
}

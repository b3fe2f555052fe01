//! What a connection is set to while a guest has it, and what it is set back to.

use rusqlite::{Connection, config::DbConfig, limits::Limit};

use super::model::Rules;
use crate::error::Result;

/// The limits that need no setting: of the depth of expressions, the parts of a compound, the instructions of a
/// compiled statement, triggers that trigger themselves, and the arguments of a function. And the length of a pattern
/// of `LIKE` and `GLOB`, which take a time of its product with the text's: a second for one of 5 MB made for that.
const FIXED: [(Limit, i32); 6] = [
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
    (Limit::SQLITE_LIMIT_VDBE_OP, 500_000),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 127),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100),
];

/// The limits that a connection had before.
pub(super) struct Limits(Vec<(Limit, i32)>);

impl Limits {
    /// Sets those of a guest.
    pub fn apply(conn: &Connection, rules: &Rules) -> Result<Self> {
        let value = rules.value_bytes.min(conn.limit(Limit::SQLITE_LIMIT_LENGTH)?);
        let given = [
            // SQLite looks at this one for a text that it parses, and the length of a value binds it, too.
            (Limit::SQLITE_LIMIT_SQL_LENGTH, rules.sql_bytes),
            (Limit::SQLITE_LIMIT_LENGTH, value),
            (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, rules.arguments),
        ];
        let mut before = Self(Vec::with_capacity(given.len() + FIXED.len()));
        for (limit, value) in given.into_iter().chain(FIXED) {
            let was = conn.set_limit(limit, value)?;
            before.0.push((limit, was));
        }
        Ok(before)
    }

    pub fn restore(&self, conn: &Connection) -> Result<()> {
        self.0.iter().try_for_each(|(limit, was)| Ok(conn.set_limit(*limit, *was).map(drop)?))
    }
}

/// The most that the temporary tables of a transaction may take, in bytes: there may be a thousand of these.
const TEMPORARY: usize = 8 << 20;

/// Bounds what temporary tables may take, which are in memory.
pub(super) fn bound_temporary(conn: &Connection, bytes: usize) -> Result<()> {
    let pages = bytes.min(TEMPORARY) as u64 / crate::sqlite::PAGE_SIZE;
    Ok(conn.query_row(&format!("PRAGMA temp.max_page_count={}", pages.max(16)), [], |_| Ok(()))?)
}

/// Whether foreign keys are enforced from now on, in a transaction, too.
pub(super) fn enforce_foreign_keys(conn: &Connection, on: bool) -> Result<()> {
    if conn.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)? != on {
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, on)?;
    }
    Ok(())
}

/// Sets pragmas back to what this program's connections have.
pub(super) fn reset(conn: &Connection, pragmas: &[String]) -> Result<()> {
    for pragma in pragmas.iter().filter(|name| *name != "foreign_keys") {
        conn.execute_batch(&format!("PRAGMA {pragma}=OFF"))?;
    }
    Ok(())
}

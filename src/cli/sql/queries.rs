//! What the console asks by itself.

/// The tables and views, for `.tables`.
pub const TABLES: &str = "SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE \
                          'sqlite\\_%' ESCAPE '\\' ORDER BY name";

/// The statements that made everything, for `.schema`.
pub const SCHEMA: &str = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY tbl_name, type <> 'table', name";

/// The same of one table, in any case, for `.schema TABLE`.
pub const SCHEMA_OF: &str = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND lower(tbl_name) = lower(?) ORDER BY \
                             type <> 'table', name";

//! What is told of a database.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cell::Cell;

/// What a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// One with rows of its own.
    Table,
    /// A view.
    View,
    /// A virtual table.
    Virtual,
    /// One in which a virtual table keeps its content.
    Shadow,
}

/// A column of a table or view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ColumnInfo {
    /// Its name.
    pub name: String,
    /// The type that is declared for it.
    pub declared: String,
    /// Whether it may be null.
    pub nullable: bool,
    /// Its default, as SQL.
    pub default: Option<String>,
    /// Its place in the primary key, from 1; 0 if it is not in it.
    pub key: u32,
    /// Whether it is computed from others.
    pub computed: bool,
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IndexInfo {
    /// Its name.
    pub name: String,
    /// Its columns in their order; null for an expression.
    pub columns: Vec<Option<String>>,
    /// Whether no two rows may have the same values.
    pub unique: bool,
    /// Whether it has some rows only.
    pub partial: bool,
}

/// A table or view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableInfo {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: TableKind,
    /// Its columns; none if they cannot be told, as of a view over a table that is not there.
    pub columns: Vec<ColumnInfo>,
    /// Its indexes.
    pub indexes: Vec<IndexInfo>,
    /// How many rows it has: null where they are not counted, as of views, and where that took too long.
    pub rows: Option<u64>,
    /// Whether it has more rows, which are not counted.
    pub more_rows: bool,
    /// The statement that made it, if it is short.
    pub sql: Option<String>,
}

/// The tables and views of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableList {
    /// In the order of their names.
    pub tables: Vec<TableInfo>,
    /// Whether there are more, which are not listed.
    pub more: bool,
}

/// Rows of a table or view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowPage {
    /// The table, whose rows are not counted.
    pub table: TableInfo,
    /// The columns that rows have values of.
    pub columns: Vec<String>,
    /// The rows, in the order of their keys.
    #[schema(value_type = Vec<Vec<Cell>>)]
    pub rows: Vec<Vec<Cell>>,
    /// How many rows came before these on earlier pages.
    pub before: u64,
    /// The `cursor` of the next page; none on the last one.
    pub next_cursor: Option<String>,
}

/// The answer to a SELECT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Selected {
    /// The names of its columns.
    pub columns: Vec<String>,
    /// Its rows.
    #[schema(value_type = Vec<Vec<Cell>>)]
    pub rows: Vec<Vec<Cell>>,
    /// Whether there are more rows, which are not in this answer.
    pub more: bool,
}

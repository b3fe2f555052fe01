//! What is in a database, for somebody who only looks: its tables and views, their rows by page, the answer to one SELECT.
//!
//! All of it runs as a guest's SQL that may only read ([`guest`](super::guest)), within one bound of time and memory: views,
//! defaults and virtual tables of the file are somebody else's SQL, too.

mod ask;
mod cell;
mod model;
mod rows;
mod select;
mod tables;

pub use self::{
    ask::look,
    cell::Cell,
    model::{ColumnInfo, IndexInfo, RowPage, Selected, TableInfo, TableKind, TableList},
    rows::{Place, page},
    select::{csv, select},
    tables::list,
};

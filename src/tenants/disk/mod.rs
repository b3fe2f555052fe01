//! Tenants' files: where they are, how they are placed, moved and erased, and what they lock.
//!
//! | module | decides |
//! |---|---|
//! | [`path`] | where a tenant's file is |
//! | [`files`] | placing, moving and erasing a file together with its write-ahead log |
//! | [`template`] | what a new file holds |
//! | [`inspect`] | what a file says of itself, read without changing it |
//! | [`lock`] | one process for a data folder |

pub mod files;
pub mod inspect;
pub mod lock;
pub mod path;
pub mod template;

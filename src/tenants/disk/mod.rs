//! Tenants' files on disk.
//!
//! | module | decides |
//! |---|---|
//! | [`path`] | where a tenant's file is |
//! | `files` | placing, moving and erasing a file together with its write-ahead log |
//! | [`template`] | what a new file holds |
//! | `inspect` | reading a file that nobody serves, without changing it |
//! | `lock` | one process for a data folder |

pub(crate) mod files;
pub(crate) mod inspect;
pub(crate) mod lock;
pub mod path;
pub mod placing;
#[doc(hidden)]
pub mod template;

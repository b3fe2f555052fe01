//! Tenants' files on disk.
//!
//! | module | decides |
//! |---|---|
//! | [`path`] | where a tenant's file is |
//! | `files` | placing, moving and erasing a file together with its write-ahead log |
//! | [`template`] | what a new file holds |
//! | `inspect` | reading a file that nobody serves, without changing it |
//! | `lock` | one process for a data folder |
//! | [`marker`] | whether all files are there, or are still restored |

pub(crate) mod files;
pub(crate) mod inspect;
pub(crate) mod lock;
pub mod marker;
pub mod path;
pub mod placing;
#[doc(hidden)]
pub mod template;

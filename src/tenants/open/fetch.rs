//! Files that a data folder does not have yet, and somebody who knows where they are.

use std::{fmt, path::Path, sync::Arc};

use crate::{error::Result, tenants::id::TenantId};

/// Knows where files are that a data folder does not have yet.
pub trait Fetch: Send + Sync {
    /// Writes the whole database of a tenant to `into`, which is made, and looks through it. Gives its length; none if there
    /// is nothing of the tenant. What is there after an error is of no use. May block for long.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) if it cannot be made whole; after others it is worth another try.
    fn fetch(&self, id: &TenantId, into: &Path) -> Result<Option<u64>>;

    /// Ends what is being fetched, and whatever is asked later, with an error.
    fn stop(&self);
}

/// Whoever fetches files for a store.
#[derive(Clone)]
pub struct Fetcher(pub Arc<dyn Fetch>);

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fetcher")
    }
}

/// What became of a file that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It was there, or there is none to be had.
    There,
    /// It has its place now. Its length.
    New(u64),
    /// There is to be one, and nothing of it is anywhere.
    Nothing,
}

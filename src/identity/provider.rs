//! What is asked of the identity provider.

use futures_util::future::BoxFuture;

use super::user::User;
use crate::{error::Result, tenants::id::TenantId};

/// Knows who exists.
///
/// Every error is [`ErrorKind::Provider`](crate::ErrorKind::Provider): that it did not answer as it
/// should says nothing of any user.
pub trait Provider: Send + Sync {
    /// Whether an id may be one of its users': `false` for one that it would never give to anybody, about
    /// which it need not be asked.
    fn may_have(&self, _id: &TenantId) -> bool {
        true
    }

    /// One user, asked for while somebody waits. `None`: there is none.
    fn get<'a>(&'a self, id: &'a TenantId) -> BoxFuture<'a, Result<Option<User>>>;

    /// How many users there are.
    fn count(&self) -> BoxFuture<'_, Result<u64>>;

    /// Users in the order of their creation: those after the first of `after` who still exists, or
    /// from the beginning. The first page has none; for the others it is what the page before said.
    fn page<'a>(&'a self, after: &'a [String]) -> BoxFuture<'a, Result<Page>>;

    /// Those of up to [`AMONG`] ids who exist.
    fn among<'a>(&'a self, ids: &'a [TenantId]) -> BoxFuture<'a, Result<Vec<User>>>;
}

/// How many ids may be asked for at once.
pub const AMONG: usize = 100;

/// Part of the list of all users.
#[derive(Debug, Default)]
pub struct Page {
    /// Users.
    pub users: Vec<User>,
    /// The ids of those who cannot be tenants.
    pub unusable: Vec<String>,
    /// Where the next page begins: after the first of these who still exists by then. None: this was
    /// the last.
    pub next: Vec<String>,
}

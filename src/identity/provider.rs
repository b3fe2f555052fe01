//! The requests that an identity provider must answer.

use futures_util::future::BoxFuture;

use super::user::User;
use crate::{error::Result, tenants::id::TenantId};

/// An identity provider's user directory.
///
/// Every error is [`ErrorKind::Provider`](crate::ErrorKind::Provider) and tells nothing of any user.
pub trait Provider: Send + Sync {
    /// Whether the provider could have issued this id. `false` saves the request.
    fn may_have(&self, _id: &TenantId) -> bool {
        true
    }

    /// One user, with few retries, since a request waits for it. `None`: the provider has no such user.
    fn get<'a>(&'a self, id: &'a TenantId) -> BoxFuture<'a, Result<Option<User>>>;

    /// The number of users.
    fn count(&self) -> BoxFuture<'_, Result<u64>>;

    /// A page of users in the order of their creation, after the first of the cursors `after` that still exists. The
    /// first page has no cursors; the others have those of the page before.
    fn page<'a>(&'a self, after: &'a [String]) -> BoxFuture<'a, Result<Page>>;

    /// The users that exist among up to [`AMONG`] ids.
    fn among<'a>(&'a self, ids: &'a [TenantId]) -> BoxFuture<'a, Result<Vec<User>>>;
}

/// The most ids in one request.
pub const AMONG: usize = 100;

/// A page of the list of all users.
#[derive(Debug, Default)]
pub struct Page {
    /// Users.
    pub users: Vec<User>,
    /// Ids that cannot be a tenant's.
    pub unusable: Vec<String>,
    /// The cursors of the next page; empty for the last page.
    pub next: Vec<String>,
}

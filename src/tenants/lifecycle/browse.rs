//! Reading a tenant's database for an operator, whatever its state, and changing nothing.

use std::time::Duration;

use rusqlite::Connection;

use crate::{
    catalog::model::{Row, State},
    error::{Error, ErrorKind, Result},
    sqlite::reading,
    tenants::{id::TenantId, store::Store},
};

/// How long a database is read while it is closed: its tenant's requests and operators' changes wait.
const CLOSED: Duration = Duration::from_secs(1);

impl Store {
    /// Reads a tenant's database within `limit`. Nothing is created and nothing migrated: a database that has an older
    /// schema, or is suspended or deleted, is read where it is while it is closed, for a second at most, since whoever
    /// needs it waits for that.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTenant`] if there is none; [`ErrorKind::Conflict`] if it is quarantined or nothing is left of
    /// it; as [`Tenant::read_long`](crate::Tenant::read_long).
    pub async fn look<T, F>(&self, id: &TenantId, limit: Duration, work: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let row = self.find(id).await?.ok_or_else(Error::unknown_tenant)?;
        match row.state {
            State::Quarantined => return Err(unreadable(&row)),
            State::Suspended | State::Deleted => {}
            State::Active => {
                if let Some(tenant) = self.lease_as_is(id).await? {
                    return tenant.read_long(limit, work).await;
                }
            }
        }
        self.read_closed(id, limit.min(CLOSED), move |conn| reading::read(conn, work)).await
    }
}

fn unreadable(row: &Row) -> Error {
    let (id, reason) = (&row.id, row.reason.as_deref().unwrap_or("no reason is known"));
    let why = format!(
        "{id} is quarantined, and nothing is read from a file that may be damaged: {reason}. `cubby tenants path {id}` \
         names the file, and `cubby tenants resume {id}` tries it again"
    );
    Error::new(ErrorKind::Conflict, why)
}

//! What one tenant may use. An open database keeps to what its row said when it was opened, so one whose row says
//! something else now is closed, and the next request opens it anew.

use crate::{
    catalog::{
        audit::Author,
        model::Row,
        queries,
        quota::{Quota, QuotaChange},
    },
    error::{Error, Result},
    rate::Rate,
    sqlite::open::Options,
    tenants::{id::TenantId, open::slots::Peeked, options::StoreOptions, store::Store},
};

/// What is known of a tenant's own rate without a look into the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnRate {
    /// Its database is open, and has this one; none: as the settings say.
    Is(Option<Rate>),
    /// It is not open.
    Unknown,
}

impl Store {
    /// Sets what a tenant may use, over the settings for all, or takes that back. Waits for running requests.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) for a deleted tenant.
    pub async fn set_quota(&self, id: &TenantId, quota: QuotaChange, author: &Author) -> Result<Row> {
        let set = move |tx: &rusqlite::Transaction, id: &TenantId| queries::quota::set(tx, id, quota);
        self.change(id, author, "tenants quota", "its quota was set", set).await
    }

    /// What a tenant may use of its own: what an operator has set, and else what the provider's metadata says, if that
    /// is asked for. What is none is as the settings say.
    pub fn quota_of(&self, set: Quota, metadata: Option<&str>) -> Quota {
        quota_by(&self.inner.options, set, metadata)
    }

    /// The largest that a tenant's database may grow, in bytes, by its row; 0 for no bound.
    pub fn max_bytes_of(&self, row: &Row) -> u64 {
        max_bytes_by(&self.inner.options, row)
    }

    /// How a tenant's file is opened: as the settings say, with the bytes of its own.
    pub(in crate::tenants) fn options_of(&self, row: &Row) -> Options {
        Options { max_bytes: self.max_bytes_of(row), ..self.sqlite_options() }
    }

    /// The rate of a tenant's own, if its database is open.
    pub fn own_rate(&self, id: &TenantId) -> OwnRate {
        // Nobody has one: no look into the table of what is open.
        if !self.inner.own_rates.load(std::sync::atomic::Ordering::Relaxed) {
            return OwnRate::Unknown;
        }
        match self.inner.slots.peek(id) {
            Peeked::Open(open) => OwnRate::Is(open.look().0.quota().rate),
            Peeked::Absent | Peeked::Between => OwnRate::Unknown,
        }
    }

    /// Brings a tenant's open database to what the provider's metadata in the catalog say now. Call it after a commit
    /// that may have changed them. Does not wait for requests of the tenant.
    pub fn apply_metadata_quota(&self, id: &TenantId) {
        let inner = &self.inner;
        if inner.options.metadata_quota.is_none() || matches!(inner.slots.peek(id), Peeked::Absent) {
            return;
        }
        let (store, id) = (self.clone(), id.clone());
        inner.runtime.spawn(async move {
            match store.reopen_for_quota(&id).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(tenant = %id, error = %error, "its new quota counts from its next opening");
                }
            }
        });
    }

    async fn reopen_for_quota(&self, id: &TenantId) -> Result<()> {
        let row = self.find(id).await?.ok_or_else(Error::unknown_tenant)?;
        let quota = self.quota_of(row.quota, row.profile.provider_metadata.as_deref());
        match self.inner.slots.peek(id) {
            Peeked::Absent => Ok(()),
            Peeked::Open(open) if open.look().0.quota() == quota => Ok(()),
            // One that is being opened may have read the row before it was changed.
            Peeked::Between | Peeked::Open(_) => self.with_lock(id, |_, _, _| Ok(())).await.map(drop),
        }
    }
}

fn quota_by(options: &StoreOptions, set: Quota, metadata: Option<&str>) -> Quota {
    match (options.metadata_quota, metadata) {
        (Some(read), Some(metadata)) => set.or(read(metadata)),
        _ => set,
    }
}

/// As [`Store::max_bytes_of`], for a store that is being opened.
pub(in crate::tenants) fn max_bytes_by(options: &StoreOptions, row: &Row) -> u64 {
    let own = quota_by(options, row.quota, row.profile.provider_metadata.as_deref());
    own.bytes.unwrap_or(options.quota)
}

//! SQL on tenants' quotas.

use rusqlite::{Connection, Transaction, params};

use super::{Sql, change, one};
use crate::{catalog::quota::QuotaChange, tenants::id::TenantId};

/// Writes what an operator sets for a tenant that is not deleted.
pub fn set(tx: &Transaction, id: &TenantId, quota: QuotaChange) -> Sql<bool> {
    let sql = "UPDATE tenants SET quota_bytes = iif(?2, ?3, quota_bytes), quota_rate = iif(?4, ?5, quota_rate) WHERE \
               id = ?1 AND state <> 'deleted'";
    let bytes = quota.bytes.flatten().map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let rate = quota.rate.flatten().map(|rate| rate.to_string());
    change(tx, sql, params![id.as_str(), quota.bytes.is_some(), bytes, quota.rate.is_some(), rate])
}

/// The provider's public metadata of a tenant.
pub fn metadata(conn: &Connection, id: &TenantId) -> Sql<Option<String>> {
    let sql = "SELECT provider_metadata FROM tenants WHERE id = ?1";
    Ok(one(conn, sql, [id.as_str()], |row| row.get::<_, Option<String>>(0))?.flatten())
}

//! What tenants use, by day.

use serde::{Deserialize, Serialize};

use crate::{clock::day::Day, tenants::id::TenantId};

/// For how many days before today usage is kept.
pub const KEPT_DAYS: i64 = 366;

/// How often a tenant was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Count {
    /// Requests that reached its database.
    pub requests: u64,
    /// Writes that were committed.
    pub writes: u64,
}

impl Count {
    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.writes = self.writes.saturating_add(other.writes);
    }
}

/// What one tenant used on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DayUse {
    /// The day, in UTC.
    #[cfg_attr(feature = "server", schema(value_type = String, format = Date))]
    pub day: Day,
    /// The tenant.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub user_id: TenantId,
    /// The size of its file when it was last looked at on that day.
    pub bytes: u64,
    /// How often it was used.
    #[serde(flatten)]
    pub count: Count,
}

//! What one tenant may use, where that differs from the settings for all.

use serde::{Deserialize, Serialize};

use crate::rate::Rate;

/// What one tenant may use. What is none is as the settings for all say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Quota {
    /// The largest its database may grow, in bytes; 0 for no bound.
    pub bytes: Option<u64>,
    /// The requests it may make, such as `100/s:400`, or `off` for no bound.
    #[cfg_attr(feature = "server", schema(value_type = Option<String>))]
    pub rate: Option<Rate>,
}

impl Quota {
    /// This, and where this says nothing, `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { bytes: self.bytes.or(other.bytes), rate: self.rate.or(other.rate) }
    }
}

/// A change of what an operator has set for a tenant. The outer none leaves it, the inner one takes it back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuotaChange {
    /// The largest its database may grow.
    pub bytes: Option<Option<u64>>,
    /// The requests it may make.
    pub rate: Option<Option<Rate>>,
}

/// Reads what a provider's public metadata, JSON, says of a tenant's quota.
pub type ReadQuota = fn(&str) -> Quota;

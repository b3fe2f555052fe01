//! API keys in the catalog: everything but the keys themselves.

use serde::{Deserialize, Serialize};

use super::model::Millis;
use crate::{clock::wire, tenants::id::TenantId};

pub mod queries;

/// A key's row: enough to recognise the key, not to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KeyRow {
    /// The id by which it is revoked.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// Its last characters, to recognise a leaked key.
    pub hint: String,
    /// The only tenant it may access; all if none.
    #[cfg_attr(feature = "server", schema(value_type = Option<String>))]
    pub tenant: Option<TenantId>,
    /// Whether it may not write.
    pub read_only: bool,
    /// When it was created.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub created: Millis,
    /// When it expires.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub expires: Option<Millis>,
    /// When it was revoked.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub revoked: Option<Millis>,
    /// When it was last used, to the minute.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub last_used: Option<Millis>,
}

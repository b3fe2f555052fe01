//! API keys as the catalog has them: everything but the keys themselves.

use serde::{Deserialize, Serialize};

use super::model::Millis;
use crate::{clock::wire, tenants::id::TenantId};

pub mod queries;

/// What is known of a key. Enough to recognise it, not to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeyRow {
    /// What it is revoked by.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// Its last characters, to tell which key was found somewhere.
    pub hint: String,
    /// The only tenant it reaches; all if none.
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantId>,
    /// Whether it may not write.
    pub read_only: bool,
    /// When it was made.
    #[serde(with = "wire")]
    #[schema(value_type = String, format = DateTime)]
    pub created: Millis,
    /// When it ends.
    #[serde(with = "wire")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Millis>,
    /// When it was revoked.
    #[serde(with = "wire")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked: Option<Millis>,
    /// When it was last used, to the minute.
    #[serde(with = "wire")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used: Option<Millis>,
}

//! The catalog's rows: tenants, deliveries, API keys, the audit trail.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use crate::clock::Millis;
use crate::{catalog::quota::Quota, clock::wire, tenants::id::TenantId};

/// Whether and how a tenant may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In use.
    Active,
    /// Reads and writes are refused with the operator's reason.
    Suspended,
    /// Not found for its user; the file is kept until its retention ends.
    Deleted,
    /// The file could not be opened or migrated; it is kept as found.
    Quarantined,
}

impl State {
    /// Every state, in the order they are listed to people.
    pub const ALL: [Self; 4] = [Self::Active, Self::Suspended, Self::Deleted, Self::Quarantined];

    /// The state in the catalog, in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleted => "deleted",
            Self::Quarantined => "quarantined",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a state; use active, suspended, deleted or quarantined"))
    }
}

/// A tenant's profile, from the provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Profile {
    /// The primary email address. Data, never a key: two users may have one address.
    pub email: Option<String>,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// The name the user signs in with.
    pub username: Option<String>,
    /// The picture.
    pub image_url: Option<String>,
    /// The role; `client` unless the provider's public metadata has another.
    pub role: Option<String>,
    /// The user's own `updated_at`.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub provider_updated_at: Option<Millis>,
    /// The time of the newest event applied.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub provider_event_at: Option<Millis>,
    /// Public metadata, JSON.
    pub provider_metadata: Option<String>,
}

/// The role of a user without one.
pub const DEFAULT_ROLE: &str = "client";

impl Profile {
    /// Whether this is newer than `other`: by the user's own `updated_at`, then by the time of the
    /// event, then by content. The last makes the order total, so that of two
    /// profiles of one moment the same one wins in whatever order they come.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.age().cmp(&other.age()).then_with(|| self.content().cmp(&other.content())).is_gt()
    }

    /// Whether both have the same content, of whatever time.
    pub fn same_content(&self, other: &Self) -> bool {
        self.content() == other.content()
    }

    fn age(&self) -> (Option<Millis>, Option<Millis>) {
        (self.provider_updated_at, self.provider_event_at)
    }

    fn content(&self) -> [Option<&str>; 7] {
        [
            self.email.as_deref(),
            self.first_name.as_deref(),
            self.last_name.as_deref(),
            self.username.as_deref(),
            self.image_url.as_deref(),
            Some(self.role.as_deref().unwrap_or(DEFAULT_ROLE)),
            self.provider_metadata.as_deref(),
        ]
    }
}

/// A tenant's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Row {
    /// The id.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub id: TenantId,
    /// The state.
    pub state: State,
    /// Why suspended or quarantined.
    pub reason: Option<String>,
    /// How often in a row it was quarantined: since an operator resumed it, or it was healthy for as long as
    /// it had been quarantined.
    #[serde(rename = "faults")]
    pub consecutive_quarantines: u32,
    /// When a quarantined tenant is tried again: by its next request after that.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub retry_at: Option<Millis>,
    /// The newest fault of its file or of the disk; it may be over.
    pub fault: Option<String>,
    /// When that was.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub fault_at: Option<Millis>,
    /// When it was created.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub created: Millis,
    /// When it was deleted.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub deleted: Option<Millis>,
    /// When a deleted tenant's file may be removed.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub purge_after: Option<Millis>,
    /// When the file was removed.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub purged: Option<Millis>,
    /// When it was last restored after a deletion; deletions reported from before that are ignored. By a
    /// reconcile: the time up to which its list is complete.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub restored: Option<Millis>,
    /// The state of a deleted tenant after its restoration, if not active.
    pub state_before: Option<State>,
    /// The reason of that state.
    pub reason_before: Option<String>,
    /// When the provider last reported the deletion of a tenant that was deleted already.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub deletion_reported: Option<Millis>,
    /// When SQL last changed the schema of its file, which its migrations do not know.
    #[serde(default, with = "wire", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime, nullable = false))]
    pub drifted: Option<Millis>,
    /// The schema of its file when it was last opened.
    pub schema_version: Option<i32>,
    /// The size of its file when it was last looked at, when it was opened or closed.
    pub bytes: Option<u64>,
    /// The time of its last request, to some minutes; none if there was none yet.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub last_seen: Option<Millis>,
    /// When it was last backed up.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub last_backup: Option<Millis>,
    /// What an operator has set for it, over the settings for all.
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(inline))]
    pub quota: Quota,
    /// The workspace's name.
    pub workspace: String,
    /// The profile.
    #[serde(flatten)]
    pub profile: Profile,
}

/// How many tenants are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Counts {
    /// In use.
    pub active: u64,
    /// Suspended.
    pub suspended: u64,
    /// Deleted, purged ones included.
    pub deleted: u64,
    /// Quarantined.
    pub quarantined: u64,
}

/// A tenant's size and last use, taken when its file is closed; written in batches.
#[derive(Debug, Clone)]
pub struct UsageSample {
    /// The tenant.
    pub id: TenantId,
    /// The size of the file.
    pub bytes: u64,
    /// Its schema.
    pub schema_version: i32,
}

/// How a webhook delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum DeliveryOutcome {
    /// It created a tenant.
    Created,
    /// The tenant was there already.
    Exists,
    /// It changed a tenant's profile.
    Updated,
    /// It deleted a tenant.
    Deleted,
    /// It needs no action, or is older than the catalog's state.
    Ignored,
    /// It can never be applied.
    Rejected,
    /// Storage failed; the sender retries.
    Failed,
}

impl DeliveryOutcome {
    /// Every outcome.
    pub const ALL: [Self; 7] =
        [Self::Created, Self::Exists, Self::Updated, Self::Deleted, Self::Ignored, Self::Rejected, Self::Failed];

    /// The outcome in the catalog, in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Exists => "exists",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
            Self::Ignored => "ignored",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for DeliveryOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for DeliveryOutcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|outcome| outcome.as_str()).collect();
            format!("{text:?} is not an outcome; use one of {}", words.join(", "))
        })
    }
}

/// A webhook delivery to record.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The sender's id of the message; retries have the same one.
    pub svix_id: String,
    /// The event's type.
    pub kind: String,
    /// The user it is about.
    pub tenant: Option<TenantId>,
    /// When it was received.
    pub received: Millis,
    /// Its outcome.
    pub outcome: DeliveryOutcome,
    /// How long it took, in microseconds.
    pub duration_us: i64,
    /// Why it failed or was rejected.
    pub error: Option<String>,
    /// The answer, JSON.
    pub answer: Option<String>,
    /// The message, for replay. None for an erased user.
    pub body: Option<Bytes>,
}

/// A recorded webhook delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Recorded {
    /// The sender's id of the message.
    pub svix_id: String,
    /// The event's type.
    pub r#type: String,
    /// The user it is about.
    pub user_id: Option<String>,
    /// When it was first received.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub received: Millis,
    /// When it was last received.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub updated: Millis,
    /// Its outcome.
    pub outcome: DeliveryOutcome,
    /// How often it was tried.
    pub attempts: u32,
    /// How long the last attempt took, in microseconds.
    pub duration_us: Option<i64>,
    /// Why it failed or was rejected.
    pub error: Option<String>,
}

/// An API key's row: enough to recognise the key, not to use it.
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
    /// Whether it may send SQL.
    #[serde(default)]
    pub sql: bool,
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

/// A line of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AuditRow {
    /// Its number.
    pub id: i64,
    /// When.
    #[serde(with = "wire")]
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub at: Millis,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To whom.
    pub target: Option<String>,
    /// From where: an address, or the command line.
    pub origin: Option<String>,
    /// What came of it.
    pub result: String,
}

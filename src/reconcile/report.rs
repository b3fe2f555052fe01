//! The report of a run.

use serde::{Deserialize, Serialize};

/// The most entries that a list of a report names; its count is of all.
pub const NAMED: usize = 100;

/// How a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunOutcome {
    /// All is done.
    #[default]
    Done,
    /// All but the deletions, which were more than the limit.
    Held,
    /// Nothing: the plan differs from the one that was to be applied.
    Changed,
    /// It stopped: the provider did not answer as it should, or storage failed.
    Failed,
}

impl RunOutcome {
    /// The word in the catalog, in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Held => "held",
            Self::Changed => "changed",
            Self::Failed => "failed",
        }
    }
}

/// The phases of a run, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Fetches the provider's list. Nothing is changed.
    #[default]
    Listing,
    /// Creates, updates and restores.
    #[serde(rename = "mending")]
    Applying,
    /// Asks the provider for each absent user by id. Nobody is deleted before all were asked for.
    Asking,
    /// Deletes. The provider is not asked any more.
    Deleting,
    /// Looks for shared email addresses.
    Reporting,
}

impl Phase {
    /// The word in logs and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listing => "listing",
            Self::Applying => "mending",
            Self::Asking => "asking",
            Self::Deleting => "deleting",
            Self::Reporting => "reporting",
        }
    }
}

/// A list of which only the first [`NAMED`] entries are kept, and the number of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// The number of all entries.
    pub count: u64,
    /// The first entries.
    pub named: Vec<String>,
}

impl Entries {
    /// Adds an entry.
    pub fn add(&mut self, name: &(impl ToString + ?Sized)) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(name.to_string());
        }
    }

    /// Adds all entries of another list.
    pub fn add_all(&mut self, other: &Self) {
        self.count += other.count;
        let room = NAMED.saturating_sub(self.named.len());
        self.named.extend(other.named.iter().take(room).cloned());
    }
}

/// What a run found and did, or would do if it is a dry run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// The run's id.
    #[serde(default)]
    pub run: String,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Whether the limit on deletions was off.
    pub forced: bool,
    /// What the plan is known by, after a dry run or where a plan was to be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// When it started, RFC 3339.
    pub started: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The provider's own count of its users.
    pub provider_count: u64,
    /// The number of users that it listed.
    pub provider_listed: u64,
    /// Tenants that are not deleted, before the run.
    pub local_count: u64,
    /// Users that needed no step.
    pub unchanged: u64,
    /// At the provider and not in the catalog.
    pub created: Entries,
    /// In the catalog with an older profile.
    pub updated: Entries,
    /// Deleted in the catalog, and at the provider.
    pub restored: Entries,
    /// In the catalog and not at the provider.
    pub deleted: Entries,
    /// Not deleted, because they were more than the limit.
    pub held: Entries,
    /// Missing in the provider's list, but known when asked for by id: nothing was done.
    pub unlisted: Entries,
    /// Users that share an email address.
    pub shared_emails: Entries,
    /// Files of no tenant in the catalog; see `cubby doctor`.
    pub orphan_files: Entries,
    /// The provider's ids that cannot be a tenant's.
    pub unusable_ids: Entries,
    /// Steps that failed; the run went on.
    pub errors: Entries,
    /// Absent from the list, and not deleted, because the run stopped before the provider was asked for all.
    #[serde(default)]
    pub undone: Entries,
    /// The phase in which the run stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Phase>,
    /// Why the run stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Report {
    /// The number of differences between catalog and provider.
    pub fn differences(&self) -> u64 {
        let all = [&self.created, &self.updated, &self.restored, &self.deleted, &self.held];
        all.iter().map(|entries| entries.count).sum()
    }
}

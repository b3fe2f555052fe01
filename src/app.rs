//! The long-lived parts of a server, built from its configuration.

mod background;
mod replicate;
mod shared;

use std::sync::Arc;

use tokio::time::Instant;

use self::{replicate::Replication, shared::Shared};
use crate::{
    bulk::run::Bulks,
    catalog::quota::ReadQuota,
    clock::Clock,
    config::{DataConfig, ServeConfig, sql::SqlMode},
    error::{Error, Result},
    http::{door::Door, limits::Audience},
    identity::{Identity, clerk::Clerk, provider::Provider, user},
    log,
    reconcile::{health::Health, on_demand::OnDemand, run::Reconciler},
    rollout::run::Rollouts,
    sqlite::{PAGE_SIZE, combine, memory, migrate::Schema},
    telemetry::{metrics, recent::Recent},
    tenants::{open::feeds::FeedLimits, options::StoreOptions, store::Store},
};

/// What the server's routes share. Cloning shares it.
#[derive(Clone)]
pub struct App {
    inner: Arc<Shared>,
}

impl App {
    /// Opens the data folder and starts the background tasks.
    pub fn start(data: &DataConfig, config: ServeConfig) -> Result<Self> {
        let mut options = serving(data, &config)?;
        let replica = replicate::prepare(data, &config, &options.clock)?;
        options.log.tail = replica.tail();
        options.fetcher = replica.fetcher();
        let store = Store::open(options)?;
        replica.start(&store)?;
        Self::running(store, config, replica)
    }

    /// The same over a store that is open already, and is not replicated.
    pub fn over(store: Store, config: ServeConfig) -> Result<Self> {
        Self::running(store, config, Replication::default())
    }

    fn running(store: Store, config: ServeConfig, replica: Replication) -> Result<Self> {
        let app = Self::with(store, config, replica)?;
        tokio::spawn(background::save_uses(Arc::downgrade(&app.inner)));
        tokio::spawn(background::sweep(Arc::downgrade(&app.inner)));
        tokio::spawn(background::merge_search(Arc::downgrade(&app.inner)));
        tokio::spawn(background::sample(Arc::downgrade(&app.inner)));
        #[cfg(feature = "replicate")]
        if app.config().replicate.backup_to.is_some() {
            let every = app.config().replicate.backup_every;
            tokio::spawn(background::back_up(Arc::downgrade(&app.inner), every));
        }
        if let Some(every) = app.config().sync.sync_every {
            tokio::spawn(background::reconcile(Arc::downgrade(&app.inner), every));
        }
        Ok(app)
    }

    /// The parts over an open store. Nothing runs in the background.
    ///
    /// # Errors
    /// If the settings of authentication cannot be used, or SQL over HTTP is on and cannot be bounded.
    pub fn new(store: Store, config: ServeConfig) -> Result<Self> {
        Self::with(store, config, Replication::default())
    }

    fn with(store: Store, config: ServeConfig, replica: Replication) -> Result<Self> {
        if config.sql_mode() != SqlMode::Off && !memory::is_limited() {
            return Err(Error::config(
                "SQL over HTTP needs a budget of memory for each statement, and SQLite has none in this process: it was \
                 used before the store was opened, or StoreOptions::change_process is off. Open the store first, or set \
                 CUBBY_SQL=off",
            ));
        }
        let provider = Clerk::new(&config.sync.provider)?.map(|clerk| Arc::new(clerk) as Arc<dyn Provider>);
        let sync = &config.sync;
        let reconciler = Reconciler::new(store.clone(), provider.clone(), sync.provider.sync_max_delete);
        let on_demand = OnDemand::new(store.clone(), provider.clone(), sync.on_demand_limit);
        let expects = config.webhooks.clerk_webhook_secret.is_some();
        let health = Health::new(store.clone(), provider, sync.sync_warn, sync.sync_silence, expects);
        let door = Door::with(store, config, (audience, has_plain_problems, is_transfer), Some(on_demand))?;
        metrics::install()?;
        let callers = door.clone();
        let rollouts = Rollouts::new(door.store.clone(), move || callers.limits.in_flight() > 0);
        let callers = door.clone();
        let bulks = Bulks::new(door.store.clone(), move || callers.limits.in_flight() > 0);
        #[cfg(feature = "replicate")]
        let backups = {
            let callers = door.clone();
            let settings = crate::backup::run::Settings::from(&door.config.replicate);
            crate::backup::run::Backups::new(door.store.clone(), settings, move || callers.limits.in_flight() > 0)
        };
        Ok(Self {
            inner: Arc::new(Shared {
                door,
                reconciler,
                rollouts,
                bulks,
                health,
                replica,
                #[cfg(feature = "replicate")]
                backups,
                recent: Recent::default(),
                upkeep: Arc::default(),
            }),
        })
    }

    /// The tenants.
    pub fn store(&self) -> &Store {
        &self.inner.door.store
    }

    /// The settings.
    pub fn config(&self) -> &ServeConfig {
        &self.inner.door.config
    }

    /// The time of day.
    pub fn clock(&self) -> &Clock {
        self.inner.door.clock()
    }

    /// The toolkit's part.
    pub fn door(&self) -> &Door {
        &self.inner.door
    }

    /// Verifies callers' session tokens and API keys.
    pub fn identity(&self) -> &Identity {
        &self.inner.door.identity
    }

    /// Whether metrics and health need no operator's key: where callers are not authenticated, and only this
    /// machine reaches them.
    pub fn is_watched_openly(&self) -> bool {
        let inside = |address: std::net::SocketAddr| address.ip().is_loopback();
        self.identity().is_open() && self.config().limits.admin_listen.is_none_or(inside)
    }

    /// Reconciles the catalog with the provider.
    pub fn reconciler(&self) -> &Arc<Reconciler> {
        &self.inner.reconciler
    }

    /// Migrates all tenants.
    pub fn rollouts(&self) -> &Arc<Rollouts> {
        &self.inner.rollouts
    }

    /// Changes many tenants.
    pub fn bulks(&self) -> &Arc<Bulks> {
        &self.inner.bulks
    }

    /// Whether catalog and provider agree.
    pub fn health(&self) -> &Health {
        &self.inner.health
    }

    /// What replicates the data folder, if anything does.
    #[cfg(feature = "replicate")]
    pub fn replica(&self) -> Option<&Arc<crate::replica::running::Replica>> {
        self.inner.replica.running()
    }

    /// Makes backups.
    #[cfg(feature = "replicate")]
    pub fn backups(&self) -> &Arc<crate::backup::run::Backups> {
        &self.inner.backups
    }

    /// The metrics of the last hour.
    pub fn recent(&self) -> &Recent {
        &self.inner.recent
    }

    /// Takes a sample of the metrics now, besides those that are taken in the background.
    pub async fn sample(&self) {
        let inner = self.inner.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || inner.sample()).await {
            tracing::error!(error = %error, "a sample of the metrics was not taken");
        }
    }

    /// Closes all tenants and the catalog, in the reverse order of opening.
    pub async fn close(&self, until: Instant) -> usize {
        self.inner.door.start_draining();
        if tokio::time::timeout_at(until, self.inner.rollouts.end()).await.is_err() {
            tracing::warn!("a user's migration did not end in time");
        }
        if tokio::time::timeout_at(until, self.inner.bulks.end()).await.is_err() {
            tracing::warn!("a change of many users did not end in time");
        }
        #[cfg(feature = "replicate")]
        if tokio::time::timeout_at(until, self.inner.backups.end()).await.is_err() {
            tracing::warn!("a backup did not end in time");
        }
        // A background task that still runs would keep the data folder, and its lock.
        if tokio::time::timeout_at(until, self.inner.upkeep.write()).await.is_err() {
            tracing::warn!("a background task did not end in time");
        }
        let inner = self.inner.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || inner.save_uses(true)).await {
            tracing::error!(error = %error, "the last uses of API keys were not recorded");
        }
        let left = self.store().close(until).await;
        let inner = self.inner.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || inner.replica.stop()).await {
            tracing::error!(error = %error, "the replication was not stopped");
        }
        left
    }
}

impl AsRef<Door> for App {
    fn as_ref(&self) -> &Door {
        self.door()
    }
}

/// Whom each path is for.
fn audience(path: &str) -> Audience {
    match path {
        "/webhooks/clerk" | "/api/webhooks/clerk" => Audience::Senders,
        "/metrics" | "/admin" => Audience::Operators,
        _ if ["/admin/", "/api/admin/", "/api/health/"].iter().any(|start| path.starts_with(start)) => {
            Audience::Operators
        }
        _ => Audience::of(path),
    }
}

/// Whether a route, by its pattern, sends or takes a whole database.
fn is_transfer(pattern: &str) -> bool {
    matches!(
        pattern,
        "/api/admin/tenants/{user_id}/export"
            | "/api/admin/tenants/{user_id}/import"
            | "/api/admin/tenants/{user_id}/rewind"
            | "/api/admin/tenants/{user_id}/fork"
            | "/{user_id}/export"
    )
}

/// Whether clients of SQL over HTTP ask for a path: they read errors in a form of their own.
fn has_plain_problems(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    match (parts.next(), parts.next(), parts.next()) {
        _ if path.starts_with("/api/") => false,
        (Some("pipeline" | "cursor"), Some("v2" | "v3"), Some(_))
        | (Some("execute" | "batch"), Some("v1"), Some(_))
        | (Some("v2" | "v3" | "v3-protobuf" | "dump"), Some(_), Some(_))
        | (Some("sql"), Some(_), Some("")) => true,
        (_, _, Some("") | None) => false,
        _ => path.contains("/sql/"),
    }
}

/// The options of a store that a command opens: the data folder and its schema, with the library's defaults for
/// the rest.
pub fn store_options(data: &DataConfig) -> Result<StoreOptions> {
    let mut options = StoreOptions::new(&data.data);
    options.schema = data.migrations.as_deref().map(Schema::from_folder).transpose()?;
    options.retention = data.retention;
    options.metadata_quota = data.metadata_quota.then_some(user::quota as ReadQuota);
    Ok(options)
}

/// The same for the server's store, which has more settings.
fn serving(data: &DataConfig, config: &ServeConfig) -> Result<StoreOptions> {
    let defaults = store_options(data)?;
    Ok(StoreOptions {
        // A row is its text and a little more.
        max_value_bytes: defaults.max_value_bytes.max(config.notes.max_note_bytes.0 + (64 << 10)),
        max_open: config.max_open.map(|count| count as usize),
        idle: config.idle,
        quota: config.quota.0,
        cache_kib: u32::try_from(config.cache.0 >> 10).unwrap_or(u32::MAX).max(16),
        wait: config.open_timeout,
        limits: combine::Limits {
            queue: config.tenant_queue as usize,
            statement: config.statement_timeout,
            wal_pages: u32::try_from(config.wal_limit.0 / PAGE_SIZE).unwrap_or(u32::MAX),
            ..combine::Limits::default()
        },
        feeds: FeedLimits {
            listeners: config.changes_listeners() as usize,
            of_tenant: config.changes.changes_tenant_listeners as usize,
            events: config.changes.changes_events as usize,
            keep: config.changes.changes_keep,
        },
        log: log::Options { segment_bytes: config.log_segment.0, ..defaults.log },
        ..defaults
    })
}

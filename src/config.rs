//! Every setting: its flag, its environment variable, its default and its validation. No other module reads the
//! environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Command, FromArgMatches, ValueEnum, builder::Resettable};

use crate::error::{Error, Result};

pub mod backup;
pub mod browse;
pub mod changes;
pub mod console;
pub mod door;
pub mod endpoint;
pub mod environment;
pub mod export;
pub mod limits;
pub mod notes;
pub mod provider;
pub mod replicate;
pub mod sql;
pub mod told;
pub mod traces;
pub mod values;
pub mod webhooks;

pub use self::values::{Secret, Size, duration};

/// The data folder: for every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Data")]
pub struct DataConfig {
    /// The data folder
    #[arg(long, env = "CUBBY_DATA", default_value = "./data", value_name = "DIR", global = true)]
    pub data: PathBuf,

    /// Tenant migrations to use instead of those that ship with Cubby: a folder of V1__name.sql or 001_name.sql, or as
    /// Drizzle or Prisma writes it; a data folder keeps to its own
    #[arg(long, env = "CUBBY_MIGRATIONS", value_name = "DIR", global = true)]
    pub migrations: Option<PathBuf>,

    /// Whether a user's public metadata in Clerk set their quota and rate: public_metadata.cubby.quota and .rate
    #[arg(long, env = "CUBBY_METADATA_QUOTA", num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    #[arg(value_name = "BOOL", global = true)]
    pub metadata_quota: bool,

    /// How long a deleted user's file is kept
    #[arg(long, env = "CUBBY_RETENTION", default_value = "30d", value_name = "TIME", value_parser = duration, global = true)]
    pub retention: Duration,
}

/// Logs: for every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogConfig {
    /// What is logged: error, warn, info, debug, trace, or a filter such as "info,cubby=debug"
    #[arg(long, env = "CUBBY_LOG", default_value = "info", value_name = "FILTER", global = true)]
    pub log: String,

    /// How it is written; auto is text on a terminal and JSON otherwise
    #[arg(long, env = "CUBBY_LOG_FORMAT", default_value = "auto", value_name = "FORMAT", global = true)]
    pub log_format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// Who creates tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Provisioning {
    /// The first POST, webhooks and operators.
    Open,
    /// Webhooks and operators; other ids are unknown.
    Webhook,
    /// The first request of a user whom the identity provider has, webhooks and operators.
    OnDemand,
    /// The first request with a valid session token, webhooks and operators.
    OnProof,
}

/// How the server serves.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct ServeConfig {
    /// Address and port to listen on
    #[arg(long, env = "CUBBY_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,

    /// Serve on an address that others can reach although callers are not authenticated
    #[arg(long, env = "CUBBY_INSECURE", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_name = "BOOL")]
    pub insecure: bool,

    /// Who creates users' databases
    #[arg(long, env = "CUBBY_PROVISIONING", default_value = "open", value_name = "MODE")]
    pub provisioning: Provisioning,

    /// How many databases may be open at once [default: from the limit on descriptors]
    #[arg(long, env = "CUBBY_MAX_OPEN", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_open: Option<u32>,

    /// How long an open database may be unused before it is closed
    #[arg(long, env = "CUBBY_IDLE", default_value = "5m", value_name = "TIME", value_parser = duration)]
    pub idle: Duration,

    /// The largest a user's database may grow; 0 for no bound
    #[arg(long, env = "CUBBY_QUOTA", default_value = "1GiB", value_name = "SIZE")]
    pub quota: Size,

    /// The page cache of one open database
    #[arg(long, env = "CUBBY_CACHE", default_value = "1MiB", value_name = "SIZE")]
    pub cache: Size,

    /// Requests of one user that may wait for their database; more are answered 503
    #[arg(long, env = "CUBBY_TENANT_QUEUE", default_value_t = 1024, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub tenant_queue: u32,

    /// The largest a user's write-ahead log may grow while a long read keeps it from being emptied;
    /// then that read is stopped
    #[arg(long, env = "CUBBY_WAL_LIMIT", default_value = "64MiB", value_name = "SIZE")]
    pub wal_limit: Size,

    /// The length of a segment of the log, from 64KiB to 1GiB; up to four of them are redone after a crash
    #[arg(long, env = "CUBBY_LOG_SEGMENT", default_value = "64MiB", value_name = "SIZE")]
    pub log_segment: Size,

    /// How long the SQL of one request may run
    #[arg(long, env = "CUBBY_STATEMENT_TIMEOUT", default_value = "5s", value_name = "TIME", value_parser = duration)]
    pub statement_timeout: Duration,

    /// How long a request waits for a database that is opening, or for capacity to open it
    #[arg(long, env = "CUBBY_OPEN_TIMEOUT", default_value = "5s", value_name = "TIME", value_parser = duration)]
    pub open_timeout: Duration,

    /// How long a request may take, its body included
    #[arg(long, env = "CUBBY_REQUEST_TIMEOUT", default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub request_timeout: Duration,

    /// How long a client may take to send a request's header
    #[arg(long, env = "CUBBY_HEADER_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub header_timeout: Duration,

    /// The longest a request's header may be; it is read in pieces, so that one somewhat longer may pass
    #[arg(long, env = "CUBBY_MAX_HEADER_BYTES", default_value = "64KiB", value_name = "SIZE")]
    pub max_header_bytes: Size,

    /// How long a shutdown waits for requests in flight
    #[arg(long, env = "CUBBY_DRAIN_TIMEOUT", default_value = "20s", value_name = "TIME", value_parser = duration)]
    pub drain_timeout: Duration,

    /// Connections at once; more wait to be accepted
    #[arg(long, env = "CUBBY_MAX_CONNECTIONS", default_value_t = 4096, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Threads for blocking work: commits, opening and closing files
    #[arg(long, env = "CUBBY_BLOCKING_THREADS", default_value_t = 64, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(4..=4096))]
    pub blocking_threads: u32,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would replace the heading in --help")]
    pub webhooks: webhooks::WebhookConfig,

    /// The operator's key for /api/admin; without it the admin API is off
    #[arg(long, env = "ADMIN_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub admin_api_key: Option<Secret>,

    /// The program that reads files to be imported, in a process of its own; none for the one that runs.
    #[arg(skip)]
    pub program: Option<PathBuf>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would replace the heading in --help")]
    pub door: door::DoorConfig,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would replace the heading in --help")]
    pub limits: limits::LimitsConfig,

    /// Synchronization with the provider.
    #[command(flatten)]
    pub sync: provider::SyncConfig,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would replace the heading in --help")]
    pub notes: notes::NotesConfig,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would replace the heading in --help")]
    pub sql: sql::SqlConfig,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would replace the heading in --help")]
    pub changes: changes::ChangesConfig,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would replace the heading in --help")]
    pub export: export::ExportConfig,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would replace the heading in --help")]
    pub browse: browse::BrowseConfig,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would replace the heading in --help")]
    pub replicate: replicate::ReplicateConfig,

    /// What is set and from where, for operators to read; empty if no command line was read.
    #[arg(skip)]
    pub told: Vec<told::Setting>,
}

/// The least quota, in bytes: a new database must fit, with the tables of the migrations.
const MIN_QUOTA: u64 = 64 << 10;

/// The least characters of `ADMIN_API_KEY`: fewer could be guessed.
const MIN_ADMIN_KEY: usize = 16;

impl ServeConfig {
    /// The settings of a server that is given none: neither a flag nor an environment variable is read.
    ///
    /// # Errors
    /// None that is not a fault of this program.
    pub fn defaults() -> Result<Self> {
        let unread = |arg: clap::Arg| arg.env(Resettable::Reset);
        let command = Self::augment_args(Command::new("cubby").no_binary_name(true)).mut_args(unread);
        let matches = command.try_get_matches_from([""; 0]);
        let config = matches.and_then(|matches| Self::from_arg_matches(&matches));
        config.map_err(|e| Error::internal("the settings have no defaults").with_source(e))
    }

    /// Who may send SQL: where nobody authenticates and only this machine comes in, everybody, if not said otherwise.
    pub fn sql_mode(&self) -> sql::SqlMode {
        let inside = self.listen.ip().is_loopback() && self.limits.trusted_proxies.0.is_empty();
        self.sql.mode(inside && self.door.auth.is_open())
    }

    /// Clients that may listen to changes.
    pub fn changes_listeners(&self) -> u32 {
        self.changes.listeners(self.max_connections)
    }

    /// Refuses unsafe and contradictory settings; the error names the setting that would allow them.
    pub fn validate(&self) -> Result<()> {
        self.door.validate()?;
        self.limits.validate()?;
        self.sync.validate()?;
        if self.provisioning == Provisioning::OnDemand && self.sync.provider.clerk_secret_key.is_none() {
            return Err(Error::config(
                "CUBBY_PROVISIONING=on-demand needs CLERK_SECRET_KEY: Clerk is asked who exists",
            ));
        }
        if !self.listen.ip().is_loopback() && self.door.auth.is_open() && !self.insecure {
            return Err(Error::config(format!(
                "refusing to listen on {}: callers are not authenticated, so anyone who reaches this address could \
                 read and write every user's data. Set CUBBY_AUTH to jwt or keys, or listen on 127.0.0.1, or pass \
                 --insecure (CUBBY_INSECURE=true) if something in front authenticates them",
                self.listen
            )));
        }
        // With port 0 each gets one of its own.
        if self.limits.admin_listen == Some(self.listen) && self.listen.port() != 0 {
            return Err(Error::config(format!(
                "--listen and --admin-listen are both {}: give operators another port with --admin-listen \
                 (CUBBY_ADMIN_LISTEN)",
                self.listen
            )));
        }
        if (1..MIN_QUOTA).contains(&self.quota.0) {
            return Err(Error::config(
                "--quota (CUBBY_QUOTA): from 64KiB, or a new database does not fit; 0 for no bound",
            ));
        }
        if self.provisioning == Provisioning::OnProof && !self.door.auth.takes_tokens() {
            return Err(Error::config(
                "--provisioning on-proof: the proof is a session token, so it needs CUBBY_AUTH=jwt or jwt+keys",
            ));
        }
        if self.provisioning == Provisioning::Webhook && self.webhooks.clerk_webhook_secret.is_none() {
            tracing::warn!(
                "provisioning is by webhook, but CLERK_WEBHOOK_SECRET is not set: only `cubby tenants create` can \
                 create users' databases"
            );
        }
        if self.admin_api_key.as_ref().is_some_and(|key| key.reveal().trim().len() < MIN_ADMIN_KEY) {
            return Err(Error::config(format!(
                "ADMIN_API_KEY has fewer than {MIN_ADMIN_KEY} characters and could be guessed; make one with \
                 `openssl rand -hex 32`"
            )));
        }
        if self.webhooks.hookdeck_signing_secret.is_some() && self.webhooks.clerk_webhook_secret.is_none() {
            return Err(Error::config(
                "HOOKDECK_SIGNING_SECRET is set, but CLERK_WEBHOOK_SECRET is not: Hookdeck forwards Clerk's own \
                 signature, and both are verified",
            ));
        }
        // From hyper's minimum to a mebibyte.
        if !(8 << 10..=1 << 20).contains(&self.max_header_bytes.0) {
            return Err(Error::config("--max-header-bytes: from 8KiB to 1MiB"));
        }
        if !(64 << 10..=1 << 30).contains(&self.log_segment.0) {
            return Err(Error::config("--log-segment: from 64KiB to 1GiB"));
        }
        self.replicate.validate()?;
        self.sql.validate(self.door.auth)?;
        self.changes.validate(self.max_connections)?;
        self.notes.validate()
    }
}

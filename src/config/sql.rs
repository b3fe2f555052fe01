//! Settings of SQL over HTTP.

use std::time::Duration;

use clap::{Args, Command, FromArgMatches, ValueEnum};

use super::{Size, door::AuthMode, duration};
use crate::{
    error::{Error, Result},
    sqlite::guest::Rules,
};

/// Who may send SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SqlMode {
    /// Nobody.
    Off,
    /// API keys made with `cubby keys create --sql`.
    Backend,
    /// These, and a session token for its own user's database.
    Users,
}

/// Whether SQL may change a user's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SqlDdl {
    /// It may not: schemas change by migrations.
    Deny,
    /// It may, for development; the user's schema is then marked as drifted.
    Allow,
}

/// SQL over HTTP.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "SQL over HTTP")]
pub struct SqlConfig {
    /// Who may send SQL to users' databases [default: off; backend on loopback without authentication]
    #[arg(long, env = "CUBBY_SQL", value_name = "MODE")]
    pub sql: Option<SqlMode>,

    /// Whether SQL may change users' schemas (CREATE, ALTER, DROP)
    #[arg(long, env = "CUBBY_SQL_DDL", default_value = "deny", value_name = "MODE")]
    pub sql_ddl: SqlDdl,

    /// How long the SQL of one request may run
    #[arg(long, env = "CUBBY_SQL_TIME", default_value = "5s", value_name = "TIME", value_parser = duration)]
    pub sql_time: Duration,

    /// The largest a value may be that SQL stores or reads
    #[arg(long, env = "CUBBY_SQL_VALUE", default_value = "5MB", value_name = "SIZE")]
    pub sql_value: Size,

    /// The largest an answer to SQL may be
    #[arg(long, env = "CUBBY_SQL_ANSWER", default_value = "10MB", value_name = "SIZE")]
    pub sql_answer: Size,

    /// The memory that one statement may take, its preparation included
    #[arg(long, env = "CUBBY_SQL_MEMORY", default_value = "64MiB", value_name = "SIZE")]
    pub sql_memory: Size,

    /// How long a transaction over several requests may wait for its next one; then it is rolled back
    #[arg(long, env = "CUBBY_SQL_IDLE", default_value = "5s", value_name = "TIME", value_parser = duration)]
    pub sql_idle: Duration,

    /// How long a transaction over several requests may take in all; other writes of its user wait for it
    #[arg(long, env = "CUBBY_SQL_TRANSACTION", default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub sql_transaction: Duration,

    /// Streams of one user with an open transaction or stored SQL; more are answered 503
    #[arg(long, env = "CUBBY_SQL_TENANT_STREAMS", default_value_t = 64, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub sql_tenant_streams: u32,

    /// The same of all users together
    #[arg(long, env = "CUBBY_SQL_STREAMS", default_value_t = 1024, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub sql_streams: u32,
}

/// The largest size that SQLite takes for a value.
const MOST_VALUE: u64 = 1_000_000_000;

impl SqlConfig {
    /// As the environment has them, for a command that asks a user's database without a server.
    ///
    /// # Errors
    /// If a variable cannot be read.
    pub fn from_environment() -> Result<Self> {
        let command = Self::augment_args(Command::new("cubby").no_binary_name(true));
        let matches = command.try_get_matches_from([""; 0]);
        let unusable =
            |e: clap::Error| Error::config(e.to_string().trim_start_matches("error: ").trim_end().to_owned());
        Self::from_arg_matches(&matches.map_err(unusable)?).map_err(unusable)
    }

    /// What statements may do and take.
    pub fn rules(&self) -> Rules {
        Rules {
            ddl: self.sql_ddl == SqlDdl::Allow,
            memory: usize::try_from(self.sql_memory.0).unwrap_or(usize::MAX),
            time: self.sql_time,
            value_bytes: i32::try_from(self.sql_value.0).unwrap_or(i32::MAX),
            ..Rules::default()
        }
    }

    /// The largest answer, in bytes.
    pub fn answer(&self) -> usize {
        usize::try_from(self.sql_answer.0).unwrap_or(usize::MAX)
    }

    /// Who may send SQL. `open` is whether callers are not authenticated, and only this machine reaches the server.
    pub fn mode(&self, open: bool) -> SqlMode {
        self.sql.unwrap_or(if open { SqlMode::Backend } else { SqlMode::Off })
    }

    pub(super) fn validate(&self, auth: AuthMode) -> Result<()> {
        match self.sql {
            Some(SqlMode::Backend) if !auth.is_open() && !auth.takes_keys() => {
                return Err(Error::config(
                    "CUBBY_SQL=backend lets API keys send SQL, and none are accepted: set CUBBY_AUTH to keys or \
                     jwt+keys, or CUBBY_SQL to users",
                ));
            }
            Some(SqlMode::Users) if !auth.is_open() && !auth.takes_tokens() => {
                return Err(Error::config(
                    "CUBBY_SQL=users lets session tokens send SQL, and none are accepted: set CUBBY_AUTH to jwt or \
                     jwt+keys, or CUBBY_SQL to backend",
                ));
            }
            _ => {}
        }
        for (flag, size, least) in [
            ("--sql-value", self.sql_value, 1 << 10),
            ("--sql-answer", self.sql_answer, 1 << 10),
            ("--sql-memory", self.sql_memory, 1 << 20),
        ] {
            if !(least..=MOST_VALUE).contains(&size.0) {
                return Err(Error::config(format!("{flag}: from {least} to {MOST_VALUE} bytes")));
            }
        }
        for (flag, time) in
            [("--sql-time", self.sql_time), ("--sql-idle", self.sql_idle), ("--sql-transaction", self.sql_transaction)]
        {
            if time.is_zero() {
                return Err(Error::config(format!("{flag}: more than 0s")));
            }
        }
        Ok(())
    }
}

//! `cubby sql`: SQL on a user's database, through the server that holds the data folder or on the folder itself.
//!
//! | module | has |
//! |---|---|
//! | `console` | the loop: lines, statements, commands with a dot, errors |
//! | `input` | where lines come from: an argument, standard input, a person |
//! | `stream` | a stream of Hrana, as its client |
//! | `format` | rows as a table, JSON or CSV |
//!
//! Both ways ask the same routes, so that the same is allowed and answered.

use std::{
    io::{IsTerminal as _, stdin, stdout},
    process::ExitCode,
    time::Duration,
};

use clap::Args;

use self::{console::Console, format::Mode, input::Input, stream::Stream};
use super::{
    shared::Folder,
    target::{Target, with_target},
};
use crate::{
    config::{
        DataConfig, ServeConfig,
        console::ConsoleConfig,
        door::RemoteConfig,
        sql::{SqlConfig, SqlMode},
    },
    error::Result,
    tenants::id::TenantId,
};

mod console;
mod format;
mod input;
mod queries;
mod stream;

pub const EXAMPLES: &str = "Examples:
  cubby sql user_2abc
      a prompt; .help says what it knows
  cubby sql user_2abc 'SELECT * FROM todos'
      one statement, or several with semicolons
  cubby sql user_2abc < fix.sql
      a file, statement by statement, up to the first error
  cubby sql user_2abc --csv 'SELECT * FROM todos'
      as CSV, with the names in the first line
  cubby sql user_2abc --read-only .schema
      how the tables were made; nothing can be changed

Rows are printed as a table on a terminal, and elsewhere as one JSON object a
line. Each statement is committed by itself, but between BEGIN and COMMIT. What
SQL may do is what it may over HTTP.

While a server holds the data folder, the server runs it, with its own settings,
CUBBY_SQL and ADMIN_API_KEY.

Exit code: 0 if all was run, 1 at the first error; what was committed before it
stays.";

/// In the folder nobody else waits for a transaction or for a reader of an answer.
const NO_HURRY: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Command {
    /// Whose database
    #[arg(value_name = "ID")]
    id: TenantId,

    /// What to run; standard input has it if this is not given, and on a terminal there is a prompt
    #[arg(value_name = "SQL")]
    statements: Option<String>,

    /// Rows as one JSON object a line; blobs in base64
    #[arg(long, group = "mode")]
    json: bool,

    /// Rows as CSV (RFC 4180), with the names in the first line; blobs in base64
    #[arg(long, group = "mode")]
    csv: bool,

    /// Rows as a table
    #[arg(long, group = "mode")]
    table: bool,

    /// Refuse statements that write
    #[arg(long)]
    read_only: bool,

    #[command(flatten)]
    console: ConsoleConfig,

    #[command(flatten)]
    remote: RemoteConfig,
}

impl Command {
    fn mode(&self) -> Mode {
        if self.json {
            Mode::Json
        } else if self.csv {
            Mode::Csv
        } else if self.table || stdout().is_terminal() {
            Mode::Table
        } else {
            Mode::Json
        }
    }
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    let settings = SqlConfig::from_environment()?;
    let set = |config: &mut ServeConfig| {
        let transaction = settings.sql_transaction.max(NO_HURRY);
        config.sql = SqlConfig { sql: Some(SqlMode::Backend), sql_transaction: transaction, ..settings };
        config.limits.answer_timeout = NO_HURRY;
    };
    let run = async |target: &Target| {
        let input = match &command.statements {
            Some(sql) => Input::text(sql),
            None if stdin().is_terminal() => Input::prompt(command.console.history_file())?,
            None => Input::stdin(),
        };
        let stream = Stream::to(target, &command.id, command.read_only);
        Console::new(command.id.clone(), stream, input, command.mode(), command.read_only).run().await
    };
    with_target(data, &command.remote, Folder::MustExist, set, run).await
}

//! `cubby tenants top`: a table of the open databases, drawn anew every few seconds on a terminal.

use std::{
    io::{IsTerminal, Write},
    pin::pin,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use futures_util::future::{Either, select};
use tokio::signal;

use crate::{
    admin::top::{OpenTenants, Shown},
    cli::{
        shared::{print_json, print_rows, with_store},
        target::Place,
        watch::is_absent,
    },
    config::duration,
    error::{Error, ErrorKind, Result},
};

/// Which to show, and how often.
#[derive(Debug, Args)]
pub struct Top {
    /// Which come first
    #[arg(long, value_name = "WHAT", default_value = "requests")]
    by: By,

    /// How many [default: what fits on the terminal, else 20]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,

    /// How often the table is drawn anew on a terminal
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    every: Duration,

    /// Print the table once, also on a terminal
    #[arg(long)]
    once: bool,

    /// Print it once as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    /// Those that are used most
    Requests,
    /// Those with the largest files
    Bytes,
}

/// Rows where nothing says how many fit.
const ROWS: u32 = 20;

/// Lines of the table that are no rows: the totals, a blank, the names of the columns.
const HEAD: u32 = 3;

/// The shortest time between two tables.
const SHORTEST: Duration = Duration::from_millis(100);

/// Shows what the server has open.
pub async fn run(place: Place, top: Top) -> Result<()> {
    let target = match place {
        Place::Server(target) => target,
        Place::Folder(store) => {
            with_store(store, async |_| Ok(())).await?;
            let why = "no server holds the data folder, so no database is open; `cubby tenants list` lists all users";
            return Err(Error::new(ErrorKind::Conflict, why));
        }
    };
    let look = async |limit: u32| {
        let by = top.by.to_possible_value().map_or(String::new(), |by| by.get_name().to_owned());
        target.get::<OpenTenants>(&format!("/api/admin/open-tenants?by={by}&limit={limit}")).await
    };
    if top.json {
        return print_json(&look(top.limit.unwrap_or(ROWS)).await?);
    }
    if top.once || !std::io::stdout().is_terminal() {
        let found = look(top.limit.unwrap_or(ROWS)).await?;
        let before = format!("{}\n\n{}", totals(&found), head());
        return print_rows(&found.tenants, false, Some(before), None, line).map(drop);
    }
    let _screen = Screen::enter()?;
    let interrupt = pin!(signal::ctrl_c());
    match select(pin!(live(&top, look)), interrupt).await {
        Either::Left((ended, _)) => ended,
        Either::Right(_) => Ok(()),
    }
}

/// Draws the table anew until the server is gone.
async fn live(top: &Top, look: impl AsyncFn(u32) -> Result<OpenTenants>) -> Result<()> {
    let mut answered = Instant::now();
    loop {
        let rows = rows();
        match look(top.limit.unwrap_or(rows).min(rows)).await {
            Ok(found) => {
                answered = Instant::now();
                let lines = found.tenants.iter().map(line);
                draw([totals(&found), String::new(), head()].into_iter().chain(lines))?;
            }
            Err(error) if is_absent(&error, answered) => draw([format!("{error}; asking again")])?,
            Err(error) => return Err(error),
        }
        tokio::time::sleep(top.every.max(SHORTEST)).await;
    }
}

/// How many rows fit on the terminal.
fn rows() -> u32 {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    let lines = size.map(|size| u32::from(size.ws_row)).unwrap_or(0);
    // The last line stays empty, so that nothing scrolls.
    if lines == 0 { ROWS } else { lines.saturating_sub(HEAD + 1).clamp(1, 1000) }
}

/// Draws lines over those that are there.
fn draw(lines: impl IntoIterator<Item = String>) -> Result<()> {
    let mut text = String::from("\x1b[H");
    for line in lines {
        text.push_str(&line);
        // Removes what is left of the line before, which may be longer.
        text.push_str("\x1b[K\r\n");
    }
    text.push_str("\x1b[J");
    write(&text)
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("standard output", e))
}

/// The terminal's other screen, without a cursor, on which long lines are cut. Dropped, it is as it was before.
struct Screen;

impl Screen {
    fn enter() -> Result<Self> {
        write("\x1b[?1049h\x1b[?25l\x1b[?7l").map(|()| Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write("\x1b[?7h\x1b[?25h\x1b[?1049l");
    }
}

fn totals(found: &OpenTenants) -> String {
    let requests: f64 = found.tenants.iter().map(|tenant| tenant.requests_per_second).sum();
    format!("{} databases open of {} that may be; {requests:.1} requests a second of these", found.open, found.capacity)
}

fn head() -> String {
    format!("{:<36} {:>10} {:>7} {:>8} {:>12} {:>7}", "id", "requests/s", "in use", "unused", "bytes", "schema")
}

fn line(tenant: &Shown) -> String {
    let unused = humantime::format_duration(Duration::from_secs(tenant.unused_ms / 1000));
    format!(
        "{:<36} {:>10.1} {:>7} {:>8} {:>12} {:>7}",
        tenant.id.as_str(),
        tenant.requests_per_second,
        tenant.in_use,
        unused.to_string().replace(' ', ""),
        tenant.bytes,
        tenant.schema_version
    )
}

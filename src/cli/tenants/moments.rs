//! `cubby tenants history`, `rewind` and `fork`: the past of a user, as the bucket has it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    admin::replica::History as Page,
    cli::{
        replica::running,
        shared::{print_json, print_rows, unknown},
        target::{Place, Target, segment},
    },
    clock::rfc3339,
    error::{Error, ErrorKind, Result},
    replica::{
        history::{Moment, What},
        moments::{Forked, Rewound, TableRows},
    },
    tenants::id::TenantId,
};

const HISTORY: &str = "Examples:
  cubby tenants history user_2abc               the last hundred moments
  cubby tenants history user_2abc --limit 5000
  cubby tenants history user_2abc --json

A moment is what was copied to the bucket at once: all commits of about a
second. They are kept for as long as CUBBY_REPLICATE_WINDOW of the server says.
The server must be running, with CUBBY_REPLICATE; this asks it, with
ADMIN_API_KEY.";

const REWIND: &str = "Examples:
  cubby tenants rewind user_2abc --at \"20 minutes ago\" --dry-run
      make the file and look through it, and say what it has; changes nothing
  cubby tenants rewind user_2abc --at 2026-11-21T10:00:00Z
      put it in the place of what the user has

The user gets what they had at the last moment before that time; `cubby tenants
history` lists moments. They are served meanwhile, and wait only while the file
gets its place. What they have is kept in trash/replaced/ of the data folder
until --retention ends, and the bucket keeps it, too: a later rewind to a moment
just before this one takes it back.

If something between a whole copy and that moment is missing or damaged in the
bucket, nothing is guessed: the error names the last good moment.

The server must be running, with CUBBY_REPLICATE; this asks it, with
ADMIN_API_KEY.";

const FORK: &str = "Examples:
  cubby tenants fork user_2abc --to user_2abc-copy
      a new user with what this one has
  cubby tenants fork user_2abc --to before --at \"2 days ago\"
      with what they had

The one that is forked is not changed. The new id must be one that nobody has
had. The server must be running, with CUBBY_REPLICATE; this asks it, with
ADMIN_API_KEY.";

#[derive(Debug, Subcommand)]
pub enum Moments {
    /// List the moments to which one can be put back
    #[command(after_help = HISTORY)]
    History(History),
    /// Put one back to a moment of the past
    #[command(after_help = REWIND)]
    Rewind(Rewind),
    /// Create one with what another one has, or had
    #[command(after_help = FORK)]
    Fork(Fork),
}

#[derive(Debug, Args)]
pub struct History {
    /// The user's id
    id: TenantId,

    /// At most so many, newest first
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Rewind {
    /// The user's id
    id: TenantId,

    /// The moment: a time such as 2026-11-21T10:00:00Z, or how long ago, such as "20 minutes ago"
    #[arg(long, value_name = "TIME")]
    at: String,

    /// Only make the file and look through it
    #[arg(long)]
    dry_run: bool,

    /// The result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Fork {
    /// The user's id
    id: TenantId,

    /// The new user's id
    #[arg(long, value_name = "NEW")]
    to: TenantId,

    /// The moment: a time such as 2026-11-21T10:00:00Z, or how long ago, such as "20 minutes ago" [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,

    /// The result as JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(place: Place, moments: Moments) -> Result<ExitCode> {
    let target = &running(place).await?;
    match moments {
        Moments::History(history) => list(target, &history).await?,
        Moments::Rewind(Rewind { id, at, dry_run, json }) => {
            let body = json!({"at": at, "dry_run": dry_run});
            let done: Rewound = ask(target, &id, "rewind", &body).await?;
            match json {
                true => print_json(&done)?,
                false => tell(&done)?,
            }
        }
        Moments::Fork(Fork { id, to, at, json }) => {
            let body = json!({"to": to, "at": at});
            let done: Forked = ask(target, &id, "fork", &body).await?;
            let Forked { at, bytes, tenant, .. } = &done;
            let text = format!("{} is there, with what {id} had at {}: {bytes} bytes", tenant.id, rfc3339(*at));
            match json {
                true => print_json(&done)?,
                false => drop(print_rows(&[text], false, None, None, String::clone)?),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for what may take longer than other requests may.
async fn ask<T: DeserializeOwned>(target: &Target, id: &TenantId, verb: &str, body: &Value) -> Result<T> {
    let path = format!("/api/admin/tenants/{}/{verb}", segment(id.as_str()));
    let mut answer = target.open(&path, body).await.map_err(|error| named(error, id))?;
    let mut bytes = Vec::new();
    while let Some(piece) = answer.piece().await? {
        bytes.extend_from_slice(&piece);
    }
    serde_json::from_slice(&bytes).map_err(|e| target.other_program().with_source(e))
}

fn named(error: Error, id: &TenantId) -> Error {
    if error.kind() == ErrorKind::UnknownTenant { unknown(id) } else { error }
}

async fn list(target: &Target, History { id, limit, json }: &History) -> Result<()> {
    let mut heading = Some(format!("{:<24} {:<8} {:>12}  place", "time", "what", "bytes"));
    let (mut left, mut before) = (*limit, None::<String>);
    loop {
        let from = before.map_or(String::new(), |before| format!("&before={}", segment(&before)));
        let path = format!("/api/admin/tenants/{}/history?limit={}{from}", segment(id.as_str()), left.min(1000));
        let page: Page = target.get(&path).await.map_err(|error| named(error, id))?;
        left -= u32::try_from(page.moments.len()).unwrap_or(left).min(left);
        let is_last = page.next_before.is_none() || left == 0;
        let footer = (is_last && page.next_before.is_some()).then(|| "and older ones".to_owned());
        if !print_rows(&page.moments, *json, heading.take(), footer, line)? || is_last {
            return Ok(());
        }
        before = page.next_before;
    }
}

fn line(moment: &Moment) -> String {
    let Moment { at, epoch, seq, kind, bytes } = moment;
    let what = match kind {
        What::Commits => "commits",
        What::Whole => "whole",
        What::Base => "base",
        What::End => "end",
        What::Damaged => "damaged",
    };
    format!("{} {what:<8} {bytes:>12}  {epoch:x}-{seq:x}", rfc3339(*at))
}

fn tell(done: &Rewound) -> Result<()> {
    let Rewound { id, at, bytes, dry_run, replaced, tables, .. } = done;
    let (at, bytes) = (rfc3339(*at), HumanBytes(*bytes));
    let (before, after) = match dry_run {
        true => {
            let rows = (!tables.is_empty()).then(|| format!("\n{:>12} {:>12}  table", "rows now", "rows then"));
            let before = format!("{id} can be put back to {at}: {bytes}, whole. Nothing was changed");
            (format!("{before}{}", rows.unwrap_or_default()), None)
        }
        false => (
            format!("{id} has what they had at {at}: {bytes}"),
            replaced.as_ref().map(|replaced| format!("what was replaced is {replaced}")),
        ),
    };
    print_rows(tables, false, Some(before), after, |TableRows { table, now, then }| {
        let count = |rows: Option<u64>| rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string());
        format!("{:>12} {:>12}  {table}", count(*now), count(*then))
    })
    .map(drop)
}

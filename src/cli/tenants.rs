//! `cubby tenants …`.

mod bulk;
#[cfg(feature = "replicate")]
mod moments;
mod top;

use std::{process::ExitCode, str::FromStr};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::{
    shared::{Folder, print_json, print_rows, unknown},
    target::{Target, place, segment, with_target},
};
use crate::{
    admin::{
        quota::{OwnQuota, SetBy},
        tenants::{Created, OneTenant, Tenants as Listed},
    },
    catalog::{
        model::{Row, State},
        queries::search::Sort,
    },
    clock::rfc3339,
    config::{DataConfig, Size, door::RemoteConfig},
    error::{Error, ErrorKind, Result},
    rate::Rate,
    tenants::{disk::path::Layout, id::TenantId},
};

pub const EXAMPLES: &str = "Examples:
  cubby tenants list
  cubby tenants list --state quarantined --json
  cubby tenants list --search ada@example.com
  cubby tenants list --sort size --limit 20
  cubby tenants show user_2abc
  cubby tenants path user_2abc
  cubby tenants create user_2abc
  cubby tenants sample
  cubby tenants suspend user_2abc --reason \"payment overdue\"
  cubby tenants delete user_2abc && cubby tenants restore user_2abc
  cubby tenants purge user_2abc --yes
  cubby tenants adopt user_2new --from user_2old
  cubby tenants quota user_2abc --bytes 5GiB --rate 200/s
  cubby tenants quota user_2abc --bytes default
  cubby tenants history user_2abc
  cubby tenants rewind user_2abc --at \"20 minutes ago\" --dry-run
  cubby tenants fork user_2abc --to user_2abc-copy
  cubby tenants bulk suspend --search @example.org --reason \"contract ended\" --dry-run
  cubby tenants bulk delete --state suspended
  cubby tenants bulk resume - --confirm 57 < ids.txt

While a server holds the data folder, these commands ask it, with ADMIN_API_KEY.";

#[derive(Debug, Args)]
pub struct Tenants {
    #[command(flatten)]
    remote: RemoteConfig,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List users' databases, or search for some
    List {
        /// Whose id, address or name has this text; newest first
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// The order: id, created (newest first), seen (last used first), size (largest first)
        #[arg(long, default_value = "id", value_name = "ORDER", conflicts_with = "search")]
        sort: Sort,
        /// Only those in this state: active, suspended, deleted, quarantined
        #[arg(long)]
        state: Option<State>,
        /// Start after this id, in the order of ids
        #[arg(long, value_name = "ID", conflicts_with = "search")]
        after: Option<TenantId>,
        /// At most so many [default: all]
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of one
    Show(One),
    /// Print where one's file is, whether it exists or not
    Path {
        /// The user's id
        id: TenantId,
    },
    /// Create one
    Create {
        #[command(flatten)]
        one: One,
        /// Their email address
        #[arg(long)]
        email: Option<String>,
    },
    /// Create a sample of one, to look at
    Sample {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse one's reads and writes until it is resumed
    Suspend {
        #[command(flatten)]
        one: One,
        /// What its user is told
        #[arg(long)]
        reason: String,
    },
    /// Serve a suspended or quarantined one again
    Resume(One),
    /// Delete one; its file is kept until its retention ends
    Delete(One),
    /// Restore a deleted one
    Restore(One),
    /// Erase one for good: file, personal data, and the deliveries about them; a tombstone stays
    Purge {
        /// The user's id
        id: TenantId,
        /// Yes, for good
        #[arg(long)]
        yes: bool,
    },
    /// Restore one of whom nothing is left, with an empty database
    Revive {
        /// The user's id
        id: TenantId,
    },
    /// Show what one may use, or set it over CUBBY_QUOTA and CUBBY_TENANT_RATE
    Quota {
        #[command(flatten)]
        one: One,
        /// The largest their database may grow, such as 5GiB; 0 for no bound; default to take back what was set
        #[arg(long, value_name = "SIZE")]
        bytes: Option<Setting<Size>>,
        /// The requests they may make, such as 200/s or 200/s:800; off for no bound; default to take back what was set
        #[arg(long, value_name = "RATE")]
        rate: Option<Setting<Rate>>,
    },
    /// Give a user who signed up again the data of their old, deleted id
    Adopt {
        /// The id they have now
        new: TenantId,
        /// The id they had, which is purged by it
        #[arg(long, value_name = "OLD")]
        from: TenantId,
        /// Replace what the new id has of its own
        #[arg(long)]
        replace: bool,
    },
    #[cfg(feature = "replicate")]
    #[command(flatten)]
    Moments(moments::Moments),
    /// Suspend, resume, migrate or delete many, once confirmed
    Bulk(bulk::Bulk),
    /// Show what a running server has open, those first that are used most or are largest
    Top(top::Top),
}

/// A value, or none for `default`.
#[derive(Debug, Clone, Copy)]
struct Setting<T>(Option<T>);

impl<T: FromStr> FromStr for Setting<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "default" { Ok(Self(None)) } else { text.parse().map(|value| Self(Some(value))) }
    }
}

#[derive(Debug, Args)]
struct One {
    /// The user's id
    id: TenantId,

    /// As JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data: &DataConfig, tenants: Tenants) -> Result<ExitCode> {
    let folder = match &tenants.command {
        Command::Path { id } => {
            // Opens nothing, so it needs no lock.
            let root = std::path::absolute(&data.data).map_err(|e| Error::io(data.data.display(), e))?;
            println!("{}", Layout::at(root).tenant(id).display());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Purge { id, yes: false } => {
            return Err(Error::config(format!(
                "this erases the data of {id} for good; to do that: cubby tenants purge {id} --yes"
            )));
        }
        Command::Create { .. } | Command::Sample { .. } => Folder::MayBeNew,
        _ => Folder::MustExist,
    };
    if let Command::Top(top) = tenants.command {
        top::run(place(data, &tenants.remote, folder)?, top).await?;
        return Ok(ExitCode::SUCCESS);
    }
    #[cfg(feature = "replicate")]
    if let Command::Moments(moments) = tenants.command {
        return moments::run(place(data, &tenants.remote, folder)?, moments).await;
    }
    if let Command::Bulk(bulk) = tenants.command {
        bulk.validate()?;
        let run = async |target: &Target| bulk::run(target, bulk).await;
        return with_target(data, &tenants.remote, folder, |_| {}, run).await;
    }
    with_target(data, &tenants.remote, folder, |_| {}, async |target| execute(target, tenants.command).await).await?;
    Ok(ExitCode::SUCCESS)
}

async fn execute(target: &Target, command: Command) -> Result<()> {
    let post = |verb, body| (Method::POST, verb, body);
    let text = |id| One { id, json: false };
    let (One { id, json }, (method, verb, body)) = match command {
        Command::List { search, sort, state, after, limit, json } => {
            let wanted = [
                search.map(|text| format!("&q={}", segment(&text))),
                state.map(|state| format!("&state={state}")),
                after.map(|after| format!("&after={}", segment(after.as_str()))),
            ];
            let wanted: String = wanted.into_iter().flatten().collect();
            return list(target, &format!("&sort={}{wanted}", sort.as_str()), limit, json).await;
        }
        Command::Show(One { id, json }) => {
            let one: OneTenant = target.get(&path(&id)).await.map_err(|e| name(e, &id))?;
            if json {
                return print_json(&one);
            }
            print(&one);
            return Ok(());
        }
        Command::Path { .. } | Command::Top(_) | Command::Bulk(_) => return Ok(()),
        #[cfg(feature = "replicate")]
        Command::Moments(_) => return Ok(()),
        Command::Create { one: One { id, json }, email } => {
            let draft = json!({"id": id, "email": email});
            return print_created(&target.post("/api/admin/tenants", Some(draft)).await?, json);
        }
        Command::Sample { json } => return print_created(&target.post("/api/admin/sample-tenants", None).await?, json),
        Command::Quota { one, bytes, rate } => return quota(target, &one, bytes, rate).await,
        Command::Suspend { one, reason } => (one, post("/suspend", Some(json!({"reason": reason})))),
        Command::Resume(one) => (one, post("/resume", None)),
        Command::Delete(one) => (one, (Method::DELETE, "", None)),
        Command::Restore(one) => (one, post("/restore", None)),
        Command::Purge { id, .. } => (text(id), post("/purge", Some(json!({"yes": true})))),
        Command::Revive { id } => (text(id), post("/revive", None)),
        Command::Adopt { new, from, replace } => {
            (text(new), post("/adopt", Some(json!({"from": from, "replace": replace}))))
        }
    };
    let row: Row = target.call(method, &(path(&id) + verb), body).await.map_err(|e| name(e, &id))?;
    if json {
        return print_json(&row);
    }
    let state = if row.purged.is_some() { "purged" } else { row.state.as_str() };
    println!("{} is {state}{}", row.id, row.reason.map_or(String::new(), |reason| format!(": {reason}")));
    Ok(())
}

fn print_created(made: &Created, json: bool) -> Result<()> {
    if json {
        return print_json(made);
    }
    println!("{} {}", made.id, if made.created { "created" } else { "exists already" });
    Ok(())
}

async fn quota(
    target: &Target,
    One { id, json }: &One,
    bytes: Option<Setting<Size>>,
    rate: Option<Setting<Rate>>,
) -> Result<()> {
    let mut draft = serde_json::Map::new();
    if let Some(Setting(bytes)) = bytes {
        draft.insert("bytes".into(), json!(bytes.map(|size| size.0)));
    }
    if let Some(Setting(rate)) = rate {
        draft.insert("rate".into(), json!(rate));
    }
    let quota: OwnQuota = if draft.is_empty() {
        target.get::<OneTenant>(&path(id)).await.map_err(|e| name(e, id))?.may_use
    } else {
        target.post(&(path(id) + "/quota"), Some(draft.into())).await.map_err(|e| name(e, id))?
    };
    if *json {
        return print_json(&quota);
    }
    print_quota(&quota);
    Ok(())
}

fn print_quota(OwnQuota { quota, bytes_by, rate_by }: &OwnQuota) {
    let bytes = quota.bytes.filter(|bytes| *bytes > 0).map(|bytes| format!("{bytes} bytes"));
    let rate = quota.rate.filter(|rate| *rate != Rate::Off);
    println!("quota           {}", allowed(bytes, *bytes_by, "CUBBY_QUOTA"));
    println!("rate            {}", allowed(rate, *rate_by, "CUBBY_TENANT_RATE"));
}

/// A bound, none for no bound, and who set it.
fn allowed(bound: Option<impl ToString>, by: SetBy, setting: &str) -> String {
    let by = match by {
        SetBy::Operator => "an operator",
        SetBy::Metadata => "the provider's metadata",
        SetBy::Settings => return format!("as {setting} of the server says"),
    };
    format!("{}, set by {by}", bound.map_or_else(|| "no bound".to_owned(), |bound| bound.to_string()))
}

fn path(id: &TenantId) -> String {
    format!("/api/admin/tenants/{}", segment(id.as_str()))
}

/// Names the tenant where the route does not: an adoption says which of the two is unknown.
fn name(error: Error, id: &TenantId) -> Error {
    if error.kind() != ErrorKind::UnknownTenant || error.message() != Error::unknown_tenant().message() {
        return error;
    }
    unknown(id)
}

async fn list(target: &Target, wanted: &str, limit: Option<u32>, json: bool) -> Result<()> {
    let mut heading = Some(line("id", "state", "schema", "bytes", "last seen", "reason"));
    let mut left = limit.unwrap_or(u32::MAX);
    let mut cursor: Option<String> = None;
    loop {
        let start = cursor.map_or(String::new(), |cursor| format!("&cursor={}", segment(&cursor)));
        let most = left.min(1000);
        let found: Listed = target.get(&format!("/api/admin/tenants?limit={most}{wanted}{start}")).await?;
        left -= u32::try_from(found.tenants.len()).unwrap_or(left).min(left);
        let is_last = found.next_cursor.is_none() || left == 0;
        let counts = found.counts;
        let footer = format!(
            "\n{} active, {} suspended, {} deleted, {} quarantined",
            counts.active, counts.suspended, counts.deleted, counts.quarantined
        );
        let more = print_rows(&found.tenants, json, heading.take(), is_last.then_some(footer), |row| {
            let (schema, bytes) = (optional(row.schema_version), optional(row.bytes));
            let seen = row.last_seen.map_or("never".to_owned(), |at| rfc3339(at).to_string());
            line(row.id.as_str(), row.state.as_str(), &schema, &bytes, &seen, row.reason.as_deref().unwrap_or(""))
        });
        if !more? || is_last {
            return Ok(());
        }
        cursor = found.next_cursor;
    }
}

fn line(id: &str, state: &str, schema: &str, bytes: &str, seen: &str, reason: &str) -> String {
    format!("{id:<36} {state:<12} {schema:>6} {bytes:>12}  {seen:<24} {reason}")
}

fn print(one: &OneTenant) {
    let row = &one.row;
    let time = |at: Option<i64>| optional(at.map(rfc3339));
    let text = |text: &Option<String>| optional(text.as_deref());
    println!("id              {}", row.id);
    println!("state           {}", row.state);
    println!("reason          {}", text(&row.reason));
    if row.state == State::Quarantined {
        let retry = row.retry_at.map_or("when an operator resumes it".into(), |at| rfc3339(at).to_string());
        println!("failed attempts {}", row.consecutive_quarantines);
        println!("next attempt    {retry}");
    }
    if let (Some(fault), Some(at)) = (&row.fault, row.fault_at) {
        println!("newest fault    {} {fault}", rfc3339(at));
    }
    println!("created         {}", rfc3339(row.created));
    println!("deleted         {}", time(row.deleted));
    println!("kept until      {}", time(row.purge_after));
    if let Some(state) = row.state_before {
        println!("when restored   {state}: {}", row.reason_before.as_deref().unwrap_or("no reason is kept"));
    }
    println!("last seen       {}", time(row.last_seen));
    println!("schema          {} (newest is {})", optional(row.schema_version), one.newest_schema);
    if let Some(at) = row.drifted {
        println!("drifted         {} SQL changed the schema, which the migrations do not know", rfc3339(at));
    }
    println!("file            {}", one.path);
    println!("file size       {}", one.file_bytes.map_or("missing".into(), |n| format!("{n} bytes")));
    print_quota(&one.may_use);
    println!("email           {}", text(&row.profile.email));
    let names: Vec<&str> =
        [&row.profile.first_name, &row.profile.last_name].into_iter().flatten().map(String::as_str).collect();
    println!("name            {}", optional((!names.is_empty()).then(|| names.join(" "))));
    println!("username        {}", text(&row.profile.username));
    println!("role            {} (public_metadata.role at the provider, else client)", text(&row.profile.role));
    println!("workspace name  {}", row.workspace);
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

//! `cubby replica …`: how the copies in the bucket are doing, and whether they are whole.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use serde_json::json;

use super::{
    interrupt::unless_interrupted,
    shared::{Folder, bar, counted, print_json, print_rows, with_store},
    target::{Place, Target, place},
};
use crate::{
    admin::replica::VerifyLine,
    config::{DataConfig, door::RemoteConfig, provider::Part},
    error::{Error, ErrorKind, Result},
    replica::{
        status::{ShardStatus, Status},
        traffic::Requests,
        verify::Verified,
    },
};

pub const EXAMPLES: &str = "Examples:
  cubby replica status                  how far behind the bucket is, what waits,
                                        and what it costs: requests and bytes
  cubby replica status --json
  cubby replica verify                  restore one user in a hundred to temporary
                                        files, and compare with what they have
  cubby replica verify --sample 10%,25  one in ten, and at least 25
  cubby replica verify --all

These commands ask the server that replicates, with ADMIN_API_KEY. A
verification changes nothing. It reads the bucket and takes as much of the disk
as the largest databases for a while; Ctrl-C ends it.

Exit code of status: 0, or 1 if another server has taken over the bucket, or it
does not take what is written. Of verify: 0 if everybody who was looked at is
whole, 1 if somebody is not, or it did not come to its end.";

#[derive(Debug, Args)]
pub struct Replica {
    #[command(flatten)]
    remote: RemoteConfig,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say how far behind the bucket is, what waits for it, and what it costs
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Restore users to temporary files, and compare them with what they have
    Verify {
        /// How many of the active users: a number, a part, or the larger of both; one at least
        #[arg(long, value_name = "PART", default_value = "1%")]
        sample: Part,
        /// All of them
        #[arg(long, conflicts_with = "sample")]
        all: bool,
        /// The result as JSON
        #[arg(long)]
        json: bool,
    },
}

const PATH: &str = "/api/admin/replica";

pub async fn run(data: &DataConfig, replica: Replica) -> Result<ExitCode> {
    let target = running(place(data, &replica.remote, Folder::MustExist)?).await?;
    match replica.command {
        Command::Status { json } => {
            let status: Status = target.get(PATH).await?;
            match json {
                true => print_json(&status)?,
                false => print(&status)?,
            }
            Ok(ExitCode::from(u8::from(status.is_bad())))
        }
        Command::Verify { sample, all, json } => {
            let verified = verify(&target, sample, all).await?;
            match json {
                true => print_json(&verified)?,
                false => tell(&verified)?,
            }
            Ok(ExitCode::from(u8::from(!verified.is_good())))
        }
    }
}

/// The server that holds the data folder: nobody else knows the bucket.
pub async fn running(place: Place) -> Result<Target> {
    match place {
        Place::Server(target) => Ok(target),
        Place::Folder(store) => {
            with_store(store, async |_| Ok(())).await?;
            let why = "no server holds the data folder, and this asks the server that copies it to a bucket: start `cubby serve` \
                       with CUBBY_REPLICATE first";
            Err(Error::new(ErrorKind::Conflict, why))
        }
    }
}

/// A time in milliseconds.
fn time(millis: u64) -> String {
    // Of a long time the seconds are enough.
    let exact = Duration::from_millis(millis);
    let shown = if millis < 10_000 { exact } else { Duration::from_secs(exact.as_secs()) };
    humantime::format_duration(shown).to_string()
}

fn print(status: &Status) -> Result<()> {
    let behind = match status.behind_ms {
        0 => "no; it has everything".to_owned(),
        behind => time(behind),
    };
    let taken_over = match (status.taken_over, &status.taken_over_by) {
        (false, _) => None,
        (true, None) => Some("another server has taken over: this one accepts no more writes".to_owned()),
        (true, Some(by)) => Some(format!("{by} has taken over: this one accepts no more writes")),
    };
    let encrypted = status.encrypted_with.as_ref().map_or_else(|| "no".to_owned(), |key| format!("with the key {key}"));
    let mut lines = vec![
        format!("bucket          {}", status.bucket),
        format!("mode            {}", status.mode),
        format!("window          {}", humantime::format_duration(Duration::from_secs(status.window_seconds))),
        format!("encrypted       {encrypted}"),
        format!("behind          {behind}"),
        format!("log waiting     {} of {} that may", HumanBytes(status.log_bytes), HumanBytes(status.backlog_bytes)),
        format!("bases wanted    {}", status.bases_wanted),
        format!("fallen out      {}", status.fallen_out),
        format!("batches         {}, {} not taken", status.batches, counted(status.failed_batches, "try", "tries")),
        format!("last minute     {}", requests(&status.last_minute)),
        format!("since start     {}", requests(&status.since_start)),
    ];
    lines.extend(taken_over.map(|text| format!("taken over      {text}")));
    let head =
        format!("\n{:>5} {:>10} {:>8} {:>12} {:>12}  state", "shard", "generation", "users", "waiting", "behind");
    let rows = status.shards.iter().map(|shard| {
        let ShardStatus { number, generation, users, bytes, behind_ms, stuck } = shard;
        let state = if *stuck { "the bucket does not take what is written" } else { "" };
        let line = format!(
            "{number:>5} {generation:>10} {users:>8} {:>12} {:>12}  {state}",
            HumanBytes(*bytes).to_string(),
            time(*behind_ms)
        );
        line.trim_end().to_owned()
    });
    let rows: Vec<String> = rows.collect();
    lines.push(head);
    lines.extend(rows);
    print_rows(&lines, false, None, None, String::clone).map(drop)
}

fn requests(of: &Requests) -> String {
    format!(
        "{} ({} PUT, {} GET, {} LIST, {} DELETE), {} failed; {} out, {} in",
        counted(of.requests, "request", "requests"),
        of.puts,
        of.gets,
        of.lists,
        of.deletes,
        of.failures,
        HumanBytes(of.bytes_out),
        HumanBytes(of.bytes_in)
    )
}

/// Has the server look at users, with a progress bar on a terminal.
async fn verify(target: &Target, sample: Part, all: bool) -> Result<Verified> {
    let body = if all { json!({"all": true}) } else { json!({"sample": sample}) };
    let bar = bar("{pos}/{len} {wide_bar} {eta} {msg}")?;
    let shown = bar.clone();
    let progress = move |so_far: &Verified| {
        shown.set_length(so_far.total);
        shown.set_position(so_far.checked);
        let wrong = so_far.different + so_far.broken;
        if wrong > 0 {
            shown.set_message(format!("{wrong} not whole"));
        }
    };
    let done = unless_interrupted(follow(target, &body, progress)).await?;
    bar.finish_and_clear();
    done.ok_or_else(|| Error::new(ErrorKind::Conflict, "interrupted; nothing was changed"))
}

/// Reads the answer to its end.
async fn follow(target: &Target, body: &serde_json::Value, progress: impl Fn(&Verified)) -> Result<Verified> {
    let mut answer = target.open(&format!("{PATH}/verify"), body).await?;
    let mut text = Vec::new();
    while let Some(piece) = answer.piece().await? {
        text.extend_from_slice(&piece);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line: VerifyLine = serde_json::from_slice(&line).map_err(|e| target.other_program().with_source(e))?;
            progress(&line.verified);
            match (line.is_over, line.error) {
                (_, Some(error)) => {
                    let Verified { checked, whole, .. } = line.verified;
                    let why = format!("{error} ({checked} were looked at before, of whom {whole} are whole)");
                    return Err(Error::new(ErrorKind::Unavailable, why));
                }
                (true, None) => return Ok(line.verified),
                (false, None) => {}
            }
        }
    }
    let why = "the server ended before the verification did, which changes nothing: start it again";
    Err(Error::new(ErrorKind::Unavailable, why))
}

fn tell(verified: &Verified) -> Result<()> {
    let Verified { checked, whole, different, broken, unsettled, named, .. } = verified;
    let summary = format!(
        "{} looked at: {whole} whole, {different} different, {broken} broken{}",
        counted(*checked, "user", "users"),
        match unsettled {
            0 => String::new(),
            count => format!(", {count} of whom nothing can be said"),
        }
    );
    let not_whole = different + broken + unsettled;
    let more = not_whole.saturating_sub(named.len() as u64);
    let more = (more > 0).then(|| format!("  and {more} more"));
    print_rows(named, false, Some(summary), more, |found| {
        format!("  {} is {}: {}", found.id, found.verdict.as_str(), found.why)
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_time_is_exact_and_a_long_one_is_not() {
        assert_eq!([0, 120, 9_500, 61_900].map(time), ["0s", "120ms", "9s 500ms", "1m 1s"]);
    }
}

//! Settings of replication and of backups.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;

use super::values::{Size, duration};
use crate::error::{Error, Result};

/// What an acknowledged commit may be without in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Answers are never held.
    Async,
    /// Answers are held, and then refused, when the oldest commit that has not gone is older.
    Bounded(Duration),
    /// An answer is given when the bucket has the commit.
    Sync,
}

/// The least bound: a batch goes a few times a second.
const MIN_BOUND: Duration = Duration::from_millis(100);

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "async" => Ok(Self::Async),
            "sync" => Ok(Self::Sync),
            other => {
                let bound = other.strip_prefix("bounded:").ok_or("use async, sync, or a bound such as bounded:1s")?;
                match duration(bound.trim())? {
                    bound if bound < MIN_BOUND => Err("a bound is at least bounded:100ms".to_owned()),
                    bound => Ok(Self::Bounded(bound)),
                }
            }
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Async => f.write_str("async"),
            Self::Bounded(bound) => write!(f, "bounded:{}", joined(*bound)),
            Self::Sync => f.write_str("sync"),
        }
    }
}

/// A duration as it is written in a setting, without spaces.
fn joined(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// Which backups are kept: the newest one of each of the last days, and of the last weeks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The last days, each with its newest backup.
    pub days: u32,
    /// The last weeks, each with its newest backup.
    pub weeks: u32,
}

/// The most days or weeks that are kept.
const MOST_KEPT: u32 = 10_000;

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "use days, weeks or both, such as 7d, 4w or 7d,4w".to_owned();
        let (mut days, mut weeks) = (None, None);
        for part in text.split(',').map(str::trim) {
            let unit = if part.ends_with('d') { &mut days } else { &mut weeks };
            let number = part.strip_suffix(['d', 'w']).ok_or_else(wrong)?;
            // A sign would be taken.
            if !number.bytes().all(|b| b.is_ascii_digit()) {
                return Err(wrong());
            }
            let number: u32 = number.parse().map_err(|_| wrong())?;
            if number > MOST_KEPT {
                return Err(format!("at most {MOST_KEPT}d and {MOST_KEPT}w"));
            }
            if unit.replace(number).is_some() {
                return Err("days and weeks once each".to_owned());
            }
        }
        match (days.unwrap_or(0), weeks.unwrap_or(0)) {
            (0, 0) => Err("keeps no backup at all: use 1d at least".to_owned()),
            (days, weeks) => Ok(Self { days, weeks }),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.days, self.weeks) {
            (days, 0) => write!(f, "{days}d"),
            (0, weeks) => write!(f, "{weeks}w"),
            (days, weeks) => write!(f, "{days}d,{weeks}w"),
        }
    }
}

/// Copies in object storage, kept up to date, and backups.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Replication and backups")]
pub struct ReplicateConfig {
    /// Where every commit is copied to: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or
    /// file:///other/disk, with credentials from the variables of that service; nowhere if not set
    #[arg(long, env = "CUBBY_REPLICATE", value_name = "URL")]
    pub replicate: Option<String>,

    /// When a write is answered: at once (async), before the oldest commit that is not copied is older (bounded:1s), or
    /// when its copy is there (sync)
    #[arg(long, env = "CUBBY_REPLICATE_MODE", default_value = "async", value_name = "MODE")]
    pub replicate_mode: Mode,

    /// How far back a user can be put
    #[arg(long, env = "CUBBY_REPLICATE_WINDOW", default_value = "7d", value_name = "TIME", value_parser = duration)]
    pub replicate_window: Duration,

    /// A file of keys that encrypt what leaves this machine, each of 64 hexadecimal digits on a line of its own: the
    /// first encrypts, all decrypt; unencrypted if not set
    #[arg(long, env = "CUBBY_REPLICATE_KEY", value_name = "FILE")]
    pub replicate_key: Option<PathBuf>,

    /// How much of the log is kept while the copies cannot be reached; of more, users are copied as a whole later
    #[arg(long, env = "CUBBY_REPLICATE_BACKLOG", default_value = "256MiB", value_name = "SIZE")]
    pub replicate_backlog: Size,

    /// Begin anew in a bucket that has a replica already, whose data is given up
    #[arg(long, help_heading = None)]
    pub new: bool,

    /// Bring the data of the copies back into an empty data folder, and serve meanwhile
    #[arg(long, help_heading = None)]
    pub restore: bool,

    /// Where backups are made, a folder or a URL as with --replicate; none if not set
    #[arg(long, env = "CUBBY_BACKUP", value_name = "DIR|URL")]
    pub backup_to: Option<String>,

    /// How often a backup is made
    #[arg(long, env = "CUBBY_BACKUP_EVERY", default_value = "24h", value_name = "TIME", value_parser = duration)]
    pub backup_every: Duration,

    /// Which backups are kept: the newest of each of so many days, and of so many weeks
    #[arg(long, env = "CUBBY_BACKUP_KEEP", default_value = "7d,4w", value_name = "LIST")]
    pub backup_keep: Keep,
}

/// The least window: bases are made daily.
const MIN_WINDOW: Duration = Duration::from_secs(60 * 60);

/// The longest window.
const MAX_WINDOW: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// The least that is between two backups.
const MIN_EVERY: Duration = Duration::from_secs(60);

impl ReplicateConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if let Some(url) = &self.replicate {
            check_url("--replicate (CUBBY_REPLICATE)", url)?;
        }
        if self.replicate.is_none() && self.replicate_mode != Mode::Async {
            return Err(Error::config(format!(
                "--replicate-mode {}: there is no place that answers could wait for; name it with --replicate \
                 (CUBBY_REPLICATE), or leave the mode out",
                self.replicate_mode
            )));
        }
        if self.restore && self.replicate.is_none() {
            return Err(Error::config(
                "--restore brings back what is copied: name the place with --replicate (CUBBY_REPLICATE); `cubby restore` brings \
                 a backup back",
            ));
        }
        if self.restore && self.new {
            return Err(Error::config("--restore brings back what --new gives up: leave one of the two out"));
        }
        if self.replicate_key.is_some() && self.replicate.is_none() && self.backup_to.is_none() {
            return Err(Error::config(
                "--replicate-key (CUBBY_REPLICATE_KEY) encrypts copies, and none are made: name their place with \
                 --replicate (CUBBY_REPLICATE) or --backup-to (CUBBY_BACKUP)",
            ));
        }
        if !(MIN_WINDOW..=MAX_WINDOW).contains(&self.replicate_window) {
            return Err(Error::config("--replicate-window: from 1h to 3650d"));
        }
        // Less than this fills while one batch is on its way.
        if !(16 << 20..=1 << 40).contains(&self.replicate_backlog.0) {
            return Err(Error::config("--replicate-backlog: from 16MiB to 1024GiB"));
        }
        if let Some(to) = &self.backup_to {
            match to.contains("://") {
                true => check_url("--backup-to (CUBBY_BACKUP)", to)?,
                false if to.trim().is_empty() => {
                    return Err(Error::config("--backup-to (CUBBY_BACKUP) is empty: name a folder or a URL"));
                }
                false => {}
            }
            // Each would take over the other's objects.
            let bare = |url: &str| url.trim().trim_end_matches('/').to_owned();
            if self.replicate.as_ref().is_some_and(|url| bare(url) == bare(to)) {
                return Err(Error::config(
                    "--backup-to and --replicate are the same place: give backups a prefix of their own",
                ));
            }
        }
        if self.backup_every < MIN_EVERY {
            return Err(Error::config("--backup-every: from 1m"));
        }
        Ok(())
    }
}

/// What can be seen of a URL without knowing its service. What may be a password is not shown.
fn check_url(setting: &str, url: &str) -> Result<()> {
    let Some((scheme, rest)) = url.trim().split_once("://") else {
        return Err(Error::config(format!(
            "{setting} is no URL: write it as s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or \
             file:///other/disk"
        )));
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains(['@', ':']) {
        return Err(Error::config(format!(
            "{setting} has a name or a password before its @: leave them out, and set the variables of the service, \
             such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )));
    }
    match scheme.to_ascii_lowercase().as_str() {
        "file" if !rest.starts_with('/') => {
            Err(Error::config(format!("{setting}: write the whole path of a folder, as file:///other/disk")))
        }
        "s3" | "gs" | "az" if host.is_empty() => {
            Err(Error::config(format!("{setting} has no bucket: write it as {scheme}://bucket/prefix")))
        }
        "s3" | "gs" | "az" | "file" | "memory" => Ok(()),
        _ => Err(Error::config(format!("{setting}: the URL begins with s3://, gs://, az:// or file:///"))),
    }
}

/// The variables of the environment that have credentials for object storage, or say where it is: names and values.
/// The clients of object storage know what they mean.
pub fn variables() -> Vec<(String, String)> {
    const BEGIN: &[&str] = &["AWS_", "GOOGLE_", "AZURE_"];
    const WHOLE: &[&str] = &["SERVICE_ACCOUNT", "IDENTITY_ENDPOINT"];
    let known = |name: &str| WHOLE.contains(&name) || BEGIN.iter().any(|begin| name.starts_with(begin));
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| known(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches, builder::Resettable};

    use super::*;

    fn read(args: &[&str]) -> Result<ReplicateConfig, clap::Error> {
        let command = ReplicateConfig::augment_args(Command::new("cubby").no_binary_name(true));
        let matches = command.mut_args(|arg| arg.env(Resettable::Reset)).try_get_matches_from(args)?;
        ReplicateConfig::from_arg_matches(&matches)
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for (text, mode) in [
            ("async", Mode::Async),
            ("sync", Mode::Sync),
            ("bounded:1s", Mode::Bounded(Duration::from_secs(1))),
            ("bounded:100ms", Mode::Bounded(Duration::from_millis(100))),
            ("bounded:1m30s", Mode::Bounded(Duration::from_secs(90))),
        ] {
            assert_eq!(text.parse(), Ok(mode), "{text}");
            assert_eq!(mode.to_string(), text);
        }
        for text in ["", "bounded", "bounded:", "bounded:1", "bounded:99ms", "bounded:0s", "bounded:-1s", "Sync"] {
            assert!(text.parse::<Mode>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_kept_is_days_and_weeks() {
        for (text, days, weeks) in [("7d,4w", 7, 4), ("1d", 1, 0), ("4w", 0, 4)] {
            assert_eq!(text.parse(), Ok(Keep { days, weeks }), "{text}");
            assert_eq!(Keep { days, weeks }.to_string(), text);
        }
        assert_eq!(" 4w, 7d ".parse(), Ok(Keep { days: 7, weeks: 4 }));
        for text in ["", "7", "d", "7d,", "0d", "0d,0w", "7d,1d", "7h", "-1d", "+1d", "99999999999d", "10001w", "7é"] {
            assert!(text.parse::<Keep>().is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_is_copied_by_default() {
        let config = read(&[]).unwrap();
        assert!(config.replicate.is_none() && config.backup_to.is_none() && config.replicate_key.is_none());
        assert_eq!((config.replicate_mode, config.replicate_backlog), (Mode::Async, Size(256 << 20)));
        assert_eq!(config.backup_keep, Keep { days: 7, weeks: 4 });
        assert_eq!(config.replicate_window, Duration::from_secs(7 * 24 * 60 * 60));
        config.validate().unwrap();
    }

    #[test]
    fn settings_that_fit_are_accepted() {
        for args in [
            &["--replicate", "s3://bucket/prefix", "--replicate-mode", "sync"][..],
            &["--replicate", "file:///other/disk", "--replicate-key", "key"],
            &["--backup-to", "backups", "--backup-every", "1h", "--backup-keep", "2w"],
            &["--backup-to", "gs://bucket/backups", "--replicate", "gs://bucket/replica"],
        ] {
            read(args).unwrap().validate().unwrap();
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_with_what_to_do() {
        for (args, word) in [
            (&["--replicate-mode", "sync"][..], "CUBBY_REPLICATE"),
            (&["--replicate-key", "key"], "CUBBY_BACKUP"),
            (&["--restore"], "CUBBY_REPLICATE"),
            (&["--replicate", "s3://b/p", "--restore", "--new"], "gives up"),
            (&["--replicate", "bucket"], "s3://bucket/prefix"),
            (&["--replicate", "ftp://host"], "begins with"),
            (&["--replicate", "s3://"], "no bucket"),
            (&["--replicate", "s3://key:hunter2@bucket"], "leave them out"),
            (&["--replicate", "file://relative"], "whole path"),
            (&["--replicate-window", "1m"], "from 1h"),
            (&["--replicate-backlog", "1MiB"], "16MiB"),
            (&["--backup-to", ""], "empty"),
            (&["--backup-to", "s3://b/p/", "--replicate", "s3://b/p"], "same place"),
            (&["--backup-every", "1s"], "from 1m"),
        ] {
            let error = read(args).unwrap().validate().unwrap_err();
            assert!(error.to_string().contains(word) && !error.to_string().contains("hunter2"), "{args:?}: {error}");
        }
    }
}

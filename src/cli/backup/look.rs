//! Backups that were made: which there are, and whether they could be brought back.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ArgGroup, Args};
use indicatif::HumanBytes;
use serde::Serialize;
use serde_json::json;

use crate::{
    backup::{
        choice::{Choice, choose},
        destination::{Destination, seal_of},
        restore::Progress,
        verify::{Sample, Verified, verify as look_through},
    },
    cli::{
        interrupt::unless_interrupted,
        shared::{bar, counted, print_json, print_rows},
    },
    clock::rfc3339,
    config::backup::BackupConfig,
    error::{Error, ErrorKind, Result},
};

#[derive(Debug, Args)]
pub struct List {
    /// Where the backups are
    #[arg(long, value_name = "DIR|URL")]
    from: String,

    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("part")))]
pub struct Verify {
    /// Where the backups are
    #[arg(long, value_name = "DIR|URL")]
    from: String,

    /// The one of this name [default: the newest]
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,

    /// How many of the users' databases are looked at
    #[arg(long, value_name = "PART", default_value = "1%", group = "part")]
    sample: Sample,

    /// All of them
    #[arg(long, group = "part")]
    all: bool,

    /// A folder with room for some databases, and for the list of all [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    tmp: Option<PathBuf>,

    /// The result as JSON
    #[arg(long)]
    json: bool,
}

/// A backup in the list.
#[derive(Serialize)]
struct Listed {
    name: String,
    /// None of the following if its list cannot be read.
    finished: Option<String>,
    users: Option<u64>,
    missing: Option<u64>,
    bytes: Option<u64>,
    why: Option<String>,
}

/// Opens a place where backups are.
async fn open(from: &str, key: &BackupConfig) -> Result<Destination> {
    let place = Destination::existing(from, seal_of(key.replicate_key.as_deref())?)?;
    place.expect_backups().await?;
    Ok(place)
}

/// Lists them.
pub async fn list(command: List, key: &BackupConfig) -> Result<ExitCode> {
    let place = open(&command.from, key).await?;
    let tmp = Temporary::new(None)?;
    let mut listed = Vec::new();
    for found in place.backups().await? {
        let choice = Choice::Named(found.name.to_string());
        let name = found.name.to_string();
        listed.push(match choose(&place, &choice, tmp.path()).await {
            Ok((_, manifest)) => Listed {
                name,
                finished: Some(rfc3339(manifest.end.finished).to_string()),
                users: Some(manifest.end.tenants),
                missing: Some(manifest.end.missing),
                bytes: Some(manifest.end.bytes),
                why: None,
            },
            Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Config) => {
                let why = Some(error.detail());
                Listed { name, finished: None, users: None, missing: None, bytes: None, why }
            }
            Err(error) => return Err(error),
        });
    }
    let bad = listed.iter().any(|one| one.why.is_some());
    let heading = format!("{:<25} {:<24} {:>9} {:>8} {:>11}", "backup", "finished", "users", "missing", "size");
    let none = listed.is_empty().then(|| "there is no whole backup".to_owned());
    print_rows(&listed, command.json, Some(heading), none, |one| match one {
        Listed { name, why: Some(why), .. } => format!("{name:<25} {why}"),
        Listed { name, finished, users, missing, bytes, .. } => {
            let finished = finished.as_deref().unwrap_or_default();
            let [users, missing] = [users, missing].map(|count| count.unwrap_or_default());
            let size = HumanBytes(bytes.unwrap_or_default()).to_string();
            format!("{name:<25} {finished:<24} {users:>9} {missing:>8} {size:>11}")
        }
    })?;
    Ok(ExitCode::from(u8::from(bad)))
}

/// Verifies one.
pub async fn verify(command: Verify, key: &BackupConfig) -> Result<ExitCode> {
    let place = open(&command.from, key).await?;
    let choice = command.backup.clone().map_or(Choice::Newest, Choice::Named);
    let sample = if command.all { Sample::ALL } else { command.sample };
    let tmp = Temporary::new(command.tmp.as_deref())?;
    let bar = bar("{pos}/{len} {wide_bar} {prefix} {eta}")?;
    let shown = bar.clone();
    let progress = move |progress: Progress| {
        shown.set_length(progress.total);
        shown.set_position(progress.done);
        shown.set_prefix(HumanBytes(progress.bytes).to_string());
    };
    let looked = look_through(&place, &choice, sample, tmp.path(), &progress);
    let Some(verified) = unless_interrupted(looked).await? else {
        return Err(Error::new(ErrorKind::Conflict, "interrupted; the backup was not looked at to the end"));
    };
    bar.finish_and_clear();
    show(&verified, command.json)?;
    Ok(ExitCode::from(u8::from(verified.damaged > 0)))
}

fn show(verified: &Verified, json: bool) -> Result<()> {
    let Verified { backup, users, missing, checked, bytes, damaged, damages, .. } = verified;
    let finished = rfc3339(verified.finished).to_string();
    if json {
        let damages: Vec<_> = damages.iter().map(|one| json!({"id": one.id, "error": one.what})).collect();
        return print_json(&json!({
            "backup": backup, "finished": finished, "users": users, "missing": missing, "checked": checked, "bytes": bytes,
            "damaged": damaged, "damages": damages,
        }));
    }
    let users = counted(*users, "user", "users");
    let before = format!(
        "{backup}, of {finished}, has {users}; {missing} are missing in it\nthe catalog and {checked} databases ({}) were \
         looked at through and through, all others are there: {damaged} damaged",
        HumanBytes(*bytes)
    );
    print_rows(damages, false, Some(before), None, |one| {
        format!("  {}: {}", one.id.as_ref().map_or("the catalog", |id| id.as_str()), one.what)
    })
    .map(drop)
}

/// A folder that is removed with all that is in it when this is dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn new(above: Option<&Path>) -> Result<Self> {
        let letters: Vec<char> = ('a'..='z').collect();
        let name = format!("cubby-backup-{}", nanoid::nanoid!(12, &letters));
        let path = above.map_or_else(std::env::temp_dir, Path::to_owned).join(name);
        DirBuilder::new().mode(0o700).create(&path).map_err(|e| {
            let why = format!("{} cannot be made: name a folder with room with --tmp", path.display());
            Error::config(why).with_source(e)
        })?;
        // SQLite refuses links in paths.
        let path = path.canonicalize().map_err(|e| Error::io(path.display(), e))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

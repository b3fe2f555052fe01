//! Which installation a data folder belongs to, and which it may be used with.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    fence,
    format::{FORMAT_PATH, Format},
    remote::Remote,
    shards::Shards,
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    sqlite::flush,
    tenants::disk::{marker::Marker, path::Layout},
};

/// Which installation a data folder belongs to, in `replica.json`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Belongs {
    /// As in the bucket's `meta/format.json`.
    pub installation: String,
    /// The bucket.
    pub url: String,
    /// Under which names servers on this folder may own the bucket: the last that is known to have claimed it, and those
    /// that have tried since. None if nothing is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
}

impl Belongs {
    /// What is noted of a data folder before a `server` on it claims the bucket.
    pub fn begun(installation: String, url: &str, before: Option<Self>, server: &str) -> Self {
        let before = before.filter(|before| before.installation == installation);
        let mut servers = before.map(|before| before.servers).unwrap_or_default();
        if !servers.is_empty() {
            servers.push(server.to_owned());
        }
        Self { installation, url: url.to_owned(), servers }
    }

    /// The same when it has claimed it.
    #[must_use]
    pub fn claimed(&self, server: &str) -> Self {
        Self { servers: vec![server.to_owned()], ..self.clone() }
    }

    /// Refuses a data folder that is older than what the bucket has: a server on another folder has owned it since.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) then; those of the bucket.
    pub async fn refuse_if_taken(&self, remote: &Remote) -> Result<()> {
        let Some(owner) = self.owner_since(remote).await? else { return Ok(()) };
        let url = remote.url();
        Err(Error::config(format!(
            "the server on {} has taken over {url} at {}, after this data folder was last used, and what it has is newer: to go \
             on with that, start with --restore and an empty folder; to give it up and go on with this folder, start with --new",
            owner.machine, owner.since
        )))
    }

    /// A server that is not on this folder, and has owned the bucket since this one was used.
    async fn owner_since(&self, remote: &Remote) -> Result<Option<fence::Owner>> {
        if self.servers.is_empty() {
            return Ok(None);
        }
        Ok(fence::read(remote).await?.filter(|owner| !self.servers.contains(&owner.server)))
    }
}

/// What a data folder is before it is used with a bucket.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Which installation it belongs to.
    pub belongs: Option<Belongs>,
    /// Whether a restore into it goes on.
    pub marker: Option<Marker>,
    /// Whether it has a catalog.
    pub has_data: bool,
    /// Whether it is to be restored.
    pub restore: bool,
    /// Whether what the bucket has may be given up.
    pub anew: bool,
}

/// The bucket's format, made if it has none and nothing is to be restored of it.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) if the two do not belong together, with what to do.
pub async fn installation(remote: &Remote, folder: &Folder, clock: &Clock) -> Result<Format> {
    let url = remote.url();
    let is_restored = folder.marker.is_some() || folder.restore && !folder.has_data;
    let Some(text) = remote.get(FORMAT_PATH).await? else {
        if is_restored {
            return Err(Error::config(format!(
                "there is no replica at {url} that could be restored: look whether the URL has the prefix that the lost \
                 server replicated to"
            )));
        }
        let format = Format::begin(clock.now())?;
        return match remote.put_new(FORMAT_PATH, format.encode()?.into()).await? {
            true => Ok(format),
            false => Err(Error::config(format!(
                "another server has begun to replicate to {url} at this moment: start again"
            ))),
        };
    };
    let format = Format::parse(&text)?;
    if let Some(marker) = folder.marker.as_ref().filter(|marker| marker.installation != format.installation) {
        return Err(Error::config(format!(
            "the data folder is being restored from {}, and {url} has the replica of another installation: start with \
             --replicate {}, which goes on; or empty the folder and begin anew",
            marker.url, marker.url
        )));
    }
    let ours = folder.belongs.as_ref().filter(|belongs| belongs.installation == format.installation);
    if let Some(belongs) = ours.filter(|_| folder.has_data && !folder.anew) {
        // Before anything of the folder is opened. It is looked at again when the bucket is claimed.
        belongs.refuse_if_taken(remote).await?;
    }
    if is_restored {
        return Ok(format);
    }
    let is_given_up = match ours {
        Some(belongs) => folder.anew && folder.has_data && belongs.owner_since(remote).await?.is_some(),
        None => folder.anew,
    };
    match ours {
        Some(_) if !is_given_up => Ok(format),
        _ if is_given_up => {
            let new = Format::begin(clock.now())?;
            let kept = format!("meta/format-{}.json", format.installation);
            remote.put(&kept, text).await?;
            Shards::begin_all_anew(remote).await?;
            remote.put(FORMAT_PATH, new.encode()?.into()).await?;
            Ok(new)
        }
        _ if folder.has_data => Err(Error::config(format!(
            "{url} has the replica of another installation than this data folder: choose another prefix; or, to give up what \
             is there, start with --new"
        ))),
        _ => Err(Error::config(format!(
            "the data folder is empty, and {url} has a replica: start with --restore, which brings its data back here; to \
             give up what is there and begin with nothing, start with --new"
        ))),
    }
}

fn path(layout: &Layout) -> PathBuf {
    layout.root().join("replica.json")
}

/// Which installation a data folder belongs to; none if it was never replicated.
pub fn read_belongs(layout: &Layout) -> Result<Option<Belongs>> {
    let path = path(layout);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path.display(), error)),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| {
            Error::config(format!("{} cannot be read: move it away, and choose a new prefix", path.display()))
                .with_source(e)
        }),
    }
}

/// Notes which installation a data folder belongs to.
pub fn write_belongs(layout: &Layout, belongs: &Belongs) -> Result<()> {
    if read_belongs(layout)?.as_ref() == Some(belongs) {
        return Ok(());
    }
    let text =
        serde_json::to_vec(belongs).map_err(|e| Error::internal("replica.json cannot be written").with_source(e))?;
    let (path, new) = (path(layout), layout.root().join("replica.json.new"));
    std::fs::create_dir_all(layout.root()).map_err(|e| Error::io(layout.root().display(), e))?;
    flush::remove(&new)?;
    flush::write_new(&new, &text)?;
    std::fs::rename(&new, &path).map_err(|e| Error::io(path.display(), e))?;
    flush::sync_folder(layout.root())
}

//! A place for backups: a folder of this machine, or a bucket.
//!
//! | object | content |
//! |---|---|
//! | `meta/format.json` | [`Format`]: whose backups they are; made once |
//! | `base/<tenant>/…-<sha256>.sqlite.zst` | a database file, as replication writes it; many backups name the same one |
//! | `backup/<name>/manifest.json.zst` | what a backup has; written last, so that a backup without one is none |
//! | `running/<name>` | a backup is being made: nobody removes anything meanwhile |
//!
//! What is encrypted has `.sealed` behind its name.

use std::{fs::File, path::Path};

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use serde::{Deserialize, Serialize};

use super::{installation, manifest::Manifest, name::Name, scratch::blocking};
use crate::{
    clock::{Millis, wire},
    config::replicate::variables,
    error::{Error, ErrorKind, Result},
    replica::{
        format::{FORMAT_PATH, Place},
        object,
        remote::{Object, Remote},
        seal::Seal,
    },
};

const VERSION: u32 = 1;
const KIND: &str = "backup";

const COPIES: &str = "base/";
const BACKUPS: &str = "backup/";
const MANIFEST: &str = "manifest.json.zst";
const SEALED: &str = ".sealed";
const RUNNING: &str = "running/";

/// Whose backups are at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "a name of the object's")]
pub struct Format {
    format: u32,
    kind: String,
    /// The data folder's number.
    pub installation: String,
    /// When the first was begun.
    #[serde(with = "wire")]
    pub created: Millis,
}

/// A place for backups.
#[derive(Clone)]
pub struct Destination {
    /// The place.
    pub remote: Remote,
    /// What encrypts what goes there.
    pub seal: Seal,
}

/// A backup at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: Name,
    /// The path of its manifest.
    pub path: String,
}

impl Destination {
    /// A folder, or what a URL names.
    pub fn open(to: &str, seal: Seal) -> Result<Self> {
        Ok(Self { remote: Remote::open(&url_of(to)?, &variables())?, seal })
    }

    /// A place where something is already, of which nothing is made.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it is a folder that is not there.
    pub fn existing(from: &str, seal: Seal) -> Result<Self> {
        let url = url_of(from)?;
        if url.strip_prefix("file://").is_some_and(|path| !Path::new(path).is_dir()) {
            let why = format!("there is no folder {from}: name the folder or URL that the copies went to");
            return Err(Error::new(ErrorKind::NotFound, why));
        }
        Ok(Self { remote: Remote::open(&url, &variables())?, seal })
    }

    /// Checks that backups are there.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there are none.
    pub async fn expect_backups(&self) -> Result<()> {
        if self.format().await?.is_none() {
            let url = self.url();
            let why =
                format!("there are no backups at {url}: name the folder or URL that `cubby backup --to` was given");
            return Err(Error::new(ErrorKind::NotFound, why));
        }
        Ok(())
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.remote.url().to_owned()
    }

    /// Whose backups are there; none if there are none.
    pub async fn format(&self) -> Result<Option<Format>> {
        /// What one of any version and kind has.
        #[derive(Deserialize)]
        struct Any {
            format: u32,
            kind: String,
        }
        let Some(text) = self.remote.get(FORMAT_PATH).await? else { return Ok(None) };
        let unreadable = |e: serde_json::Error| {
            let why = format!("{FORMAT_PATH} at {} is not what cubby writes: choose another place", self.url());
            Error::config(why).with_source(e)
        };
        let any: Any = serde_json::from_slice(&text).map_err(unreadable)?;
        if any.kind != KIND {
            return Err(Error::config(format!(
                "at {} is a {} and no backups; choose another prefix or folder",
                self.url(),
                any.kind
            )));
        }
        if any.format != VERSION {
            return Err(Error::config(format!(
                "the backups at {} have format {}, and this version of cubby knows only format {VERSION}: use the version \
                 that wrote them, or choose another place",
                self.url(),
                any.format
            )));
        }
        Ok(Some(serde_json::from_slice(&text).map_err(unreadable)?))
    }

    /// Makes the place that of a data folder, or checks that it is, and gives the folder's number.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if it is that of another one, whose backups would be removed as one's own.
    pub async fn claim(&self, root: &Path, now: Millis) -> Result<String> {
        let (own, there) = (installation::of(root)?, self.format().await?);
        let installation = match (own, there) {
            (Some(own), Some(there)) if own == there.installation => return Ok(own),
            (_, Some(there)) => return Err(self.of_another(&there, root)),
            (Some(own), None) => own,
            (None, None) => {
                let new = installation::new()?;
                // First here: a place whose number no folder has could not be used any more.
                installation::set(root, &new)?;
                new
            }
        };
        let format =
            Format { format: VERSION, kind: KIND.to_owned(), installation: installation.clone(), created: now };
        let text = serde_json::to_vec(&format).map_err(|e| Error::internal(FORMAT_PATH).with_source(e))?;
        if self.remote.put_new(FORMAT_PATH, text.into()).await? {
            return Ok(installation);
        }
        match self.format().await? {
            Some(there) if there.installation == installation => Ok(installation),
            Some(there) => Err(self.of_another(&there, root)),
            None => Err(Error::new(ErrorKind::Conflict, "somebody else is changing the place for backups; try again")),
        }
    }

    fn of_another(&self, there: &Format, root: &Path) -> Error {
        Error::config(format!(
            "the backups at {} are of another data folder (installation {}). Choose another prefix or folder; if they are of \
             this one, write that number into {}",
            self.url(),
            there.installation,
            root.join(installation::FILE).display()
        ))
    }

    /// The backups, oldest first.
    pub async fn backups(&self) -> Result<Vec<Found>> {
        let objects = self.remote.list(BACKUPS).await?;
        let mut found: Vec<Found> = objects.into_iter().filter_map(|object| parse_manifest_path(object.path)).collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// A backup by name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    pub async fn backup(&self, name: &str) -> Result<Found> {
        let found = self.backups().await?.into_iter().find(|found| found.name.as_str() == name);
        found.ok_or_else(|| {
            let why = format!("there is no backup {name} at {}; `cubby backup list` shows those that are", self.url());
            Error::new(ErrorKind::NotFound, why)
        })
    }

    /// Reads the manifest of a backup into an empty file.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if it is not whole.
    pub async fn manifest(&self, found: &Found, mut into: File) -> Result<Manifest> {
        object::fetch(&self.remote, &self.seal, &found.path, &mut into).await?;
        let name = found.name.clone();
        blocking(move || Manifest::read(into, name.as_str())).await
    }

    /// Writes the manifest of a backup, which is whole with it.
    pub async fn put_manifest(&self, name: &Name, file: File, sha256: [u8; 32]) -> Result<()> {
        let ending = if self.seal.is_on() { SEALED } else { "" };
        let path = format!("{BACKUPS}{name}/{MANIFEST}{ending}");
        object::upload(&self.remote, &self.seal, &path, file, sha256).await
    }

    /// The path of the copy of a tenant's file, by its name among the tenants.
    pub fn copy_path(&self, tenant: &str, sha256: &[u8; 32]) -> String {
        // One copy of each content: no chain is behind it.
        Place { tenant, epoch: 0, seq: 0 }.base_path(sha256, self.seal.is_on())
    }

    /// Notes that a backup is being made.
    pub async fn begin(&self, name: &str) -> Result<()> {
        self.remote.put(&format!("{RUNNING}{name}"), Bytes::from_static(b"{}")).await
    }

    /// Notes that it is not made any more.
    pub async fn end(&self, name: &str) -> Result<()> {
        self.remote.delete(&format!("{RUNNING}{name}")).await
    }

    /// The backups that are being made, or were cut short and not gone on with, and when each was begun by the clock of the
    /// place.
    pub async fn running(&self) -> Result<Vec<(String, Millis)>> {
        let objects = self.remote.list(RUNNING).await?;
        let running = objects.into_iter().filter_map(|object| {
            let name = object.path.strip_prefix(RUNNING)?.to_owned();
            Some((name, object.modified))
        });
        Ok(running.collect())
    }

    /// All copies of files that are there.
    pub fn copies(&self) -> Result<Copies> {
        Ok(Copies(self.remote.walk(COPIES)?))
    }

    /// Removes backups: first their manifests, by which they are no backups any more.
    pub async fn remove(&self, backups: &[Found]) -> Result<()> {
        let paths: Vec<String> = backups.iter().map(|found| found.path.clone()).collect();
        self.remote.delete_all(&paths).await
    }
}

/// The copies of files at a place, some at a time.
pub struct Copies(BoxStream<'static, Result<Object>>);

impl Copies {
    /// The next ones, so many at most; none at the end.
    pub async fn page(&mut self, most: usize) -> Result<Vec<Object>> {
        let mut page = Vec::new();
        while page.len() < most
            && let Some(object) = self.0.next().await
        {
            page.push(object?);
        }
        Ok(page)
    }
}

fn parse_manifest_path(path: String) -> Option<Found> {
    let (name, file) = path.strip_prefix(BACKUPS)?.split_once('/')?;
    let name = name.parse().ok()?;
    (file.strip_suffix(SEALED).unwrap_or(file) == MANIFEST).then_some(Found { name, path })
}

/// What encrypts with the keys of a file, or nothing without one. May block.
pub fn seal_of(keys: Option<&Path>) -> Result<Seal> {
    let Some(keys) = keys else { return Ok(Seal::none()) };
    let text = std::fs::read_to_string(keys).map_err(|e| {
        let why = format!("the key file {} (CUBBY_REPLICATE_KEY) cannot be read", keys.display());
        Error::config(why).with_source(e)
    })?;
    Seal::from_key_file(&text)
}

/// The URL of a place that is named as one, or as a folder.
pub fn url_of(to: &str) -> Result<String> {
    if to.contains("://") {
        return Ok(to.to_owned());
    }
    let wrong = |what: &str| Error::config(format!("the folder for backups {to:?} {what}"));
    if to.is_empty() {
        return Err(wrong("has no name: write it as a path, or a URL such as s3://bucket/prefix"));
    }
    let path = std::path::absolute(to).map_err(|e| wrong("cannot be found").with_source(e))?;
    let path = match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(path), ..) => path,
        // It is made when something is written there, if the one above it is there.
        (Err(_), Some(above), Some(name)) => match above.canonicalize() {
            Ok(above) => above.join(name),
            Err(e) => return Err(wrong("has no folder above it: check that its disk is mounted").with_source(e)),
        },
        _ => return Err(wrong("has no name: name a folder in which backups are kept")),
    };
    let text = path.to_str().ok_or_else(|| wrong("has a name that is not UTF-8: choose another one"))?;
    Ok(format!("file://{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_url_and_a_url_is_left_as_it_is() {
        let folder = tempfile::TempDir::new().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let new = folder.path().join("x/../new");
        std::fs::create_dir(folder.path().join("x")).unwrap();
        assert_eq!(url_of(new.to_str().unwrap()).unwrap(), format!("file://{}", root.join("new").display()));
        assert_eq!(url_of("s3://bucket/prefix").unwrap(), "s3://bucket/prefix");
        assert!(url_of("").is_err() && url_of("/").is_ok());
        assert!(url_of(folder.path().join("not/there").to_str().unwrap()).is_err());
    }

    #[test]
    fn only_manifests_are_backups() {
        let name = "20261123T071500Z-abcdefgh";
        for path in [format!("backup/{name}/manifest.json.zst"), format!("backup/{name}/manifest.json.zst.sealed")] {
            let found = parse_manifest_path(path.clone()).unwrap();
            assert_eq!((found.name.as_str(), found.path), (name, path));
        }
        for path in
            [format!("backup/{name}/manifest.json"), format!("backup/{name}"), "backup/x/manifest.json.zst".into()]
        {
            assert_eq!(parse_manifest_path(path), None);
        }
    }

    #[tokio::test]
    async fn a_place_is_of_one_data_folder() {
        let place = Destination::open("memory:///backups-of-one", Seal::none()).unwrap();
        let (one, other) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
        let own = place.claim(one.path(), 0).await.unwrap();
        assert_eq!(place.claim(one.path(), 1).await.unwrap(), own);
        let refused = place.claim(other.path(), 2).await.unwrap_err();
        assert!(refused.message().contains(&own), "{refused}");
        installation::set(other.path(), &own).unwrap();
        assert_eq!(place.claim(other.path(), 3).await.unwrap(), own);
        place.remote.put(FORMAT_PATH, Bytes::from_static(b"{\"format\":1,\"kind\":\"replica\"}")).await.unwrap();
        assert!(place.claim(one.path(), 4).await.unwrap_err().message().contains("replica"));
    }
}

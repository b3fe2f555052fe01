//! Where copies are: a bucket of S3, Google or Azure, or a folder on another disk.
//!
//! A [`Remote`] keeps connections that belong to the runtime that made them, so it is used in one runtime alone.
//!
//! A folder (`file:///…`) cannot replace just one version of an object. It is for one machine whose disk may break,
//! and for trying out: a second server on the same folder is not kept away by it.

use std::{fmt, fs::File, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{GetOptions, ObjectMeta, ObjectStore, PutOptions, path::Path};

use self::{
    explain::{explain, is_missing},
    meter::Metered,
    place::{Place, Service},
};
use crate::{
    clock::Millis,
    error::{Error, Result},
};

mod connect;
pub mod explain;
#[doc(hidden)]
pub mod faulty;
mod meter;
mod place;
mod probe;
mod transfer;
mod write;

pub use self::meter::Meter;

/// A place for copies. Clones share their connections and counts.
#[derive(Clone)]
pub struct Remote {
    store: Arc<Metered>,
    url: Arc<str>,
    folder: bool,
}

/// What a list has of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its path below the prefix.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: Millis,
}

impl From<ObjectMeta> for Object {
    fn from(meta: ObjectMeta) -> Self {
        Self { path: meta.location.into(), bytes: meta.size, modified: meta.last_modified.timestamp_millis() }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.url)
    }
}

/// Checks a URL without connecting to what it names, and gives it as it is shown.
pub fn check(url: &str) -> Result<String> {
    Place::parse(url).map(|place| place.url())
}

impl Remote {
    /// The place that a URL names. `variables` are those of the environment that have credentials. Nothing is asked
    /// yet; a folder is made.
    ///
    /// # Errors
    /// The URL or a variable is wrong.
    pub fn open(url: &str, variables: &[(String, String)]) -> Result<Self> {
        let place = Place::parse(url)?;
        let store = connect::connect(&place, variables)?;
        let store = Arc::new(Metered::new(store));
        Ok(Self { store, url: place.url().into(), folder: place.service == Service::Folder })
    }

    /// A store that is there already, with a name for it.
    pub fn over(store: Arc<dyn ObjectStore>, name: &str) -> Self {
        Self { store: Arc::new(Metered::new(store)), url: name.into(), folder: false }
    }

    /// The store below the prefix. What is asked of it is counted.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store) as Arc<dyn ObjectStore>
    }

    /// The URL, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is a folder of this machine, which cannot replace just one version of an object, and keeps no
    /// attributes of objects.
    pub fn is_folder(&self) -> bool {
        self.folder
    }

    /// What was asked of it since it was opened.
    pub fn meter(&self) -> Meter {
        self.store.read()
    }

    /// Tries that objects can be written, read and deleted, and that conditional writes are honoured: without them, two
    /// servers could overwrite each other. Of a folder, only that an object is not created twice.
    ///
    /// # Errors
    /// With [`ErrorKind::Config`](crate::error::ErrorKind::Config) the store cannot be used as it is, and the message
    /// says why; with another it may be tried again.
    pub async fn probe(&self) -> Result<()> {
        probe::probe(&*self.store, !self.folder).await
    }

    /// The content of an object; none if it is not there.
    pub async fn get(&self, at: &str) -> Result<Option<Bytes>> {
        let stored = write::read(&*self.store, &path(at)?).await?;
        Ok(stored.map(|stored| stored.content))
    }

    /// The length of an object; none if it is not there.
    pub async fn length(&self, at: &str) -> Result<Option<u64>> {
        match self.store.get_opts(&path(at)?, GetOptions::new().with_head(true)).await {
            Ok(answer) => Ok(Some(answer.meta.size)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(explain(error)),
        }
    }

    /// Writes an object, whether it is there or not. After an error it may have been written.
    pub async fn put(&self, at: &str, content: Bytes) -> Result<()> {
        let done = self.store.put_opts(&path(at)?, content.into(), PutOptions::default()).await;
        done.map(drop).map_err(explain)
    }

    /// Creates an object, and says whether it has this content now; false if another one is there. Who must know that
    /// nobody else created it puts something random into it.
    pub async fn put_new(&self, at: &str, content: Bytes) -> Result<bool> {
        write::create(&*self.store, &path(at)?, &content).await
    }

    /// Writes a whole file as an object: a large one in parts, so that it is never in memory. Parts of what was not
    /// finished are removed, or, if this process ends, by a rule of the bucket for unfinished uploads.
    pub async fn put_file(&self, at: &str, file: File) -> Result<()> {
        transfer::put_file(&*self.store, &path(at)?, file).await
    }

    /// Writes an object into an empty file, and gives its length; none if it is not there.
    pub async fn get_file(&self, at: &str, into: &File) -> Result<Option<u64>> {
        transfer::get_file(&*self.store, &path(at)?, into).await
    }

    /// Deletes an object, if it is there.
    pub async fn delete(&self, at: &str) -> Result<()> {
        self.delete_all(&[at.to_owned()]).await
    }

    /// Deletes objects, those that are there, many with a request.
    ///
    /// # Errors
    /// The first of those that failed; the others were tried, too.
    pub async fn delete_all(&self, all: &[String]) -> Result<()> {
        let paths = all.iter().map(|at| path(at)).collect::<Result<Vec<_>>>()?;
        let mut answers = self.store.delete_stream(stream::iter(paths.into_iter().map(Ok)).boxed());
        let mut failed = None;
        while let Some(answer) = answers.next().await {
            if let Err(error) = answer
                && !is_missing(&error)
            {
                failed = failed.or_else(|| Some(explain(error)));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The objects below a folder, or all for an empty one.
    pub async fn list(&self, below: &str) -> Result<Vec<Object>> {
        self.walk(below)?.try_collect().await
    }

    /// The same one by one, since there may be many.
    pub fn walk(&self, below: &str) -> Result<BoxStream<'static, Result<Object>>> {
        let below = path(below)?;
        let listed = self.store.list((!below.is_root()).then_some(&below));
        Ok(listed.map(|entry| entry.map(Object::from).map_err(explain)).boxed())
    }

    /// The folders in a folder, each with its whole path.
    pub async fn folders(&self, below: &str) -> Result<Vec<String>> {
        let below = path(below)?;
        let listed = self.store.list_with_delimiter((!below.is_root()).then_some(&below)).await.map_err(explain)?;
        Ok(listed.common_prefixes.into_iter().map(String::from).collect())
    }
}

fn path(text: &str) -> Result<Path> {
    Path::parse(text).map_err(|e| Error::internal("a path in the bucket is not legal").with_source(e))
}

#[cfg(test)]
mod tests {
    use super::{
        faulty::{Failure, Faulty},
        *,
    };
    use crate::error::ErrorKind;

    async fn fill(remote: &Remote) {
        remote.probe().await.unwrap();
        remote.put("meta/a", "one".into()).await.unwrap();
        remote.put("base/x@|+:y/1", "two".into()).await.unwrap();
        assert!(remote.put_new("base/z/2", "three".into()).await.unwrap());
        assert!(!remote.put_new("base/z/2", "four".into()).await.unwrap());
        // As a repeated one whose answer was lost.
        assert!(remote.put_new("base/z/2", "three".into()).await.unwrap());
        assert_eq!(remote.get("base/z/2").await.unwrap().as_deref(), Some(b"three".as_slice()));
        assert_eq!(remote.length("base/z/2").await.unwrap(), Some(5));
        assert_eq!((remote.get("none").await.unwrap(), remote.length("none").await.unwrap()), (None, None));
        let mut paths: Vec<_> = remote.list("base").await.unwrap().into_iter().map(|object| object.path).collect();
        paths.sort();
        assert_eq!(paths, ["base/x@|+:y/1", "base/z/2"]);
        assert_eq!(remote.list("").await.unwrap().len(), 3);
        let mut folders = remote.folders("base").await.unwrap();
        folders.sort();
        assert_eq!(folders, ["base/x@|+:y", "base/z"]);
        remote.delete_all(&["base/z/2".to_owned(), "none".to_owned(), "meta/a".to_owned()]).await.unwrap();
        remote.delete("none").await.unwrap();
        assert_eq!(remote.list("").await.unwrap().len(), 1);
        assert_eq!(remote.get("../x").await.unwrap_err().kind(), ErrorKind::Internal);
    }

    #[tokio::test]
    async fn objects_are_kept_in_memory_and_in_folders() {
        let remote = Remote::open("memory:///objects_are_kept/a/prefix", &[]).unwrap();
        fill(&remote).await;
        assert_eq!(Faulty::named("objects_are_kept").objects(), [("a/prefix/base/x@|+:y/1".to_owned(), 3)]);
        assert!(remote.meter().puts > 5 && remote.meter().failures == 0);
        let folder = tempfile::tempdir().unwrap();
        let remote = Remote::open(&format!("file://{}/copies", folder.path().display()), &[]).unwrap();
        fill(&remote).await;
        assert!(remote.is_folder());
        assert_eq!(std::fs::read(folder.path().join("copies/base/x@|+:y/1")).unwrap(), b"two");
    }

    #[tokio::test]
    async fn a_lost_answer_of_a_create_is_no_refusal() {
        let faulty = Arc::new(Faulty::new());
        let remote = Remote::over(Arc::clone(&faulty) as Arc<dyn ObjectStore>, "test");
        faulty.lose_answers(1, 1);
        assert!(remote.put_new("a", "one".into()).await.unwrap());
        assert!(!remote.put_new("a", "two".into()).await.unwrap());
        assert_eq!(remote.put("a", "three".into()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn failures_have_the_kind_of_what_can_be_done() {
        let faulty = Arc::new(Faulty::new());
        let remote = Remote::over(Arc::clone(&faulty) as Arc<dyn ObjectStore>, "test");
        for (failure, kind, word) in [
            (Failure::Unavailable, ErrorKind::Unavailable, "reached"),
            (Failure::Forbidden, ErrorKind::Config, "policy"),
            (Failure::Full, ErrorKind::Unavailable, "full"),
        ] {
            faulty.fail(Some(failure));
            let errors = [
                remote.put_new("a", "x".into()).await.unwrap_err(),
                remote.get("a").await.unwrap_err(),
                remote.delete("a").await.unwrap_err(),
                remote.list("").await.unwrap_err(),
                remote.probe().await.unwrap_err(),
            ];
            for error in errors {
                assert!(error.kind() == kind && error.message().contains(word), "{error:?}");
            }
        }
        assert!(remote.meter().failures >= 15);
    }
}

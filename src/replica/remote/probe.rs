//! Whether a store honours conditional writes, on which it rests that two servers do not overwrite each other.

use std::{
    hash::{BuildHasher, RandomState},
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use object_store::{Error as StoreError, ObjectStore, PutMode, PutOptions, UpdateVersion, path::Path};

use super::{
    explain::explain,
    write::{create, read},
};
use crate::error::{Error, ErrorKind, Result};

/// Writes an object, and tries what must be refused. `updates` is whether the store can replace just one version: a
/// folder cannot.
pub async fn probe(store: &dyn ObjectStore, updates: bool) -> Result<()> {
    let random = RandomState::new().hash_one((SystemTime::now(), std::process::id()));
    let path = Path::from(format!("meta/probe-{random:016x}"));
    let done = tried(store, &path, random, updates).await;
    let mut removed = store.delete_stream(stream::iter([Ok(path.clone())]).boxed());
    while let Some(removed) = removed.next().await {
        if let Err(error) = removed {
            let error = explain(error);
            // What may not delete fills the bucket, and keeps what is to be erased.
            if done.is_ok() && error.kind() == ErrorKind::Config {
                return Err(error);
            }
            tracing::debug!(%error, %path, "what a probe wrote to the bucket could not be removed");
        }
    }
    done
}

async fn tried(store: &dyn ObjectStore, path: &Path, random: u64, updates: bool) -> Result<()> {
    let content = |of: &str| Bytes::from(format!("cubby tries conditional writes: {of} {random:016x}"));
    let (first, second, third) = (content("first"), content("second"), content("third"));
    if !create(store, path, &first).await? {
        return Err(Error::config(
            "the store has another object than the one that was just created: it cannot keep copies",
        ));
    }
    match store.put_opts(path, third.clone().into(), PutOptions::from(PutMode::Create)).await {
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {}
        Err(error) => return Err(explain(error)),
        Ok(_) => return Err(not_honoured("creates an object that is there already (If-None-Match: *)")),
    }
    let Some(stored) = read(store, path).await? else { return Err(lost()) };
    if stored.content != first {
        return Err(not_honoured("replaced an object by one whose creation it refused (If-None-Match: *)"));
    }
    if !updates {
        return Ok(());
    }
    if stored.version.e_tag.is_none() && stored.version.version.is_none() {
        return Err(not_honoured("names no version of an object (ETag)"));
    }
    update(store, path, &second, stored.version.clone()).await?;
    // The version that was replaced just now.
    let stale = PutOptions::from(PutMode::Update(stored.version));
    match store.put_opts(path, third.into(), stale).await {
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {}
        Err(error) => return Err(explain(error)),
        Ok(_) => return Err(not_honoured("replaces an object that is not the version named (If-Match)")),
    }
    match read(store, path).await? {
        Some(stored) if stored.content == second => Ok(()),
        Some(_) => Err(not_honoured("replaced an object by one that it refused (If-Match)")),
        None => Err(lost()),
    }
}

/// Replaces the version named. If its answer is lost, what is stored tells whether it was done.
async fn update(store: &dyn ObjectStore, path: &Path, content: &Bytes, version: UpdateVersion) -> Result<()> {
    let options = PutOptions::from(PutMode::Update(version));
    let Err(error) = store.put_opts(path, content.clone().into(), options).await else { return Ok(()) };
    match read(store, path).await {
        Ok(Some(stored)) if stored.content == *content => Ok(()),
        Ok(_) if matches!(error, StoreError::Precondition { .. } | StoreError::AlreadyExists { .. }) => {
            Err(not_honoured("refuses to replace the version that it has just named (If-Match)"))
        }
        _ => Err(explain(error)),
    }
}

fn not_honoured(what: &str) -> Error {
    Error::config(format!(
        "the store {what}: without conditional writes two servers could overwrite each other's copies. Use one that \
         honours them, as AWS S3, Google Cloud Storage, Azure Blob Storage and Cloudflare R2 do, or a newer version of \
         this one"
    ))
}

fn lost() -> Error {
    Error::config(
        "the store does not have an object that was just written: use one that shows what it has acknowledged, and \
         look for rules of the bucket that remove objects",
    )
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures_util::stream::BoxStream;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutPayload,
        PutResult, Result as StoreResult, local::LocalFileSystem, memory::InMemory,
    };

    use super::{super::faulty::Faulty, *};

    /// Forgets the conditions that `forgets` names.
    #[derive(Debug)]
    struct Careless {
        inner: InMemory,
        forgets: fn(&PutMode) -> bool,
    }

    impl std::fmt::Display for Careless {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Careless")
        }
    }

    #[async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(&self, path: &Path, payload: PutPayload, mut opts: PutOptions) -> StoreResult<PutResult> {
            if (self.forgets)(&opts.mode) {
                opts.mode = PutMode::Overwrite;
            }
            self.inner.put_opts(path, payload, opts).await
        }

        async fn put_multipart_opts(
            &self,
            path: &Path,
            opts: PutMultipartOptions,
        ) -> StoreResult<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(path, opts).await
        }

        async fn get_opts(&self, path: &Path, options: GetOptions) -> StoreResult<GetResult> {
            self.inner.get_opts(path, options).await
        }

        fn delete_stream(&self, paths: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
            self.inner.delete_stream(paths)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    #[tokio::test]
    async fn a_store_that_honours_conditions_passes_and_is_left_empty() {
        let store = InMemory::new();
        probe(&store, true).await.unwrap();
        assert_eq!(store.list(None).count().await, 0);
        let folder = tempfile::tempdir().unwrap();
        let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        probe(&store, false).await.unwrap();
        assert_eq!(probe(&store, true).await.unwrap_err().kind(), ErrorKind::Config);
    }

    #[tokio::test]
    async fn a_store_that_forgets_a_condition_is_refused() {
        let create: fn(&PutMode) -> bool = |mode| matches!(mode, PutMode::Create);
        let update: fn(&PutMode) -> bool = |mode| matches!(mode, PutMode::Update(_));
        for (forgets, word) in [(create, "If-None-Match"), (update, "If-Match")] {
            let store = Careless { inner: InMemory::new(), forgets };
            let error = probe(&store, true).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.message().contains(word), "{error}");
            assert_eq!(store.list(None).count().await, 0);
        }
    }

    #[tokio::test]
    async fn a_lost_answer_is_no_refusal() {
        for seed in 1..50 {
            let store = Faulty::new();
            store.lose_answers(2, seed);
            probe(&store, true).await.unwrap();
            assert_eq!(store.objects(), []);
        }
    }
}

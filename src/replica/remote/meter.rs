//! Counts requests to object storage, for its costs.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart, path::Path,
};

/// How many requests there were. Those that the client repeats by itself count once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meter {
    /// Objects written; for one in parts its begin and its end.
    pub puts: u64,
    /// Parts of objects written.
    pub parts: u64,
    /// Objects read, or ranges of them.
    pub gets: u64,
    /// Objects looked at without their content.
    pub heads: u64,
    /// Pages of lists.
    pub lists: u64,
    /// Objects deleted. A request may delete many.
    pub deletes: u64,
    /// Objects copied or renamed within the bucket.
    pub copies: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Requests that failed. That an object is there or not, or is another one, is an answer.
    pub failures: u64,
}

impl Meter {
    /// All requests; parts are requests, too.
    pub fn requests(&self) -> u64 {
        self.puts + self.parts + self.gets + self.heads + self.lists + self.deletes + self.copies
    }
}

#[derive(Default)]
struct Counts {
    puts: AtomicU64,
    parts: AtomicU64,
    gets: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    copies: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    failures: AtomicU64,
}

impl Counts {
    fn failed(&self, error: &Error) {
        let answers = matches!(
            error,
            Error::NotFound { .. }
                | Error::AlreadyExists { .. }
                | Error::Precondition { .. }
                | Error::NotModified { .. }
        );
        if !answers {
            self.failures.fetch_add(1, Relaxed);
        }
    }

    fn seen<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| self.failed(error))
    }

    fn sent(&self, payload: &PutPayload) {
        self.bytes_out.fetch_add(payload.content_length() as u64, Relaxed);
    }
}

/// A store that counts what is asked of it.
pub struct Metered {
    inner: Arc<dyn ObjectStore>,
    counts: Arc<Counts>,
}

/// The most entries that a store has on a page of a list.
const PAGE: u64 = 1_000;

impl Metered {
    /// Counts requests to `inner` from nought.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// The counts so far.
    pub fn read(&self) -> Meter {
        let counts = &self.counts;
        Meter {
            puts: counts.puts.load(Relaxed),
            parts: counts.parts.load(Relaxed),
            gets: counts.gets.load(Relaxed),
            heads: counts.heads.load(Relaxed),
            lists: counts.lists.load(Relaxed),
            deletes: counts.deletes.load(Relaxed),
            copies: counts.copies.load(Relaxed),
            bytes_out: counts.bytes_out.load(Relaxed),
            bytes_in: counts.bytes_in.load(Relaxed),
            failures: counts.failures.load(Relaxed),
        }
    }

    fn pages(&self, list: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (counts, mut entries) = (Arc::clone(&self.counts), 0_u64);
        counts.lists.fetch_add(1, Relaxed);
        let count = move |entry: &Result<ObjectMeta>| match entry {
            Ok(_) => {
                entries += 1;
                if entries.is_multiple_of(PAGE) {
                    counts.lists.fetch_add(1, Relaxed);
                }
            }
            Err(error) => counts.failed(error),
        };
        list.inspect(count).boxed()
    }
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metered({})", self.inner)
    }
}

impl fmt::Display for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Metered {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.counts.puts.fetch_add(1, Relaxed);
        self.counts.sent(&payload);
        self.counts.seen(self.inner.put_opts(location, payload, opts).await)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.counts.puts.fetch_add(1, Relaxed);
        let inner = self.counts.seen(self.inner.put_multipart_opts(location, opts).await)?;
        Ok(Box::new(MeteredUpload { inner, counts: Arc::clone(&self.counts) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let counts = Arc::clone(&self.counts);
        let content = !options.head;
        let of_kind = if content { &counts.gets } else { &counts.heads };
        of_kind.fetch_add(1, Relaxed);
        let mut result = counts.seen(self.inner.get_opts(location, options).await)?;
        if !content {
            return Ok(result);
        }
        result.payload = match result.payload {
            GetResultPayload::Stream(stream) => {
                let count = move |part: &Result<Bytes>| match part {
                    Ok(bytes) => {
                        counts.bytes_in.fetch_add(bytes.len() as u64, Relaxed);
                    }
                    Err(error) => counts.failed(error),
                };
                GetResultPayload::Stream(stream.inspect(count).boxed())
            }
            file @ GetResultPayload::File(..) => {
                counts.bytes_in.fetch_add(result.range.end - result.range.start, Relaxed);
                file
            }
        };
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        // Ranges that are near each other are read at once; how many requests that makes, only the store knows.
        self.counts.gets.fetch_add(1, Relaxed);
        let parts = self.counts.seen(self.inner.get_ranges(location, ranges).await)?;
        self.counts.bytes_in.fetch_add(parts.iter().map(|part| part.len() as u64).sum(), Relaxed);
        Ok(parts)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let asked = Arc::clone(&self.counts);
        let count = move |_: &Path| {
            asked.deletes.fetch_add(1, Relaxed);
        };
        let locations = locations.inspect_ok(count).boxed();
        let counts = Arc::clone(&self.counts);
        self.inner.delete_stream(locations).inspect_err(move |error| counts.failed(error)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let result = self.counts.seen(self.inner.list_with_delimiter(prefix).await);
        let entries = result.as_ref().map_or(0, |list| list.objects.len() + list.common_prefixes.len()) as u64;
        self.counts.lists.fetch_add(1 + entries / PAGE, Relaxed);
        result
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.counts.copies.fetch_add(1, Relaxed);
        self.counts.seen(self.inner.copy_opts(from, to, options).await)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.counts.copies.fetch_add(1, Relaxed);
        self.counts.seen(self.inner.rename_opts(from, to, options).await)
    }
}

struct MeteredUpload {
    inner: Box<dyn MultipartUpload>,
    counts: Arc<Counts>,
}

impl fmt::Debug for MeteredUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner, f)
    }
}

#[async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.counts.parts.fetch_add(1, Relaxed);
        self.counts.sent(&data);
        let (part, counts) = (self.inner.put_part(data), Arc::clone(&self.counts));
        Box::pin(async move { counts.seen(part.await) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.counts.puts.fetch_add(1, Relaxed);
        let done = self.inner.complete().await;
        self.counts.seen(done)
    }

    async fn abort(&mut self) -> Result<()> {
        let done = self.inner.abort().await;
        self.counts.seen(done)
    }
}

#[cfg(test)]
mod tests {
    use object_store::{PutMode, memory::InMemory};

    use super::*;

    #[tokio::test]
    async fn requests_are_counted_by_kind() {
        let store = Metered::new(Arc::new(InMemory::new()));
        let path = Path::from("a/b");
        store.put_opts(&path, "twelve bytes".into(), PutOptions::default()).await.unwrap();
        store.put_opts(&path, "x".into(), PutMode::Create.into()).await.unwrap_err();
        assert_eq!(store.get_opts(&path, GetOptions::default()).await.unwrap().bytes().await.unwrap().len(), 12);
        store.get_opts(&path, GetOptions::new().with_head(true)).await.unwrap();
        store.get_opts(&Path::from("none"), GetOptions::default()).await.unwrap_err();
        assert_eq!(store.get_ranges(&path, &[0..2, 4..5]).await.unwrap().concat(), b"twv");
        let mut upload = store.put_multipart_opts(&Path::from("c"), PutMultipartOptions::default()).await.unwrap();
        upload.put_part("part".into()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 2);
        store.list_with_delimiter(None).await.unwrap();
        let deleted = store.delete_stream(futures_util::stream::iter([Ok(path)]).boxed());
        assert_eq!(deleted.count().await, 1);
        let expected = Meter {
            puts: 4,
            parts: 1,
            gets: 3,
            heads: 1,
            lists: 2,
            deletes: 1,
            copies: 0,
            bytes_out: 17,
            bytes_in: 15,
            failures: 0,
        };
        assert_eq!(store.read(), expected);
        assert_eq!(expected.requests(), 12);
    }
}

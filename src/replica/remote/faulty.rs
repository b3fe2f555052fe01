//! A store in memory that fails on command, for tests.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
    client::{HttpError, HttpErrorKind},
    memory::InMemory,
    path::Path,
};
use parking_lot::Mutex;

/// How all requests fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answers.
    Unavailable,
    /// The credentials are not enough.
    Forbidden,
    /// There is no space.
    Full,
}

#[derive(Default)]
struct Orders {
    delay: Option<(Duration, Duration)>,
    failure: Option<Failure>,
    /// What fails alone: whatever has this in its path.
    held_back: Option<String>,
    /// One answer in so many is lost; none for 0.
    lost: u64,
    random: u64,
    requests: u64,
}

impl Orders {
    /// xorshift64: the same row for the same seed.
    fn draw(&mut self) -> u64 {
        let mut x = self.random.max(1);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        x
    }
}

/// What the store and what was begun in it have in common.
#[derive(Clone, Default)]
struct Commands(Arc<Mutex<Orders>>);

impl Commands {
    /// Delays a request, and fails it if all fail when its time has come.
    async fn pass(&self, path: &Path) -> Result<()> {
        let delay = {
            let mut orders = self.0.lock();
            orders.requests += 1;
            orders.delay.map(|(least, most)| {
                let span = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX);
                least + Duration::from_micros(orders.draw() % span.saturating_add(1))
            })
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let orders = self.0.lock();
        let is_held_back = orders.held_back.as_ref().is_some_and(|part| path.as_ref().contains(part.as_str()));
        let failure = if is_held_back { Some(Failure::Unavailable) } else { orders.failure };
        drop(orders);
        failure.map_or(Ok(()), |failure| Err(failed(failure, path)))
    }

    /// Keeps an answer back, or not.
    fn answer<T>(&self, answer: T) -> Result<T> {
        let mut orders = self.0.lock();
        match orders.lost > 0 && orders.draw().is_multiple_of(orders.lost) {
            true => Err(away(HttpErrorKind::Timeout, io::ErrorKind::TimedOut)),
            false => Ok(answer),
        }
    }
}

fn away(kind: HttpErrorKind, error: io::ErrorKind) -> Error {
    Error::Generic { store: "memory", source: Box::new(HttpError::new(kind, io::Error::from(error))) }
}

fn failed(failure: Failure, path: &Path) -> Error {
    match failure {
        Failure::Unavailable => away(HttpErrorKind::Connect, io::ErrorKind::ConnectionRefused),
        Failure::Forbidden => {
            Error::PermissionDenied { path: path.to_string(), source: "403 Forbidden, on command".into() }
        }
        Failure::Full => Error::Generic { store: "memory", source: io::Error::from(io::ErrorKind::StorageFull).into() },
    }
}

/// The store.
#[derive(Clone, Default)]
pub struct Faulty {
    inner: InMemory,
    commands: Commands,
}

static NAMED: LazyLock<Mutex<HashMap<String, Arc<Faulty>>>> = LazyLock::new(Mutex::default);

impl Faulty {
    /// An empty one that does as it is asked.
    pub fn new() -> Self {
        Self::default()
    }

    /// The one of this process that `memory:///name` is.
    pub fn named(name: &str) -> Arc<Self> {
        Arc::clone(NAMED.lock().entry(name.to_owned()).or_default())
    }

    /// Delays each request from now on by something between these.
    pub fn delay(&self, least: Duration, most: Duration) {
        self.commands.0.lock().delay = (!most.is_zero()).then_some((least, most));
    }

    /// Fails all requests from now on; none for no longer.
    pub fn fail(&self, failure: Option<Failure>) {
        self.commands.0.lock().failure = failure;
    }

    /// Fails requests for what has this in its path from now on; none for no longer.
    pub fn hold_back(&self, part: Option<&str>) {
        self.commands.0.lock().held_back = part.map(str::to_owned);
    }

    /// Loses the answer to one in `one_in` writes after it was done; 0 for none. The same ones for the same seed.
    pub fn lose_answers(&self, one_in: u64, seed: u64) {
        let mut orders = self.commands.0.lock();
        orders.lost = one_in;
        // Seeds that are near each other shall not begin alike.
        orders.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// How many requests there were, those that failed among them.
    pub fn requests(&self) -> u64 {
        self.commands.0.lock().requests
    }

    /// The paths of all objects with their lengths, in order, prefixes included.
    pub fn objects(&self) -> Vec<(String, u64)> {
        let listed = self.inner.list(None).try_collect::<Vec<_>>().now_or_never();
        let listed = listed.and_then(Result::ok).unwrap_or_default();
        listed.into_iter().map(|meta| (meta.location.to_string(), meta.size)).collect()
    }

    /// Flips the lowest bit of a byte of an object; of the last one if `at` is beyond it. Whether there was one.
    pub fn flip(&self, path: &str, at: usize) -> bool {
        let Ok(path) = Path::parse(path) else { return false };
        let got = self.inner.get_opts(&path, GetOptions::default()).now_or_never();
        let Some(Ok(got)) = got else { return false };
        let attributes = got.attributes.clone();
        let Some(Ok(bytes)) = got.bytes().now_or_never() else { return false };
        let mut bytes = bytes.to_vec();
        let at = at.min(bytes.len().saturating_sub(1));
        let Some(byte) = bytes.get_mut(at) else { return false };
        *byte ^= 1;
        let put = self.inner.put_opts(&path, bytes.into(), PutOptions::from(attributes)).now_or_never();
        matches!(put, Some(Ok(_)))
    }

    /// Removes an object. Whether there was one.
    pub fn remove(&self, path: &str) -> bool {
        let Ok(path) = Path::parse(path) else { return false };
        let there = self.inner.get_opts(&path, GetOptions::new().with_head(true)).now_or_never();
        let removed = self.inner.delete_stream(stream::iter([Ok(path)]).boxed()).count().now_or_never();
        matches!(there, Some(Ok(_))) && removed == Some(1)
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.commands.pass(location).await?;
        let done = self.inner.put_opts(location, payload, opts).await?;
        self.commands.answer(done)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.commands.pass(location).await?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(FaultyUpload { inner, location: location.clone(), commands: self.commands.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.commands.pass(location).await?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (commands, inner) = (self.commands.clone(), self.inner.clone());
        let delete = move |location: Path| {
            let (commands, inner) = (commands.clone(), inner.clone());
            async move {
                commands.pass(&location).await?;
                let one = stream::iter([Ok(location.clone())]).boxed();
                inner.delete_stream(one).try_for_each(|_| future::ready(Ok(()))).await?;
                Ok(location)
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (commands, inner, prefix) = (self.commands.clone(), self.inner.clone(), prefix.cloned());
        let passed = async move {
            commands.pass(prefix.as_ref().unwrap_or(&Path::ROOT)).await?;
            Ok::<_, Error>(inner.list(prefix.as_ref()))
        };
        stream::once(passed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.commands.pass(prefix.unwrap_or(&Path::ROOT)).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.commands.pass(to).await?;
        self.inner.copy_opts(from, to, options).await
    }
}

struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    location: Path,
    commands: Commands,
}

impl fmt::Debug for FaultyUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyUpload")
    }
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (commands, location) = (self.commands.clone(), self.location.clone());
        let part = self.inner.put_part(data);
        Box::pin(async move {
            commands.pass(&location).await?;
            part.await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.commands.pass(&self.location).await?;
        let done = self.inner.complete().await?;
        self.commands.answer(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.commands.pass(&self.location).await?;
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(store: &Faulty, path: &str, content: &'static str) -> Result<PutResult> {
        store.put_opts(&Path::from(path), content.into(), PutOptions::default()).await
    }

    async fn get(store: &Faulty, path: &str) -> Result<Vec<u8>> {
        let got = store.get_opts(&Path::from(path), GetOptions::default()).await?;
        Ok(got.bytes().await?.to_vec())
    }

    #[tokio::test]
    async fn it_fails_on_command_and_no_longer() {
        let store = Faulty::named("it_fails_on_command");
        put(&store, "a", "x").await.unwrap();
        for failure in [Failure::Unavailable, Failure::Forbidden, Failure::Full] {
            store.fail(Some(failure));
            assert!(put(&store, "a", "y").await.is_err() && get(&store, "a").await.is_err());
            assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());
        }
        Faulty::named("it_fails_on_command").fail(None);
        assert_eq!(get(&store, "a").await.unwrap(), b"x");
        assert_eq!(store.requests(), 11);
    }

    #[tokio::test]
    async fn a_lost_answer_is_one_of_a_write_that_was_done() {
        let lost = |seed| async move {
            let store = Faulty::new();
            store.lose_answers(6, seed);
            let mut lost = Vec::new();
            for n in 0..100 {
                let path = format!("{n:03}");
                if put(&store, &path, "x").await.is_err() {
                    lost.push(n);
                }
                assert_eq!(get(&store, &path).await.unwrap(), b"x");
            }
            lost
        };
        assert!((5..40).contains(&lost(1).await.len()));
        assert_eq!(lost(1).await, lost(1).await);
        assert_ne!(lost(1).await, lost(2).await);
    }

    #[tokio::test]
    async fn objects_can_be_damaged_and_removed() {
        let store = Faulty::new();
        put(&store, "p/a", "abc").await.unwrap();
        assert_eq!(store.objects(), [("p/a".to_owned(), 3)]);
        assert!(store.flip("p/a", 1) && store.flip("p/a", 99) && !store.flip("p/b", 0));
        assert_eq!(get(&store, "p/a").await.unwrap(), b"acb");
        assert!(store.remove("p/a") && !store.remove("p/a"));
    }
}

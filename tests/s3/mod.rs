//! A server that speaks S3's protocol over a map in memory, and fails as it is told. For tests, in this process.
//!
//! It checks signatures and honours conditional writes, as AWS S3 does; there is one bucket, [`BUCKET`].
#![allow(dead_code)]

mod bucket;
mod operations;

use std::{collections::BTreeMap, fmt, net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use s3s::{
    Body, HttpResponse,
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::{net::TcpListener, sync::oneshot};

pub use self::bucket::Object;
use self::{bucket::Bucket, operations::Operations};

pub const BUCKET: &str = "copies";
pub const ACCESS_KEY: &str = "AKIDTEST";
pub const SECRET_KEY: &str = "a secret key of some length";
pub const REGION: &str = "eu-north-1";

/// What is wrong with every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failure {
    #[default]
    None,
    /// Connections are cut before anything is done.
    Away,
    /// 503.
    Overloaded,
    /// 403.
    Refused,
    /// The credentials have expired.
    Expired,
    /// The bucket is in another region.
    Region,
    /// 507: no space is left. What reads or deletes is answered.
    Full,
    /// Each takes five seconds.
    Slow,
}

/// What `Failure::Slow` waits.
const SLOW: Duration = Duration::from_secs(5);

/// Conditions that are not honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ignores {
    /// `If-None-Match: *`.
    pub none_match: bool,
    /// `If-Match`.
    pub matches: bool,
}

/// What the server was told to do.
#[derive(Debug, Default)]
struct Told {
    failure: Failure,
    /// Milliseconds that each request takes more.
    latency: Range<u64>,
    /// The same of writes alone.
    write_latency: Range<u64>,
    /// Of the answers to writes, one in so many is lost; 0 is none.
    lose_one_in: u64,
    random: u64,
    ignores: Ignores,
    /// The most keys of a page of a list; 0 is as S3 has it.
    page: usize,
    requests: BTreeMap<String, u64>,
    lost: u64,
}

impl Told {
    /// splitmix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn within(&mut self, range: &Range<u64>) -> u64 {
        if range.is_empty() { 0 } else { range.start + self.random() % (range.end - range.start) }
    }
}

/// What the server's threads and its owner share.
#[derive(Debug, Default)]
pub struct Shared {
    bucket: Mutex<Bucket>,
    told: Mutex<Told>,
}

impl Shared {
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock()
    }

    fn ignores(&self) -> Ignores {
        self.told.lock().ignores
    }

    fn page(&self) -> usize {
        match self.told.lock().page {
            0 => usize::MAX,
            page => page,
        }
    }
}

/// The server. It ends when this is dropped.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Starts one on a port of its own, with an empty bucket.
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // A test may run on a runtime of its own.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("s3".to_owned()).spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, own) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self { shared, address, stop: Some(stop), thread: Some(thread.unwrap()) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a prefix of its bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// The variables of the environment that a client needs.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment_with(SECRET_KEY)
    }

    /// The same with another secret key.
    pub fn environment_with(&self, secret: &str) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_REGION", REGION),
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// What is wrong with every request from now on.
    pub fn fail(&self, failure: Failure) {
        self.shared.told.lock().failure = failure;
    }

    /// Each request takes so many milliseconds more.
    pub fn delay(&self, latency: Range<u64>) {
        self.shared.told.lock().latency = latency;
    }

    /// The same of each write.
    pub fn delay_writes(&self, latency: Range<u64>) {
        self.shared.told.lock().write_latency = latency;
    }

    /// Of the answers to writes that were done, one in so many is lost: half of them are cut, the others are 500. With
    /// 0 none is.
    pub fn lose_answers(&self, one_in: u64, seed: u64) {
        let mut told = self.shared.told.lock();
        told.lose_one_in = one_in;
        told.random = seed;
    }

    /// Answers that were lost so far.
    pub fn lost(&self) -> u64 {
        self.shared.told.lock().lost
    }

    /// Conditions that are not honoured from now on.
    pub fn ignore(&self, ignores: Ignores) {
        self.shared.told.lock().ignores = ignores;
    }

    /// Lists have pages of so many keys.
    pub fn page(&self, keys: usize) {
        self.shared.told.lock().page = keys;
    }

    /// How many requests of this method have come.
    pub fn requests(&self, method: &str) -> u64 {
        self.shared.told.lock().requests.get(method).copied().unwrap_or(0)
    }

    /// The keys that contain a text.
    pub fn keys(&self, containing: &str) -> Vec<String> {
        self.shared.bucket().keys().filter(|key| key.contains(containing)).cloned().collect()
    }

    /// The content of an object.
    pub fn content(&self, key: &str) -> Option<Bytes> {
        self.shared.bucket().get(key).map(|object| object.content.clone())
    }

    /// Flips a bit of an object. False if it has no such byte.
    pub fn flip(&self, key: &str, at: usize) -> bool {
        self.shared.bucket().flip(key, at)
    }

    /// Deletes an object behind the clients' backs. False if it was not there.
    pub fn remove(&self, key: &str) -> bool {
        self.shared.bucket().delete(key).is_some()
    }

    /// Uploads in parts that were begun and not ended.
    pub fn uploads(&self) -> usize {
        self.shared.bucket().uploads()
    }

    /// All objects, as they are now.
    pub fn snapshot(&self) -> BTreeMap<String, Object> {
        self.shared.bucket().snapshot()
    }

    /// Makes the bucket what it was.
    pub fn put_back(&self, objects: BTreeMap<String, Object>) {
        self.shared.bucket().put_back(objects);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why a connection is cut.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

/// Takes connections until it is dropped.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut builder = S3ServiceBuilder::new(Operations(shared.clone()));
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = builder.build();
    loop {
        // Without descriptors it is tried again.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (shared, service) = (shared.clone(), service.clone());
        tokio::spawn(async move {
            let answers = service_fn(move |request| answer(shared.clone(), service.clone(), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answers).await;
        });
    }
}

/// Does what a request asks, unless it is to fail.
async fn answer(
    shared: Arc<Shared>,
    service: S3Service,
    request: hyper::Request<Incoming>,
) -> Result<HttpResponse, Cut> {
    let method = request.method().clone();
    let is_write = matches!(method.as_str(), "PUT" | "POST" | "DELETE");
    let (failure, wait) = {
        let mut told = shared.told.lock();
        *told.requests.entry(method.to_string()).or_default() += 1;
        let (all, writes) = (told.latency.clone(), told.write_latency.clone());
        let wait = told.within(&all) + if is_write { told.within(&writes) } else { 0 };
        (told.failure, Duration::from_millis(wait))
    };
    // All of it, so that whoever sends it is answered and not cut.
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    match failure {
        Failure::None => {}
        Failure::Away => return Err(Cut),
        Failure::Overloaded => return Ok(error(503, "SlowDown", "Please reduce your request rate.")),
        Failure::Refused => return Ok(error(403, "AccessDenied", "Access Denied")),
        Failure::Expired => return Ok(error(400, "ExpiredToken", "The provided token has expired.")),
        Failure::Region => {
            let message = "The authorization header is malformed; the region is wrong; expecting 'us-west-2'";
            return Ok(error(400, "AuthorizationHeaderMalformed", message));
        }
        Failure::Full if is_write && method != hyper::Method::DELETE => {
            return Ok(error(507, "XMinioStorageFull", "Storage is full."));
        }
        Failure::Full => {}
        Failure::Slow => tokio::time::sleep(SLOW).await,
    }
    let request = hyper::Request::from_parts(parts, Body::from(body));
    let response = service.call(request).await.map_err(|_| Cut)?;
    if is_write {
        let mut told = shared.told.lock();
        let one_in = told.lose_one_in;
        if one_in > 0 && told.random().is_multiple_of(one_in) {
            told.lost += 1;
            if told.random().is_multiple_of(2) {
                return Err(Cut);
            }
            return Ok(error(500, "InternalError", "We encountered an internal error. Please try again."));
        }
    }
    Ok(response)
}

fn error(status: u16, code: &str, message: &str) -> HttpResponse {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let mut response = HttpResponse::new(Body::from(text));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/xml"));
    response
}

//! The exporter: OTLP over HTTP, by the project's HTTP client, in batches that a thread of the SDK makes.
//!
//! The SDK's own messages are not compiled in; what fails is told here, once a minute at most.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use opentelemetry::{Key, KeyValue, trace::TracerProvider};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData, SpanExporter},
};
use parking_lot::Mutex;
use reqwest::{Client, redirect};
use tokio::runtime::Handle;

use crate::{
    config::traces::Target,
    error::{Error, Result},
};

/// How long what is left may take to be exported at the end.
const LAST: Duration = Duration::from_secs(3);

/// How often failures are told.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The largest answer that is read, in bytes. It says how many spans the collector did not want.
const LONGEST_ANSWER: usize = 64 << 10;

/// What this process exports by.
struct Exporting {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    target: String,
}

static EXPORTING: OnceLock<Exporting> = OnceLock::new();

/// What begins spans; none if traces are sent nowhere.
pub(super) fn tracer() -> Option<&'static SdkTracer> {
    EXPORTING.get().map(|exporting| &exporting.tracer)
}

/// Where traces are sent to, for operators to read.
pub fn target() -> Option<String> {
    EXPORTING.get().map(|exporting| exporting.target.clone())
}

/// Starts to export traces, from this runtime, if the environment says where to. A process does it once.
///
/// # Errors
/// The settings cannot be used.
pub fn start() -> Result<()> {
    let Some(target) = Target::from_environment()? else { return Ok(()) };
    let why = Arc::<Mutex<Option<String>>>::default();
    let client = Sender { http: client(&target)?, runtime: Handle::current(), why: why.clone() };
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(target.url().as_str())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(target.timeout())
        .build()
        .map_err(|e| Error::config("traces cannot be exported").with_source(e))?;
    let exporter = Telling { exporter, why, lost: AtomicU64::new(0), told: Mutex::new(None) };
    let provider = SdkTracerProvider::builder()
        .with_resource(resource())
        .with_span_processor(BatchSpanProcessor::builder(exporter).build())
        .build();
    let exporting = Exporting { tracer: provider.tracer("cubby"), provider, target: target.shown() };
    tracing::info!(endpoint = exporting.target, "exporting traces");
    EXPORTING.set(exporting).map_err(|_| Error::internal("traces are exported already"))
}

/// Exports what is left, for a few seconds at most. The runtime must still run.
pub async fn stop() {
    let Some(exporting) = EXPORTING.get() else { return };
    let stopped = tokio::task::spawn_blocking(|| exporting.provider.shutdown_with_timeout(LAST)).await;
    if let Ok(Err(error)) = stopped {
        tracing::warn!(error = %error, "the last traces were not exported");
    }
}

fn client(target: &Target) -> Result<Client> {
    // A redirect would take the headers, in which there may be a key, to somebody else.
    let client = Client::builder().redirect(redirect::Policy::none()).timeout(target.timeout());
    let client = if target.url().scheme() == "https" { client.https_only(true) } else { client.no_proxy() };
    client.build().map_err(|e| Error::config("no TLS client can be made").with_source(e))
}

/// What the SDK reads of the environment, and the program's name and version where that says none.
fn resource() -> Resource {
    let read = Resource::builder().build();
    let name = read.get_ref(&Key::from_static_str("service.name")).map(|name| name.as_str().into_owned());
    let named = name.is_some_and(|name| !name.starts_with("unknown_service"));
    let all = Resource::builder_empty()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(read.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
    if named { all.build() } else { all.with_service_name("cubby").build() }
}

/// Sends requests from the server's runtime: the SDK exports on a thread that has none.
struct Sender {
    http: Client,
    runtime: Handle,
    /// Why the last request failed.
    why: Arc<Mutex<Option<String>>>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl HttpClient for Sender {
    fn send_bytes<'s, 'f>(
        &'s self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        let sent = self.runtime.spawn(send(self.http.clone(), request));
        Box::pin(async move {
            let answer = sent.await.map_err(HttpError::from).flatten();
            *self.why.lock() = match &answer {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(format!("the collector answered {}", answer.status())),
                Err(error) => Some(chain(&**error)),
            };
            answer
        })
    }
}

async fn send(http: Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let mut answer = http.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
    let mut made = Response::builder().status(answer.status());
    if let Some(headers) = made.headers_mut() {
        headers.extend(answer.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > LONGEST_ANSWER {
            return Err("the collector's answer is too long".into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(made.body(body.into())?)
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// An exporter that tells of its failures.
#[derive(Debug)]
struct Telling {
    exporter: opentelemetry_otlp::SpanExporter,
    why: Arc<Mutex<Option<String>>>,
    /// Spans that were not exported and not told of.
    lost: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let exported = self.exporter.export(batch).await;
        if let Err(error) = &exported {
            let lost = self.lost.fetch_add(count, Ordering::Relaxed) + count;
            let mut told = self.told.lock();
            if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                *told = Some(Instant::now());
                self.lost.store(0, Ordering::Relaxed);
                let why = self.why.lock().take().unwrap_or_else(|| error.to_string());
                tracing::warn!(error = why, spans = lost, "traces could not be exported");
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

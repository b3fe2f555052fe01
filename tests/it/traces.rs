//! Traces: what a collector hears of a request, and that nothing waits for it. A program of its own, since only a build with the
//! feature has them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::pedantic, missing_docs, unreachable_pub)]

#[path = "harness/mod.rs"]
mod harness;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener as Silent},
    path::Path,
    sync::Arc,
    time::Instant,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    trace::v1::Span,
};
use parking_lot::Mutex;
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

use harness::{
    Process,
    clerk::Clerk,
    cubby, migrations,
    sender::{SECRET, deliver, event, user},
};

const ADMIN: &str = "an operator's key of some length";

/// Longer than any test: what is exported then is exported by the shutdown.
const NEVER: &str = "3600000";

const SERVER: i32 = 2;

type Heard = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// A collector that keeps what it hears.
struct Collector {
    heard: Heard,
    address: SocketAddr,
}

impl Collector {
    async fn start() -> Self {
        async fn hear(State(heard): State<Heard>, body: Bytes) -> StatusCode {
            heard.lock().push(ExportTraceServiceRequest::decode(body).expect("protobuf"));
            StatusCode::OK
        }
        let heard = Heard::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/v1/traces", post(hear)).with_state(heard.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { heard, address }
    }

    fn spans(&self) -> Vec<Span> {
        let heard = self.heard.lock();
        let resources = heard.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    /// What was heard when the server has ended, after which it can hear no more.
    async fn after(&self, server: Process) -> Vec<Span> {
        server.signal("TERM");
        let ended = tokio::task::spawn_blocking(|| server.wait()).await.unwrap();
        assert!(ended.success(), "{ended:?}");
        self.spans()
    }
}

/// A server that exports to `to`, when it ends if nothing else is said.
fn serve(folder: &Path, to: SocketAddr, variables: &[(&str, &str)], flags: &[&str]) -> Process {
    let mut command = cubby();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{to}")).env("OTEL_BSP_SCHEDULE_DELAY", NEVER);
    command.envs(variables.iter().copied());
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"]).arg(folder).args(flags);
    Process::spawn(command)
}

fn attributes(of: &[KeyValue]) -> BTreeMap<String, Value> {
    let value = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::IntValue(number)) => json!(number),
        other => panic!("{other:?}"),
    };
    of.iter().map(|attribute| (attribute.key.clone(), value(&attribute.value))).collect()
}

#[track_caller]
fn one<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(named.len(), 1, "{name}: {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    named[0]
}

/// The names of a span's children, in the order in which they began.
fn children(spans: &[Span], of: &Span) -> Vec<String> {
    let mut found: Vec<_> = spans.iter().filter(|span| span.parent_span_id == of.span_id).collect();
    assert!(found.iter().all(|span| span.trace_id == of.trace_id));
    found.sort_by_key(|span| span.start_time_unix_nano);
    found.into_iter().map(|span| span.name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_a_span_named_by_its_route_with_a_child_for_each_thing_that_it_waited_for() {
    let (collector, folder) = (Collector::start().await, TempDir::new().unwrap());
    let server = serve(
        folder.path(),
        collector.address,
        &[("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")],
        &[],
    );
    let made = server.client.post("/user_secret", json!({"text": "x"})).await.expect(201);
    server.client.get("/user_secret").await.expect(200);
    server.client.get("/nowhere/at/all").await.expect(404);
    let port = server.address.port();
    let spans = collector.after(server).await;

    let post = one(&spans, "POST /{user_id}");
    assert_eq!((post.kind, post.parent_span_id.len()), (SERVER, 0));
    let told = attributes(&post.attributes);
    for (name, value) in [
        ("http.request.method", json!("POST")),
        ("http.route", json!("/{user_id}")),
        ("http.response.status_code", json!(201)),
        ("url.scheme", json!("http")),
        ("server.address", json!("127.0.0.1")),
        ("server.port", json!(port)),
        ("cubby.request_id", json!(made.header("x-request-id"))),
    ] {
        assert_eq!(told.get(name), Some(&value), "{name}: {told:?}");
    }
    // On a slow machine it is tried again in the queue.
    let of_post = children(&spans, post);
    assert_eq!((of_post[0].as_str(), of_post.last().unwrap().as_str()), ("lease", "flush"), "{of_post:?}");
    assert!(of_post[1..].iter().all(|name| ["queue", "transaction", "flush"].contains(&name.as_str())), "{of_post:?}");
    assert!(of_post.contains(&"transaction".to_owned()), "{of_post:?}");
    assert_eq!(children(&spans, one(&spans, "lease")), ["open"]);
    let read = one(&spans, "GET /{user_id}");
    assert!(children(&spans, read).contains(&"read".to_owned()));
    assert_ne!(read.trace_id, post.trace_id);
    one(&spans, "GET");

    // Where the log names whom a database is of, and nowhere else.
    let open = one(&spans, "open");
    assert_eq!(attributes(&open.attributes).get("cubby.tenant"), Some(&json!("user_secret")));
    let others: Vec<_> = spans.iter().filter(|span| span.span_id != open.span_id).collect();
    assert!(!format!("{others:?}").contains("user_secret"), "{others:#?}");
    assert!(spans.iter().all(|span| !span.name.contains("user_secret")));

    let heard = collector.heard.lock();
    let resource = attributes(&heard[0].resource_spans[0].resource.as_ref().unwrap().attributes);
    assert_eq!(resource["service.name"], "cubby");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(resource["deployment.environment.name"], "test");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_trace_is_continued_and_whether_it_is_sampled_is_followed_by_a_parent_based_sampler() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    for (sampler, heard) in [("parentbased_always_on", 1), ("always_on", 2), ("parentbased_always_off", 1)] {
        let (collector, folder) = (Collector::start().await, TempDir::new().unwrap());
        let variables = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_SERVICE_NAME", "notes")];
        let server = serve(folder.path(), collector.address, &variables, &[]);
        for flag in ["01", "00"] {
            let ask = server.client.request("GET", "/healthz");
            let ask = ask.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-{flag}"));
            server.client.send(ask.header("tracestate", "a=1")).await.expect(200);
        }
        let spans = collector.after(server).await;
        assert_eq!(spans.len(), heard, "{sampler}: {spans:#?}");
        for span in &spans {
            assert_eq!(hex::encode(&span.trace_id), TRACE);
            assert_eq!(hex::encode(&span.parent_span_id), "b7ad6b7169203331");
            assert_eq!(span.trace_state, "a=1");
        }
        let heard = collector.heard.lock();
        let resource = attributes(&heard[0].resource_spans[0].resource.as_ref().unwrap().attributes);
        assert_eq!(resource["service.name"], "notes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_trace_context_begins_a_trace_and_a_long_state_is_not_kept() {
    let (collector, folder) = (Collector::start().await, TempDir::new().unwrap());
    let server = serve(folder.path(), collector.address, &[], &[]);
    let ask = server.client.request("GET", "/healthz").header("traceparent", "00-0-1-01");
    server.client.send(ask).await.expect(200);
    let long = format!("a={}", "x".repeat(600));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let ask = server.client.request("GET", "/healthz").header("traceparent", parent).header("tracestate", long);
    server.client.send(ask).await.expect(200);
    let twice = server.client.request("GET", "/healthz").header("traceparent", parent).header("traceparent", parent);
    server.client.send(twice).await.expect(200);
    let odd = server.client.request("BREW", "/healthz").header("host", "<script>");
    server.client.send(odd).await;
    let spans = collector.after(server).await;
    let began = spans.iter().filter(|span| span.parent_span_id.is_empty()).count();
    assert_eq!((spans.len(), began), (4, 3), "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace_state.is_empty()));
    assert!(!format!("{spans:?}").contains("BREW") && !format!("{spans:?}").contains("<script"), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_deliveries_and_reconciles_have_spans() {
    let (collector, folder, clerk) = (Collector::start().await, TempDir::new().unwrap(), Clerk::start().await);
    let before = Process::start(folder.path(), &[]);
    before.client.note("user_a", "x").await;
    before.signal("TERM");
    assert!(before.wait().success());

    let newer = migrations(&[("V3__more.sql", "CREATE TABLE more (x ANY) STRICT;")]);
    let mut flags = clerk.flags();
    flags.extend(["--migrations", newer.path().to_str().unwrap()].map(str::to_owned));
    flags.extend(["--admin-api-key", ADMIN, "--clerk-webhook-secret", SECRET].map(str::to_owned));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = serve(folder.path(), collector.address, &[], &flags);
    server.client.get("/user_a").await.expect(200);
    clerk.add(user("user_a", "a", 10));
    clerk.add(user("user_b", "b", 10));
    deliver(&server.client, "one", &event("user.created", user("user_b", "b", 10), 1)).await;
    let sync = server.client.request("POST", "/api/admin/sync-users").bearer_auth(ADMIN);
    server.client.send(sync).await.expect(200);
    let spans = collector.after(server).await;

    let read = one(&spans, "GET /{user_id}");
    assert_eq!(children(&spans, read)[..2], ["lease", "read"]);
    let opened = one(&spans, "migrate");
    let open = spans.iter().find(|span| span.span_id == opened.parent_span_id).unwrap();
    assert_eq!((open.name.as_str(), &open.trace_id), ("open", &read.trace_id));
    let delivered = one(&spans, "POST /webhooks/clerk");
    assert_eq!(children(&spans, delivered), ["delivery"]);
    assert!(children(&spans, one(&spans, "delivery")).contains(&"transaction".to_owned()));
    // A trace of its own, which names its cause.
    let (run, cause) = (one(&spans, "reconcile"), one(&spans, "POST /api/admin/sync-users"));
    assert_ne!(run.trace_id, cause.trace_id);
    assert_eq!(run.links[0].trace_id, cause.trace_id);
    assert!(children(&spans, run).contains(&"transaction".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_gone_fails_no_request_and_no_shutdown_and_is_told_once() {
    let (folder, began) = (TempDir::new().unwrap(), Instant::now());
    let gone = Silent::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // A queue of one: it is full all the time.
    let variables = [("OTEL_BSP_SCHEDULE_DELAY", "1"), ("OTEL_BSP_MAX_QUEUE_SIZE", "1")];
    let server = serve(folder.path(), gone, &variables, &["--admin-api-key", ADMIN]);
    let told = "traces could not be exported";
    for at in 0..200 {
        server.client.note("ada", &at.to_string()).await;
    }
    assert_eq!(server.client.texts("ada").await.len(), 200);
    let lines = server.logged(told).await;
    assert!(lines[0]["error"].as_str().unwrap().contains("refused"), "{lines:?}");
    // More of them fail, and the log does not have each.
    for _ in 0..200 {
        server.client.get("/healthz").await.expect(200);
    }
    let (lines, minutes) = (server.logged(told).await, began.elapsed().as_secs() / 60);
    assert!(lines.len() as u64 <= 1 + minutes, "{lines:?}");
    server.signal("TERM");
    let ended = tokio::task::spawn_blocking(|| server.wait()).await.unwrap();
    assert!(ended.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_holds_up_neither_requests_nor_the_end() {
    let folder = TempDir::new().unwrap();
    // It takes connections, and nobody is there to answer.
    let silent = Silent::bind("127.0.0.1:0").unwrap();
    let variables = [("OTEL_BSP_SCHEDULE_DELAY", "1"), ("OTEL_EXPORTER_OTLP_TIMEOUT", NEVER)];
    let server = serve(folder.path(), silent.local_addr().unwrap(), &variables, &[]);
    for at in 0..20 {
        server.client.note("ada", &at.to_string()).await;
    }
    // An export is under way, which would take an hour.
    let taken = tokio::task::spawn_blocking(move || silent.accept().map(|(stream, _)| (silent, stream)));
    let _held = taken.await.unwrap().unwrap();
    assert_eq!(server.client.texts("ada").await.len(), 20);
    server.signal("TERM");
    let ended = tokio::task::spawn_blocking(|| server.wait()).await.unwrap();
    assert!(ended.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_told_where_traces_go_and_no_key_in_it() {
    let (collector, folder) = (Collector::start().await, TempDir::new().unwrap());
    let to = format!("http://{}/v1/traces?key=hunter2", collector.address);
    let variables =
        [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", to.as_str()), ("OTEL_EXPORTER_OTLP_HEADERS", "key=hunter2")];
    let server = serve(folder.path(), collector.address, &variables, &["--admin-api-key", ADMIN]);
    let about = async |server: &Process| {
        let ask = server.client.request("GET", "/api/admin/about").bearer_auth(ADMIN);
        server.client.send(ask).await.expect(200).json()["traces"].clone()
    };
    assert_eq!(about(&server).await, format!("http://{}/v1/traces", collector.address));
    assert!(!format!("{:?}", server.log()).contains("hunter2"));
    one(&collector.after(server).await, "GET /api/admin/about");

    let quiet = Process::start(folder.path(), &["--admin-api-key", ADMIN]);
    assert_eq!(about(&quiet).await, Value::Null);

    let check = |name: &str, value: &str| {
        let output = cubby()
            .arg("check-config")
            .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &to)
            .env(name, value)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = check("OTEL_TRACES_SAMPLER", "always_on");
    assert!(code == Some(0) && text.contains("traces: exported to http://") && !text.contains("hunter2"), "{text}");
    let (code, text) = check("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    assert!(code == Some(2) && text.contains("wrong: OTEL_EXPORTER_OTLP_PROTOCOL"), "{text}");
}

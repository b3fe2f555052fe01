//! Spans, of the requests that are sampled.

use std::borrow::Cow;

use opentelemetry::{
    Context, KeyValue, StringValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Link, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use super::{Incoming, export};

tokio::task_local! {
    /// The span that those which are begun now are children of. It is recorded.
    static CURRENT: Context;
}

/// The longest `tracestate` that is taken over, in bytes: what others must pass on at least. Each span of a request keeps it.
const LONGEST_STATE: usize = 512;

/// The methods that the conventions know; others are named by none, or a caller would choose the names of spans.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY"];

/// A span that ends when this is dropped, even if others keep its context.
struct Ending(Context);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.span().end();
    }
}

/// The current span.
fn current() -> Option<Context> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Begins a span; none if nobody records it.
fn begin(name: impl Into<Cow<'static, str>>, kind: SpanKind, links: Vec<Link>, parent: &Context) -> Option<Ending> {
    let tracer = export::tracer()?;
    let builder = tracer.span_builder(name).with_kind(kind).with_links(links);
    let context = Context::new().with_span(builder.start_with_context(tracer, parent));
    context.span().is_recording().then_some(Ending(context))
}

fn child(name: &'static str) -> Option<Ending> {
    begin(name, SpanKind::Internal, Vec::new(), &current()?)
}

/// The span of a request, which ends when this is dropped.
pub struct RequestSpan(Option<Ending>);

/// Begins a request's span: that of a new trace, or of the caller's.
pub fn request<'a>(incoming: impl FnOnce() -> Incoming<'a>) -> RequestSpan {
    if export::tracer().is_none() {
        return RequestSpan(None);
    }
    let incoming = incoming();
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &incoming);
    let method = METHODS.iter().find(|method| **method == incoming.method);
    let name: Cow<'static, str> = match (method.copied().unwrap_or("HTTP"), incoming.route) {
        (method, Some(route)) => format!("{method} {route}").into(),
        (method, None) => method.into(),
    };
    let span = begin(name, SpanKind::Server, Vec::new(), &parent);
    let Some(Ending(context)) = &span else { return RequestSpan(None) };
    let mut attributes = vec![
        KeyValue::new("http.request.method", method.copied().unwrap_or("_OTHER")),
        KeyValue::new("url.scheme", if incoming.encrypted { "https" } else { "http" }),
        KeyValue::new("cubby.request_id", incoming.id.to_owned()),
    ];
    attributes.extend(incoming.route.map(|route| KeyValue::new("http.route", route.to_owned())));
    if let Some((host, port)) = incoming.server() {
        attributes.push(KeyValue::new("server.address", StringValue::from(host.to_owned())));
        attributes.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    }
    context.span().set_attributes(attributes);
    RequestSpan(span)
}

impl RequestSpan {
    /// Runs the request within its span.
    pub async fn around<F: Future>(&self, request: F) -> F::Output {
        match &self.0 {
            Some(Ending(context)) => CURRENT.scope(context.clone(), request).await,
            None => request.await,
        }
    }

    /// Tells of its answer.
    pub fn answered(&self, status: u16) {
        let Some(Ending(context)) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            span.set_attribute(KeyValue::new("error.type", status.to_string()));
            span.set_status(Status::error(""));
        }
    }
}

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate.filter(|state| state.len() <= LONGEST_STATE),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// Runs `work` within a span of its own.
pub async fn during<F: Future>(name: &'static str, work: F) -> F::Output {
    match child(name) {
        Some(span) => CURRENT.scope(span.0.clone(), work).await,
        None => work.await,
    }
}

/// [`during`] for what is no future.
pub fn within<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    match child(name) {
        Some(span) => CURRENT.sync_scope(span.0.clone(), work),
        None => work(),
    }
}

/// Wraps `work` in the span of a new trace, with a link to the current one. The span begins when this is called.
pub fn root<F: Future>(name: &'static str, work: F) -> impl Future<Output = F::Output> {
    let cause = current().map(|cause| Link::new(cause.span().span_context().clone(), Vec::new(), 0));
    let span = begin(name, SpanKind::Internal, cause.into_iter().collect(), &Context::new());
    async move {
        match span {
            Some(span) => CURRENT.scope(span.0.clone(), work).await,
            None => work.await,
        }
    }
}

/// Says whose database the current span is about.
pub fn of_tenant(id: &str) {
    let _ = CURRENT.try_with(|current| current.span().set_attribute(KeyValue::new("cubby.tenant", id.to_owned())));
}

/// Wraps `work`, which runs on another thread, so that its spans are of the current trace.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let context = current();
    move || match context {
        Some(context) => CURRENT.sync_scope(context, work),
        None => work(),
    }
}

/// [`carried`] for a future that runs as another task.
pub fn carried_async<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let context = current();
    async move {
        match context {
            Some(context) => CURRENT.scope(context, work).await,
            None => work.await,
        }
    }
}

/// Spans of one thing that is done in stages, perhaps on several threads. The last ends at least when this is dropped.
pub struct Stages {
    parent: Option<Context>,
    stage: Option<Ending>,
}

impl Stages {
    /// Begins with the stage `name`.
    pub fn at(name: &'static str) -> Self {
        let mut stages = Self { parent: current(), stage: None };
        stages.next(name);
        stages
    }

    /// Goes on to the stage `name`.
    pub fn next(&mut self, name: &'static str) {
        // Before the next begins.
        self.stage = None;
        if let Some(parent) = &self.parent {
            self.stage = begin(name, SpanKind::Internal, Vec::new(), parent);
        }
    }

    /// Ends the last stage.
    pub fn end(self) {}
}

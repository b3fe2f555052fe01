//! The OpenAPI 3.1 document of what is mounted, and a page to read it with. The page's files are in
//! the binary: it asks nobody else for anything.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ContentBuilder, InfoBuilder, OpenApi, Ref, RefOr, ResponseBuilder, SecurityRequirement,
        path::Operation,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};
use utoipa_swagger_ui::Config;

use super::{problem::Problem, segment::Segment};
use crate::app::App;

/// What goes wrong, in one shape (RFC 9457).
#[derive(Debug, ToSchema)]
#[schema(as = Problem)]
#[expect(dead_code, reason = "only its shape is of interest")]
struct ProblemShape {
    /// `urn:cubby:problem:` and the code.
    r#type: String,
    /// The status, in words.
    title: String,
    /// The status.
    status: u16,
    /// A sentence for people.
    detail: String,
    /// A word for programs, stable.
    code: String,
    /// The part of the request at fault.
    #[schema(nullable = false)]
    field: Option<String>,
    /// The id that is in the log too.
    request_id: String,
}

/// The problems that any route of a group may answer with, and those that only one with a body or a
/// change may.
fn problems(tag: &str, path: &str) -> (&'static [u16], &'static [u16]) {
    match tag {
        "notes" => (&[400, 401, 403, 404, 429, 500, 503], &[408, 413, 415, 422, 507]),
        "webhooks" => (&[400, 401, 429, 500, 503], &[408, 413, 422]),
        "operators" => (&[400, 401, 404, 422, 429, 500, 503], &[403, 408, 409, 413, 502, 507]),
        _ if path == "/readyz" => (&[500, 503], &[]),
        _ => (&[500], &[]),
    }
}

/// Adds to what the handlers say of themselves what holds for all: who may ask, and what goes wrong.
pub fn complete(mut document: OpenApi, app: &App) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Cubby")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("A SQLite database for every user of your app."))
        .build();
    let components = document.components.get_or_insert_default();
    components.schemas.insert("Problem".into(), ProblemShape::schema());
    let bearer = |description: &str| {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some(description.to_owned());
        SecurityScheme::Http(scheme)
    };
    components.add_security_scheme("caller", bearer("A session token or an API key"));
    components.add_security_scheme("operator", bearer("ADMIN_API_KEY"));
    let open = Open { notes: app.identity().is_open(), watched: app.is_watched_openly() };
    for (path, item) in &mut document.paths.paths {
        let methods = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
            ("put", &mut item.put),
        ];
        for (method, operation) in methods {
            if let Some(operation) = operation {
                // Handlers of different routes have the same names; these must be unique.
                let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
                let words: Vec<&str> = std::iter::once(method).chain(words).collect();
                operation.operation_id = Some(words.join("_"));
                finish(path, operation, method != "get", open);
            }
        }
    }
    document
}

/// What nobody has to show anything for.
#[derive(Clone, Copy)]
struct Open {
    notes: bool,
    watched: bool,
}

fn finish(path: &str, operation: &mut Operation, changes: bool, open: Open) {
    let tag = operation.tags.as_ref().and_then(|tags| tags.first()).cloned().unwrap_or_default();
    let scheme = match tag.as_str() {
        "operators" if open.watched && !path.starts_with("/api/admin/") => None,
        "operators" => Some("operator"),
        "notes" if !open.notes => Some("caller"),
        _ => None,
    };
    operation.security = scheme.map(|name| vec![SecurityRequirement::new::<_, [&str; 0], &str>(name, [])]);
    let (always, when_changing) = problems(&tag, path);
    let more: &[u16] = if changes { when_changing } else { &[] };
    for status in always.iter().chain(more) {
        let meaning = StatusCode::from_u16(*status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(meaning).content("application/problem+json", content).build();
        operation.responses.responses.entry(status.to_string()).or_insert(RefOr::T(response));
    }
}

/// `/openapi.json` and `/docs`.
pub fn routes(document: &OpenApi) -> Router<App> {
    // Rendered once: it changes with the binary and the settings, not with requests.
    let json: Bytes = document.to_json().unwrap_or_default().into();
    let config = Arc::new(Config::from("/openapi.json").validator_url("none"));
    let index = config.clone();
    Router::new()
        .route(
            "/openapi.json",
            get(async move || ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json)),
        )
        .route("/docs", get(async || axum::response::Redirect::permanent("/docs/")))
        .route("/docs/", get(async move || file("", index)))
        .route("/docs/{*file}", get(async move |Segment(path): Segment| file(&path, config)))
}

/// What the page may do: its own scripts and styles, and requests to this server. Nobody may frame it.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src \
     'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

fn file(path: &str, config: Arc<Config<'static>>) -> Response {
    match utoipa_swagger_ui::serve(path, config) {
        Ok(Some(found)) => {
            let kind = HeaderValue::try_from(found.content_type);
            let mut response = found.bytes.into_owned().into_response();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("application/octet-stream")));
            headers.insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
            headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
            headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            response
        }
        _ => Problem::no_route().into_response(),
    }
}

//! The OpenAPI 3.1 document of what is mounted, and a page to read it with. The page's files are in
//! the binary: it loads nothing from elsewhere.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use utoipa::{
    PartialSchema,
    openapi::{
        ContentBuilder, InfoBuilder, OpenApi, Ref, RefOr, ResponseBuilder, SecurityRequirement,
        path::Operation,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};
use utoipa_swagger_ui::Config;

use super::{
    problem::{Problem, Wire},
    segment::Segment,
};

/// What holds for a group of routes, beside what each handler says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The tag of the routes.
    pub tag: &'static str,
    /// What their paths begin with.
    pub prefix: &'static str,
    /// What callers must send: the name of a security scheme, none if nothing.
    pub scheme: Option<&'static str>,
    /// The problems that any of them may answer with.
    pub problems: &'static [u16],
    /// The problems that only those may answer with that change something.
    pub problems_of_changes: &'static [u16],
}

/// Adds what holds for all routes, and for each group. A route is in the first group that has its tag and
/// the beginning of its path; one in none may answer 500 only.
pub fn complete(mut document: OpenApi, groups: &[Group]) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Cubby")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("A SQLite database for every user of your app."))
        .build();
    let components = document.components.get_or_insert_default();
    components.schemas.insert("Problem".into(), Wire::schema());
    let bearer = |description: &str| {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some(description.to_owned());
        SecurityScheme::Http(scheme)
    };
    components.add_security_scheme("caller", bearer("A session token or an API key"));
    components.add_security_scheme("operator", bearer("ADMIN_API_KEY"));
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
                finish(path, operation, method != "get", groups);
            }
        }
    }
    document
}

fn finish(path: &str, operation: &mut Operation, changes: bool, groups: &[Group]) {
    let tag = operation.tags.as_ref().and_then(|tags| tags.first()).map_or("", String::as_str);
    let group = groups.iter().find(|group| group.tag == tag && path.starts_with(group.prefix));
    let scheme = group.and_then(|group| group.scheme);
    operation.security = scheme.map(|name| vec![SecurityRequirement::new::<_, [&str; 0], &str>(name, [])]);
    let problems = group.map_or(&[500][..], |group| group.problems);
    let more = group.filter(|_| changes).map_or(&[][..], |group| group.problems_of_changes);
    for status in problems.iter().chain(more) {
        let meaning = StatusCode::from_u16(*status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = operation.responses.responses.entry(status.to_string());
        let response = response.or_insert_with(|| RefOr::T(ResponseBuilder::new().description(meaning).build()));
        // A route may answer with the same status and something of its own.
        if let RefOr::T(response) = response {
            response.content.insert("application/problem+json".to_owned(), RefOr::T(content));
        }
    }
}

/// `/openapi.json` and `/docs`.
pub fn routes<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> Router<S> {
    // Rendered once: it depends on the binary and the settings, not on requests.
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

/// The page may load its own scripts and styles and send requests to this server; no page may frame it.
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

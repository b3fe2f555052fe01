//! The one way into the operator's routes: the key is checked, and what was done is written down.

use axum::{
    Json,
    extract::{MatchedPath, RawPathParams, Request, State},
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::App,
    catalog::queries,
    http::{admin_key, peer::origin, problem::Problem},
};

/// What an action was done to, when the path does not say: put into the response's extensions.
#[derive(Debug, Clone)]
pub struct Target(pub String);

/// The actor of every line of the audit trail that comes from here.
pub const OPERATOR: &str = "operator";

/// Where a request comes from: put into the request's extensions.
#[derive(Debug, Clone)]
pub struct Origin(pub String);

/// The answer to an action that is in the audit trail already, in the commit that did it.
pub struct Signed<T>(pub T);

#[derive(Clone)]
struct IsSigned;

impl<T: Serialize> IntoResponse for Signed<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.0).into_response();
        response.extensions_mut().insert(IsSigned);
        response
    }
}

/// Puts routes behind the operator's key.
pub fn protect(app: &App, routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    // A route layer: a path that is none of them is 404 with the key and without.
    routes.route_layer(middleware::from_fn_with_state(app.clone(), guard))
}

async fn guard(
    State(app): State<App>,
    path: MatchedPath,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let origin = origin(app.limits(), &request).to_string();
    if let Err(problem) = admin_key::check(app.config().admin_api_key.as_ref(), request.headers()) {
        tracing::warn!(origin, path = path.as_str(), "the operator's routes were tried without the operator's key");
        return problem.into_response();
    }
    let dry = request.uri().query().is_some_and(is_dry);
    // What changes nothing leaves no trace, or it would have changed something after all.
    let action = action(request.method(), path.as_str()).filter(|_| !dry);
    let mut target = params.iter().next().map(|(_, value)| value.to_owned());
    request.extensions_mut().insert(Origin(origin.clone()));
    let response = next.run(request).await;
    if let Some(action) = action.filter(|_| response.extensions().get::<IsSigned>().is_none()) {
        let result = match response.extensions().get::<Problem>() {
            Some(problem) => format!("{} {}", problem.status.as_u16(), problem.code),
            None => response.status().as_u16().to_string(),
        };
        if let Some(Target(made)) = response.extensions().get() {
            target = Some(made.clone());
        }
        let now = app.clock().now();
        let written = app
            .store()
            .catalog()
            .write(move |tx| queries::audit(tx, now, OPERATOR, &action, target.as_deref(), Some(&origin), &result));
        if let Err(error) = written.await {
            // It is done and cannot be undone by an error; the log has it, and that it is missing.
            tracing::error!(error = %error, path = path.as_str(), "an operator's action could not be recorded");
        }
    }
    response
}

/// What a change is called: as the command that does the same. Reads are not recorded.
fn action(method: &Method, path: &str) -> Option<String> {
    let verb = match *method {
        Method::POST => "create",
        Method::DELETE => "delete",
        Method::PUT | Method::PATCH => "update",
        _ => return None,
    };
    let path = path.strip_prefix("/api/admin/").unwrap_or(path);
    let mut words = path.split('/').filter(|segment| !segment.starts_with('{'));
    let noun = words.next().unwrap_or_default();
    if noun == "sync-users" {
        return Some("sync".to_owned());
    }
    Some(format!("{noun} {}", words.next().unwrap_or(verb)))
}

/// Whether a query asks what would be done.
fn is_dry(query: &str) -> bool {
    query.split('&').any(|pair| matches!(pair, "dry_run" | "dry_run=true" | "dry_run=1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_called_as_their_commands() {
        for (method, path, name) in [
            (Method::POST, "/api/admin/tenants", Some("tenants create")),
            (Method::POST, "/api/admin/tenants/{id}/suspend", Some("tenants suspend")),
            (Method::DELETE, "/api/admin/tenants/{id}", Some("tenants delete")),
            (Method::POST, "/api/admin/keys/{id}/revoke", Some("keys revoke")),
            (Method::POST, "/api/admin/sync-users", Some("sync")),
            (Method::GET, "/api/admin/tenants", None),
        ] {
            assert_eq!(action(&method, path).as_deref(), name, "{method} {path}");
        }
    }
}

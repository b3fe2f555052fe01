//! The one way into the operator's routes: the key is checked, and what was done is written down.

use axum::{
    Json,
    extract::{MatchedPath, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::App,
    catalog::queries,
    error::Error,
    http::{admin_key, peer::origin, problem::Problem},
    telemetry::carried_along,
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

/// Put into a response's extensions by what changed nothing and never would have: it leaves no trace,
/// or it would have changed something after all.
#[derive(Debug, Clone)]
pub struct Untouched;

/// Puts routes behind the operator's key.
pub fn protect(app: &App, routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    // A route layer: a path that is none of them is 404 with the key and without.
    routes.route_layer(middleware::from_fn_with_state(app.clone(), guard))
}

async fn guard(
    State(app): State<App>,
    path: MatchedPath,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let origin = origin(app.limits(), &request).to_string();
    if let Err(problem) = admin_key::check(app.config().admin_api_key.as_ref(), request.headers()) {
        // Of wrong keys there are only so many from one address; of requests without any, any number.
        // Of wrong keys there are only so many from one address, of requests without any key no end.
        if admin_key::shown(app.config().admin_api_key.as_ref(), request.headers()).is_some() {
            tracing::warn!(origin, path = path.as_str(), "the operator's routes were tried without the operator's key");
        } else {
            tracing::debug!(
                origin,
                path = path.as_str(),
                "the operator's routes were tried without the operator's key"
            );
        }
        return problem.into_response();
    }
    let Some(action) = action(request.method(), path.as_str()) else { return next.run(request).await };
    // What is not UTF-8 names nobody, and the route says so.
    let target = params.ok().and_then(|params| params.iter().next().map(|(_, value)| value.to_owned()));
    request.extensions_mut().insert(Origin(origin.clone()));
    // A task of its own: an operator who hangs up, or a request that takes too long, would otherwise
    // cut it between the change and its line in the trail, or between a key's row and the memory of it.
    let done = tokio::spawn(carried_along(recorded(app, action, target, origin, request, next)));
    match done.await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => {
                Problem::from(Error::internal("an action was not finished").with_source(error)).into_response()
            }
        },
    }
}

/// Carries a change out and writes it down, unless there is nothing to write or it is written.
async fn recorded(
    app: App,
    action: String,
    mut target: Option<String>,
    origin: String,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let extensions = response.extensions();
    if extensions.get::<Untouched>().is_some() || extensions.get::<IsSigned>().is_some() {
        return response;
    }
    let result = match extensions.get::<Problem>() {
        Some(problem) => format!("{} {}", problem.status.as_u16(), problem.code),
        None => response.status().as_u16().to_string(),
    };
    if let Some(Target(made)) = extensions.get() {
        target = Some(made.clone());
    }
    let now = app.clock().now();
    let written = app
        .store()
        .catalog()
        .write(move |tx| queries::audit(tx, now, OPERATOR, &action, target.as_deref(), Some(&origin), &result));
    if let Err(error) = written.await {
        // It is done and cannot be undone by an error; the log has it, and that it is missing.
        tracing::error!(error = %error, path, "an operator's action could not be recorded");
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

//! The way into the operators' routes: checks the key, says who the author of a change is, and records
//! attempts that are refused.
//!
//! A change itself is recorded in its own commit ([`Author::record`]).

use axum::{
    extract::{MatchedPath, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use rusqlite::Transaction;
use tokio::task::JoinError;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::App,
    catalog::audit::Author,
    error::Error,
    http::{connection, operator_key, problem::Problem},
    telemetry::with_request_id_async,
};

/// The target of an attempt that was refused, where the path does not name it: in the response's extensions.
#[derive(Debug, Clone)]
pub struct Target(pub String);

/// The author of a request that comes from a command in this process. Only this crate can make one: it stands for the
/// operator's key.
#[derive(Debug, Clone)]
pub(crate) struct InProcess(pub(crate) Author);

/// Marks the answer to a request that was to change nothing: it is not recorded, whatever it is.
#[derive(Debug, Clone, Copy)]
pub struct NotRecorded;

/// Puts routes behind the operator's key. Their handlers find the [`Author`] in the request's extensions.
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
    // A command in this process names its author; a request from the network has the key.
    let author = match request.extensions().get() {
        Some(InProcess(author)) => author.clone(),
        None => {
            let address = app.door().limits.proxies.origin(&request).to_string();
            if let Err(problem) = check(&app, &request, &address, path.as_str()) {
                return problem.into_response();
            }
            Author::operator(&address)
        }
    };
    request.extensions_mut().insert(author.clone());
    let Some(action) = action(request.method(), path.as_str()) else { return next.run(request).await };
    // A parameter that is not UTF-8 names nobody; the route answers it.
    let target = params.ok().and_then(|params| params.iter().next().map(|(_, value)| value.to_owned()));
    // A task of its own: a client that hangs up, or a request that takes too long, must not cancel it between
    // the commit of a key and the copy in memory, or before a refusal is recorded.
    let recorded = async move {
        let response = next.run(request).await;
        let Some(problem) = response.extensions().get::<Problem>() else { return response };
        if response.extensions().get::<NotRecorded>().is_some() {
            return response;
        }
        let result = format!("{} {}", problem.status.as_u16(), problem.code);
        let target = response.extensions().get().map(|Target(target)| target.clone()).or(target);
        let now = app.clock().now();
        let write = move |tx: &Transaction| author.record(tx, now, &action, target.as_deref(), &result);
        if let Err(error) = app.store().catalog().write(write).await {
            tracing::error!(error = %error, "a refused attempt could not be recorded in the audit trail");
        }
        response
    };
    match tokio::spawn(with_request_id_async(connection::counted(recorded))).await.map_err(JoinError::try_into_panic) {
        Ok(response) => response,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(error)) => Error::internal("an action was not finished").with_source(error).into_response(),
    }
}

fn check(app: &App, request: &Request, address: &str, path: &str) -> Result<(), Problem> {
    const TRIED: &str = "the operator's routes were tried without the operator's key";
    let key = app.config().admin_api_key.as_ref();
    operator_key::check(key, request.headers()).inspect_err(|_| {
        // Wrong keys from one address are limited in number; requests without a key are not.
        match operator_key::matches(key, request.headers()) {
            Some(_) => tracing::warn!(origin = address, path, "{TRIED}"),
            None => tracing::debug!(origin = address, path, "{TRIED}"),
        }
    })
}

/// The name of a change in the audit trail: that of its command. Reads have none.
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
    if noun == "backups" {
        return Some(if verb == "delete" { "backup stop" } else { "backup" }.to_owned());
    }
    if noun == "bulk" {
        return Some(if verb == "delete" { "bulk stop" } else { "bulk" }.to_owned());
    }
    if noun == "migrations" {
        return Some(words.next().map_or("migrate".to_owned(), |verb| format!("migrate {verb}")));
    }
    match noun {
        "test-deliveries" => return Some("deliveries test".to_owned()),
        "sample-tenants" => return Some("tenants sample".to_owned()),
        _ => {}
    }
    Some(format!("{noun} {}", words.next().unwrap_or(verb)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_has_the_name_of_its_command() {
        for (method, path, name) in [
            (Method::POST, "/api/admin/tenants", Some("tenants create")),
            (Method::POST, "/api/admin/tenants/{id}/suspend", Some("tenants suspend")),
            (Method::DELETE, "/api/admin/tenants/{id}", Some("tenants delete")),
            (Method::POST, "/api/admin/keys/{id}/revoke", Some("keys revoke")),
            (Method::POST, "/api/admin/sync-users", Some("sync")),
            (Method::POST, "/api/admin/migrations", Some("migrate")),
            (Method::POST, "/api/admin/migrations/{run}/pause", Some("migrate pause")),
            (Method::POST, "/api/admin/test-deliveries", Some("deliveries test")),
            (Method::POST, "/api/admin/sample-tenants", Some("tenants sample")),
            (Method::POST, "/api/admin/backups", Some("backup")),
            (Method::DELETE, "/api/admin/backups/{run}", Some("backup stop")),
            (Method::POST, "/api/admin/bulk", Some("bulk")),
            (Method::DELETE, "/api/admin/bulk", Some("bulk stop")),
            (Method::GET, "/api/admin/tenants", None),
        ] {
            assert_eq!(action(&method, path).as_deref(), name, "{method} {path}");
        }
    }
}

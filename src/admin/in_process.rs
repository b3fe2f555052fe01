//! Requests to the operators' routes from this process, over no connection: of commands, and of the dashboard's pages.

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Method, header},
    response::Response,
};
use tower::ServiceExt;

use super::guard::InProcess;
use crate::{catalog::audit::Author, error::Error, http::problem::Problem};

/// Makes a request in the name of an author.
///
/// # Errors
/// The problem that the route answers.
pub(crate) async fn ask(
    routes: &Router,
    author: Author,
    method: Method,
    path: &str,
    body: Body,
) -> Result<Response, Problem> {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let mut request = request.body(body).map_err(|e| Error::internal("a request").with_source(e))?;
    request.extensions_mut().insert(InProcess(author));
    let Ok(mut response) = routes.clone().oneshot(request).await;
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) => Err(problem),
        None => Ok(response),
    }
}

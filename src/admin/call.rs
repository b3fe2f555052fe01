//! What the operators' routes take from a request.

use axum::{body::Body, extract::FromRequestParts, http::request::Parts};
use serde::de::DeserializeOwned;

use crate::{
    app::App,
    catalog::audit::Author,
    error::Error,
    http::{body, problem::Problem, segment::Segment},
    tenants::id::TenantId,
};

/// A call about the user of a path. An id that no user can have is an unknown user.
pub(super) struct Call {
    pub(super) app: App,
    pub(super) author: Author,
    pub(super) id: TenantId,
}

impl FromRequestParts<App> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Segment::<String>(id) = Segment::from_request_parts(parts, app).await?;
        let id = TenantId::parse(id.as_bytes()).map_err(|_| Error::unknown_tenant())?;
        let author = parts.extensions.get().cloned().ok_or_else(|| Error::internal("a route outside the guard"))?;
        Ok(Self { app: app.clone(), author, id })
    }
}

/// The largest body an operator sends, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Reads an operator's JSON.
pub(super) async fn read<T: DeserializeOwned>(app: &App, body: Body) -> Result<T, Problem> {
    read_up_to(app, body, MAX_BODY).await
}

/// The same of up to `most` bytes.
pub(super) async fn read_up_to<T: DeserializeOwned>(app: &App, body: Body, most: usize) -> Result<T, Problem> {
    Ok(body::parse(&body::read(body, most, app.config().limits.body_timeout).await?)?)
}

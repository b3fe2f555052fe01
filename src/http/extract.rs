//! What handlers are handed instead of raw requests: a tenant that is parsed, allowed and open.
//!
//! All decisions about who may reach which tenant are made here, in [`admit`].

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::{body, problem::Problem};
use crate::{
    app::App,
    error::{Error, ErrorKind},
    tenants::{id::TenantId, store},
};

/// A tenant that exists, of `/{user_id}…`.
pub struct Tenant(pub store::Tenant);

/// A tenant that may not exist yet. `None` only where a first write would create it.
pub struct MaybeTenant(pub Option<store::Tenant>);

/// A tenant that exists, and the request's JSON.
pub struct TenantWith<T>(pub store::Tenant, pub T);

/// A tenant, created by this request if that is allowed, and the request's JSON.
pub struct NewTenantWith<T>(pub store::Tenant, pub T);

/// JSON that knows how large it may be.
pub trait Payload: DeserializeOwned + Send {
    /// The largest body, in bytes.
    fn limit(app: &App) -> usize;

    /// Refuses what parsing cannot.
    fn check(&self, app: &App) -> Result<(), Error>;
}

/// The decoded second segment of the path, `/{user_id}/{item}`.
pub struct Item(pub String);

/// Parses the tenant's id and decides whether the caller may reach it.
fn admit(parts: &Parts, _app: &App) -> Result<TenantId, Error> {
    // An id that cannot be is unknown, like one that could be and is not.
    TenantId::parse(&segment(parts, 1)).map_err(|_| Error::unknown_tenant())
}

fn segment(parts: &Parts, index: usize) -> Vec<u8> {
    let raw = parts.uri.path().split('/').nth(index).unwrap_or("");
    percent_decode_str(raw).collect()
}

impl FromRequestParts<App> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let id = admit(parts, app)?;
        Ok(Self(app.store().lease(&id).await?))
    }
}

impl FromRequestParts<App> for MaybeTenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let id = admit(parts, app)?;
        match app.store().lease(&id).await {
            Ok(tenant) => Ok(Self(Some(tenant))),
            Err(error) if error.kind() == ErrorKind::UnknownTenant && app.writes_create() => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }
}

impl<T: Payload> FromRequest<App> for TenantWith<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (id, payload) = receive(request, app).await?;
        Ok(Self(app.store().lease(&id).await?, payload))
    }
}

impl<T: Payload> FromRequest<App> for NewTenantWith<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (id, payload) = receive(request, app).await?;
        let tenant = match app.writes_create() {
            true => app.store().lease_or_create(&id).await?.0,
            false => app.store().lease(&id).await?,
        };
        Ok(Self(tenant, payload))
    }
}

/// The body comes before the lease: a slow upload must not keep a database open, and a body that
/// is refused must not create a tenant.
async fn receive<T: Payload>(request: Request, app: &App) -> Result<(TenantId, T), Problem> {
    let (parts, body) = request.into_parts();
    let id = admit(&parts, app)?;
    body::require_json(&parts.headers)?;
    let bytes = body::read(body, T::limit(app)).await?;
    let payload: T = body::parse(&bytes)?;
    payload.check(app)?;
    Ok((id, payload))
}

impl FromRequestParts<App> for Item {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        // What is not UTF-8 is no item's name: replaced, it will not be found.
        Ok(Self(String::from_utf8_lossy(&segment(parts, 2)).into_owned()))
    }
}

//! What handlers are handed instead of raw requests: a tenant that is parsed, allowed and open.
//!
//! All decisions about who may reach which tenant are made here, in `admit`.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{StatusCode, request::Parts},
};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::{auth, body, problem::Problem};
use crate::{
    app::App,
    config::Provisioning,
    error::{Error, ErrorKind},
    tenants::{id::TenantId, tenant},
};

/// A tenant that exists, of `/{user_id}…`.
pub struct Tenant(pub tenant::Tenant);

/// A tenant that may not exist yet. `None` only where a first write would create it.
pub struct MaybeTenant(pub Option<tenant::Tenant>);

/// A tenant that exists, and the request's JSON.
pub struct TenantWith<T>(pub tenant::Tenant, pub T);

/// A tenant, created by this request if that is allowed, and the request's JSON.
pub struct NewTenantWith<T>(pub tenant::Tenant, pub T);

/// JSON that knows how large it may be.
pub trait Payload: DeserializeOwned + Send {
    /// The largest body, in bytes.
    fn limit(app: &App) -> usize;

    /// Refuses what parsing cannot.
    fn check(&self, app: &App) -> Result<(), Error>;
}

/// The decoded second segment of the path, `/{user_id}/{item}`.
pub struct Item(pub String);

/// A caller who may reach a tenant of this id, if there is one.
struct Admitted {
    id: TenantId,
    /// Whether a write creates the tenant if it never existed.
    write_creates: bool,
    /// Whether even a read does: its coming is proof that the user exists.
    read_creates: bool,
}

/// Who is calling, for whom, and may they. Proof comes first, so that without it nothing is learnt
/// of any id. An id that cannot be, one that is not the caller's and one that does not exist are
/// told apart by nobody: the first two are refused here, before any storage is touched.
async fn admit(parts: &Parts, app: &App) -> Result<Admitted, Problem> {
    let provisioning = app.provisioning();
    let write_creates = provisioning == Provisioning::Open;
    if app.identity().is_open() {
        let id = tenant_id(parts)?;
        app.limits().of_tenant(&id)?;
        return Ok(Admitted { id, write_creates, read_creates: false });
    }
    let caller = auth::authenticate(app, parts).await?;
    let id = tenant_id(parts)?;
    if !caller.reaches(&id) {
        return Err(Error::unknown_tenant().into());
    }
    app.limits().of_tenant(&id)?;
    if !caller.may_write() && !parts.method.is_safe() {
        return Err(Problem::new(StatusCode::FORBIDDEN, "read_only", "this API key may read and not write"));
    }
    let proven = provisioning == Provisioning::OnProof && caller.proves_user();
    Ok(Admitted { id, write_creates: write_creates || proven, read_creates: proven })
}

fn tenant_id(parts: &Parts) -> Result<TenantId, Error> {
    TenantId::parse(&segment(parts, 1)).map_err(|_| Error::unknown_tenant())
}

impl Admitted {
    /// Whether a tenant that is unknown after a read may still be created by a write.
    fn may_come_later(&self) -> bool {
        self.write_creates && !self.read_creates
    }

    async fn read(&self, app: &App) -> Result<tenant::Tenant, Error> {
        match self.read_creates {
            true => self.create(app).await,
            false => self.lease(app).await,
        }
    }

    async fn write(&self, app: &App) -> Result<tenant::Tenant, Error> {
        match self.write_creates {
            true => self.create(app).await,
            false => self.lease(app).await,
        }
    }

    /// A tenant that is there, or of whom the provider knows when it may be asked.
    async fn lease(&self, app: &App) -> Result<tenant::Tenant, Error> {
        match app.store().lease(&self.id).await {
            Err(error) if error.kind() == ErrorKind::UnknownTenant && app.provisioning() == Provisioning::OnDemand => {
                match app.on_demand().ensure(&self.id).await? {
                    true => app.store().lease(&self.id).await,
                    false => Err(error),
                }
            }
            leased => leased,
        }
    }

    async fn create(&self, app: &App) -> Result<tenant::Tenant, Error> {
        if app.limits().count_creations() {
            match app.store().lease(&self.id).await {
                Err(error) if error.kind() == ErrorKind::UnknownTenant => {
                    return Ok(app.store().lease_or_create_counted(&self.id, Arc::new(app.clone())).await?.0);
                }
                leased => return leased,
            }
        }
        Ok(app.store().lease_or_create(&self.id).await?.0)
    }
}

/// A segment of the path, percent-decoded; borrowed in the usual case, where nothing is encoded.
fn segment(parts: &Parts, index: usize) -> Cow<'_, [u8]> {
    let raw = parts.uri.path().split('/').nth(index).unwrap_or("");
    percent_decode_str(raw).into()
}

impl FromRequestParts<App> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let admitted = admit(parts, app).await?;
        Ok(Self(admitted.read(app).await?))
    }
}

impl FromRequestParts<App> for MaybeTenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let admitted = admit(parts, app).await?;
        match admitted.read(app).await {
            Ok(tenant) => Ok(Self(Some(tenant))),
            Err(error) if error.kind() == ErrorKind::UnknownTenant && admitted.may_come_later() => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }
}

impl<T: Payload> FromRequest<App> for TenantWith<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (admitted, payload) = receive(request, app).await?;
        Ok(Self(admitted.read(app).await?, payload))
    }
}

impl<T: Payload> FromRequest<App> for NewTenantWith<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (admitted, payload) = receive(request, app).await?;
        Ok(Self(admitted.write(app).await?, payload))
    }
}

/// The body comes before the lease: a slow upload must not keep a database open, and a body that
/// is refused must not create a tenant.
async fn receive<T: Payload>(request: Request, app: &App) -> Result<(Admitted, T), Problem> {
    let (parts, body) = request.into_parts();
    let admitted = admit(&parts, app).await?;
    body::require_json(&parts.headers)?;
    let bytes = body::read(body, T::limit(app), app.config().limits.body_timeout).await?;
    let payload: T = body::parse(&bytes)?;
    payload.check(app)?;
    Ok((admitted, payload))
}

impl FromRequestParts<App> for Item {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        // What is not UTF-8 is no item's name: replaced, it will not be found.
        Ok(Self(String::from_utf8_lossy(&segment(parts, 2)).into_owned()))
    }
}

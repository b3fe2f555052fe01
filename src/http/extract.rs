//! Extractors of tenants: the id is parsed, the caller allowed and the database open before a handler runs.
//!
//! All decisions about who may reach which tenant are made here, in `admit`.

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Request, path::ErrorKind as PathError, rejection::PathRejection},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{
    auth::{self, Caller},
    body,
    door::Door,
    problem::Problem,
    segment::UserPath,
};
use crate::{
    config::Provisioning,
    error::{Error, ErrorKind},
    tenants::{id::TenantId, tenant},
};

/// A tenant that exists, of a route with `{user_id}` in its path.
pub struct Tenant(pub tenant::Tenant);

/// A tenant that may not exist yet. `None` only where a first write would create it.
pub struct MaybeTenant(pub Option<tenant::Tenant>);

/// A tenant that exists, and the request's JSON.
pub struct TenantWith<T>(pub tenant::Tenant, pub T);

/// A tenant, created by this request if that is allowed, and the request's JSON.
pub struct NewTenantWith<T>(pub tenant::Tenant, pub T);

/// JSON that a request brings, in a server whose state is `S`.
pub trait Payload<S: AsRef<Door>>: DeserializeOwned + Send {
    /// The largest body, in bytes; the door's limit if not said otherwise.
    fn limit(state: &S) -> usize {
        state.as_ref().body_limit
    }

    /// Refuses what parsing cannot.
    ///
    /// # Errors
    /// Why.
    fn check(&self, _: &S) -> Result<(), Error> {
        Ok(())
    }
}

/// A caller who may reach a tenant of this id, if there is one.
pub(super) struct Admitted {
    pub id: TenantId,
    /// Whether a write creates the tenant if it never existed.
    write_creates: bool,
    /// Whether a read creates it too: the request itself proves that the user exists.
    read_creates: bool,
}

/// Authenticates the caller, reads the id and checks that the caller may reach it, in this order: without
/// proof a caller learns nothing about any id. An illegal id, one that is not the caller's and one that does
/// not exist get the same answer: the first two are refused here, before any storage is touched.
async fn admit(parts: &mut Parts, door: &Door) -> Result<Admitted, Problem> {
    let (admitted, caller) = admit_any(parts, door).await?;
    if !parts.method.is_safe() && caller.is_some_and(|caller| !caller.may_write()) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "read_only", "this API key may read and not write"));
    }
    Ok(admitted)
}

/// The same for a route that judges by itself whether a request writes. The caller, where one must show who it is.
pub(super) async fn admit_any(parts: &mut Parts, door: &Door) -> Result<(Admitted, Option<Caller>), Problem> {
    let provisioning = door.config.provisioning;
    let write_creates = provisioning == Provisioning::Open;
    if door.identity.is_open() {
        let id = tenant_id(parts).await?;
        door.limits.of_tenant(&id, door.store.own_rate(&id))?;
        return Ok((Admitted { id, write_creates, read_creates: false }, None));
    }
    let caller = auth::authenticate(door, parts).await?;
    let id = tenant_id(parts).await?;
    if !caller.reaches(&id) {
        return Err(Error::unknown_tenant().into());
    }
    door.limits.of_tenant(&id, door.store.own_rate(&id))?;
    let proven = provisioning == Provisioning::OnProof && caller.proves_user();
    Ok((Admitted { id, write_creates: write_creates || proven, read_creates: proven }, Some(caller)))
}

async fn tenant_id(parts: &mut Parts) -> Result<TenantId, Error> {
    let path = Path::<UserPath>::from_request_parts(parts, &()).await;
    path.map(|Path(path)| path.user_id).map_err(|rejection| match rejection {
        // Another parameter than the user's id: no item has that name.
        PathRejection::FailedToDeserializePathParams(found)
            if matches!(found.kind(), PathError::InvalidUtf8InPathParam { key } if key != "user_id") =>
        {
            Error::new(ErrorKind::NotFound, "there is nothing of this name")
        }
        _ => Error::unknown_tenant(),
    })
}

impl Admitted {
    /// Whether a tenant that is unknown after a read may still be created by a write.
    fn may_come_later(&self) -> bool {
        self.write_creates && !self.read_creates
    }

    pub async fn read(&self, door: &Door) -> Result<tenant::Tenant, Error> {
        let tenant = if self.read_creates { self.create(door).await } else { self.lease(door).await };
        tenant.inspect(tenant::Tenant::count_request)
    }

    async fn write(&self, door: &Door) -> Result<tenant::Tenant, Error> {
        let tenant = if self.write_creates { self.create(door).await } else { self.lease(door).await };
        tenant.inspect(tenant::Tenant::count_request)
    }

    /// A tenant that exists, or whose user the provider has when it may be asked.
    async fn lease(&self, door: &Door) -> Result<tenant::Tenant, Error> {
        match (door.store.lease(&self.id).await, &door.on_demand) {
            (Err(error), Some(provider)) if error.kind() == ErrorKind::UnknownTenant => {
                match provider.ensure(&self.id).await? {
                    true => door.store.lease(&self.id).await,
                    false => Err(error),
                }
            }
            (leased, _) => leased,
        }
    }

    async fn create(&self, door: &Door) -> Result<tenant::Tenant, Error> {
        let made = match &door.limits.creations {
            Some(creations) => door.store.lease_or_create_counted(&self.id, creations).await,
            None => door.store.lease_or_create(&self.id).await,
        };
        Ok(made?.0)
    }
}

impl<S: AsRef<Door> + Sync> FromRequestParts<S> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let door = state.as_ref();
        let admitted = admit(parts, door).await?;
        Ok(Self(admitted.read(door).await?))
    }
}

impl<S: AsRef<Door> + Sync> FromRequestParts<S> for MaybeTenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let door = state.as_ref();
        let admitted = admit(parts, door).await?;
        match admitted.read(door).await {
            Ok(tenant) => Ok(Self(Some(tenant))),
            Err(error) if error.kind() == ErrorKind::UnknownTenant && admitted.may_come_later() => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }
}

impl<S: AsRef<Door> + Sync, T: Payload<S>> FromRequest<S> for TenantWith<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (admitted, payload) = receive(request, state).await?;
        Ok(Self(admitted.read(state.as_ref()).await?, payload))
    }
}

impl<S: AsRef<Door> + Sync, T: Payload<S>> FromRequest<S> for NewTenantWith<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (admitted, payload) = receive(request, state).await?;
        Ok(Self(admitted.write(state.as_ref()).await?, payload))
    }
}

/// The body comes before the lease: a slow upload must not keep a database open, and a body that
/// is refused must not create a tenant.
async fn receive<S: AsRef<Door>, T: Payload<S>>(request: Request, state: &S) -> Result<(Admitted, T), Problem> {
    let door = state.as_ref();
    let (mut parts, body) = request.into_parts();
    let admitted = admit(&mut parts, door).await?;
    body::require_json(&parts.headers)?;
    let bytes = body::read(body, T::limit(state), door.config.limits.body_timeout).await?;
    let payload: T = body::parse(&bytes)?;
    payload.check(state)?;
    Ok((admitted, payload))
}

//! A caller who may reach a tenant, before its database is opened: for routes that judge by more than the method.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
};

use super::{
    auth::{self, Caller},
    door::Door,
    extract::{Admitted, admit_any},
    problem::Problem,
};
use crate::{
    error::Error,
    tenants::{id::TenantId, tenant::Tenant},
};

/// A caller who may reach the tenant of a route with `{user_id}` in its path.
///
/// Clients without a token may send a header that says so: `Authorization: Bearer`, or `Bearer None`.
pub struct Admission {
    admitted: Admitted,
    /// The caller, where one must show who it is.
    pub caller: Option<Caller>,
}

impl Admission {
    /// The tenant's id.
    pub fn id(&self) -> &TenantId {
        &self.admitted.id
    }

    /// Opens the tenant, which exists, or whose user the request proves.
    ///
    /// # Errors
    /// As [`Store::lease`](crate::Store::lease).
    pub async fn lease(&self, door: &Door) -> Result<Tenant, Error> {
        self.admitted.read(door).await
    }
}

impl<S: AsRef<Door> + Sync> FromRequestParts<S> for Admission {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let door = state.as_ref();
        // No content type is asked for, so that any page could send a request without being asked first.
        if door.identity.is_open() && auth::is_foreign_page(parts, door) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "foreign_page",
                "the page that sent this is not one that may: set CUBBY_CORS_ORIGINS to the origins that may",
            ));
        }
        if is_empty_token(&parts.headers) {
            parts.headers.remove(header::AUTHORIZATION);
        }
        let (admitted, caller) = admit_any(parts, door).await?;
        Ok(Self { admitted, caller })
    }
}

fn is_empty_token(headers: &HeaderMap) -> bool {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(only), None) = (given.next(), given.next()) else { return false };
    let words = only.to_str().map(|text| text.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    match words.as_slice() {
        [scheme] => scheme.eq_ignore_ascii_case("bearer"),
        [scheme, token] => scheme.eq_ignore_ascii_case("bearer") && *token == "None",
        _ => false,
    }
}

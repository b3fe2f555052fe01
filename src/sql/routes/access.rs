//! Who may send SQL, and what they sent.

use std::sync::Arc;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{StatusCode, request::Parts},
};
use bytes::Bytes;
use rusqlite::Transaction;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    app::App,
    catalog::audit::Author,
    config::sql::SqlMode,
    error::Error,
    http::{
        admission::Admission,
        auth::Caller,
        body,
        door::Door,
        problem::Problem,
        query::Query,
        segment::{Segment, UserPath},
    },
    sql::limits::{Sql, Who},
    tenants::{id::TenantId, tenant::Tenant},
};

/// Somebody who may send SQL to the tenant of the path.
pub struct Allowed {
    tenant: Way,
    /// Who, for their batons.
    pub caller: String,
    /// Statements may not write.
    pub read_only: bool,
}

enum Way {
    Caller(Admission),
    Operator(TenantId, Author),
}

/// What the operator may ask for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorQuery {
    /// Statements may not write.
    #[serde(default)]
    read_only: bool,
}

impl Allowed {
    /// The tenant's id.
    pub fn id(&self) -> &TenantId {
        match &self.tenant {
            Way::Caller(admission) => admission.id(),
            Way::Operator(id, _) => id,
        }
    }

    /// Opens the tenant. The operator's requests create nobody.
    pub async fn lease(&self, door: &Door) -> Result<Tenant, Error> {
        match &self.tenant {
            Way::Caller(admission) => admission.lease(door).await,
            Way::Operator(id, _) => door.store.lease(id).await,
        }
    }

    /// Writes down that the operator gets access to a user's data, before they do.
    pub async fn record(&self, app: &App) -> Result<(), Error> {
        let Way::Operator(id, author) = &self.tenant else { return Ok(()) };
        let (now, id, author) = (app.clock().now(), id.clone(), author.clone());
        let result = if self.read_only { "let in to read" } else { "let in" };
        let write = move |tx: &Transaction| author.record(tx, now, "tenants sql", id.as_str(), result);
        app.store().catalog().write(write).await
    }

    async fn operator(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let UserPath { user_id } = Segment::<UserPath>::from_request_parts(parts, app).await?.0;
        let OperatorQuery { read_only } = Query::<OperatorQuery>::from_request_parts(parts, app).await?.0;
        let author = parts.extensions.get::<Author>().cloned();
        let author = author.ok_or_else(|| Error::internal("the operators' routes have lost their guard"))?;
        // A baton of the one is none of the other's.
        let caller = if read_only { "operator, read-only" } else { "operator" }.to_owned();
        Ok(Self { tenant: Way::Operator(user_id, author), caller, read_only })
    }
}

/// The same and the body, which came before the tenant is opened.
pub struct Received {
    pub allowed: Allowed,
    pub body: Bytes,
}

impl FromRequestParts<App> for Allowed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Who::Callers(mode) = sql(parts)?.who else { return Self::operator(parts, app).await };
        let admission = Admission::from_request_parts(parts, app).await?;
        let forbidden = |why: &str| Err(Problem::new(StatusCode::FORBIDDEN, "sql_not_allowed", why));
        let caller = match &admission.caller {
            None => String::new(),
            Some(Caller::Program(key)) if !key.row.sql => {
                return forbidden("this API key may not send SQL; make one that may: cubby keys create --sql");
            }
            Some(Caller::Program(key)) => format!("key {}", key.row.id),
            Some(Caller::User(_)) if mode != SqlMode::Users => {
                return forbidden("session tokens may not send SQL here; CUBBY_SQL=users lets them");
            }
            Some(Caller::User(session)) => format!("user {}", session.user),
        };
        let read_only = admission.caller.as_ref().is_some_and(|caller| !caller.may_write());
        Ok(Self { tenant: Way::Caller(admission), caller, read_only })
    }
}

impl FromRequest<App> for Received {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let allowed = Allowed::from_request_parts(&mut parts, app).await?;
        let limit = sql(&parts)?.body;
        Ok(Self { allowed, body: body::read(body, limit, app.config().limits.body_timeout).await? })
    }
}

fn sql(parts: &Parts) -> Result<Arc<Sql>, Problem> {
    let found = parts.extensions.get::<Arc<Sql>>().cloned();
    found.ok_or_else(|| Error::internal("the routes of SQL have lost their layer").into())
}

/// The request's JSON, whatever its content type says.
pub fn read_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    Ok(body::parse(bytes)?)
}

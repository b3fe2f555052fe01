//! `/api/admin/open-tenants`: the open databases that are used most, or are largest.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    error::Result,
    http::query::{Query, up_to},
    tenants::{
        id::TenantId,
        open::top::{OpenTenant, Order},
    },
};

/// Some of the open databases.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OpenTenants {
    /// How many are open.
    pub open: u64,
    /// How many may be.
    pub capacity: u64,
    /// The first, in the order that was asked for.
    pub tenants: Vec<Shown>,
}

/// An open database.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = OpenTenant)]
pub struct Shown {
    /// Whose it is.
    #[schema(value_type = String)]
    pub id: TenantId,
    /// Requests a second in the last four seconds or so.
    pub requests_per_second: f64,
    /// Requests that have it now.
    pub in_use: u64,
    /// How long ago the last one came, in milliseconds.
    pub unused_ms: u64,
    /// The size of the file, without its write-ahead log.
    pub bytes: u64,
    /// The version of its schema.
    pub schema_version: i32,
}

/// Which come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum By {
    /// Those that are used most.
    #[default]
    Requests,
    /// Those with the largest files.
    Bytes,
}

/// Which to show.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TopQuery {
    /// Which come first.
    #[serde(default)]
    #[param(inline)]
    by: By,
    /// How many.
    #[serde(default = "most", deserialize_with = "up_to::<1000, _>")]
    #[param(minimum = 1, maximum = 1000)]
    limit: u32,
}

fn most() -> u32 {
    20
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(index))
}

/// The open databases that are used most, or are largest.
#[utoipa::path(get, path = "/api/admin/open-tenants", tag = "operators", params(TopQuery),
    responses((status = 200, description = "The first of them", body = OpenTenants)))]
async fn index(State(app): State<App>, Query(TopQuery { by, limit }): Query<TopQuery>) -> Result<Json<OpenTenants>> {
    let order = match by {
        By::Requests => Order::Rate,
        By::Bytes => Order::Bytes,
    };
    let found = app.store().top(order, limit as usize).await?;
    let (open, capacity) = (app.store().open_count() as u64, app.store().capacity() as u64);
    Ok(Json(OpenTenants { open, capacity, tenants: found.into_iter().map(shown).collect() }))
}

fn shown(tenant: OpenTenant) -> Shown {
    Shown {
        id: tenant.id,
        requests_per_second: (tenant.rate * 10.0).round() / 10.0,
        in_use: tenant.leases as u64,
        unused_ms: u64::try_from(tenant.unused.as_millis()).unwrap_or(u64::MAX),
        bytes: tenant.bytes,
        schema_version: tenant.schema_version,
    }
}

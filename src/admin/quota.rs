//! What one user may use, as an operator sees and sets it.

use axum::{Json, body::Body};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::call::{Call, read};
use crate::{
    app::App,
    catalog::{
        model::Row,
        quota::{Quota, QuotaChange},
    },
    error::{Error, Result},
    http::{problem::Problem, segment::UserPath},
    rate::Rate,
    tenants::store::Store,
};

/// Who set a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SetBy {
    /// An operator.
    Operator,
    /// The provider's metadata.
    Metadata,
    /// The settings for all: `CUBBY_QUOTA`, `CUBBY_TENANT_RATE`.
    Settings,
}

/// What one user may use, and who set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwnQuota {
    /// What is set for this user; none is as the settings for all say.
    #[serde(flatten)]
    pub quota: Quota,
    /// Who set the bytes.
    pub bytes_by: SetBy,
    /// Who set the rate.
    pub rate_by: SetBy,
}

impl OwnQuota {
    /// Of a row.
    pub fn of(store: &Store, row: &Row) -> Self {
        let (set, quota) = (row.quota, store.quota_of(row.quota, row.profile.provider_metadata.as_deref()));
        let by = |operator: bool, any: bool| match (operator, any) {
            (true, _) => SetBy::Operator,
            (false, true) => SetBy::Metadata,
            (false, false) => SetBy::Settings,
        };
        Self {
            quota,
            bytes_by: by(set.bytes.is_some(), quota.bytes.is_some()),
            rate_by: by(set.rate.is_some(), quota.rate.is_some()),
        }
    }
}

/// What an operator sets for one user. What is left out stays as it is; null takes back what an operator has set.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::option_option, reason = "a field that is left out, one that is null, and one with a value")]
struct QuotaDraft {
    /// The largest the database may grow, in bytes; 0 for no bound.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    bytes: Option<Option<u64>>,
    /// The requests they may make, such as `100/s:400`, or `off` for no bound.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    rate: Option<Option<Rate>>,
}

/// A field that is there, null or not.
#[expect(clippy::option_option, reason = "as the fields have it")]
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(set))
}

/// Sets what a user may use, over the settings for all.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/quota", tag = "operators", params(UserPath),
    request_body = QuotaDraft, responses((status = 200, description = "What they may use now", body = OwnQuota)))]
async fn set(Call { app, author, id }: Call, body: Body) -> Result<Json<OwnQuota>, Problem> {
    let QuotaDraft { bytes, rate } = read(&app, body).await?;
    if bytes.is_none() && rate.is_none() {
        return Err(Error::invalid("bytes", "give bytes, rate or both; null takes back what was set").into());
    }
    if bytes.flatten().is_some_and(|bytes| i64::try_from(bytes).is_err()) {
        return Err(Error::invalid("bytes", "more than a database can have; 0 is no bound").into());
    }
    let row = app.store().set_quota(&id, QuotaChange { bytes, rate }, &author).await?;
    Ok(Json(OwnQuota::of(app.store(), &row)))
}

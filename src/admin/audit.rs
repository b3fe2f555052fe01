//! The audit trail: who did what to whom, from where, and what came of it.

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    routing::get,
};
use serde::{Deserialize, Serialize};

use crate::{
    app::App,
    catalog::{model::AuditRow, queries},
    error::{Error, Result},
};

/// A page of the trail.
#[derive(Debug, Serialize, Deserialize)]
pub struct Trail {
    /// Newest first.
    pub audit: Vec<AuditRow>,
}

const PAGE: u32 = 500;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/api/admin/audit", get(index))
}

async fn index(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<Trail>> {
    let (mut before, mut limit) = (i64::MAX, PAGE);
    for pair in query.as_deref().unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "before" => {
                before = value.parse().map_err(|_| Error::malformed("before", "before is the id of a line"))?;
            }
            "limit" => {
                let number = value.parse().ok().filter(|n| (1..=PAGE).contains(n));
                limit = number.ok_or_else(|| Error::malformed("limit", format!("limit is from 1 to {PAGE}")))?;
            }
            _ => {}
        }
    }
    Ok(Json(Trail {
        audit: app.store().catalog().query(move |conn| queries::audit_before(conn, before, limit)).await?,
    }))
}

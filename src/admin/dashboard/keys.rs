//! API keys: making one, which is shown once, and revoking.

use askama::Template;
use axum::{
    http::{Method, StatusCode},
    response::Response,
};
use serde::Deserialize;

use super::{
    operator::{Change, Operator},
    page::{Frame, html},
    sessions::Notice,
    view,
};
use crate::{
    admin::keys::{KeyDraft, Keys, NewKey, OneKey},
    catalog::model::{KeyRow, Millis},
    http::{problem::Problem, segment::encode},
};

/// A row of the list.
struct Line {
    id: String,
    name: String,
    hint: String,
    scope: String,
    rights: String,
    created: String,
    expires: String,
    last_used: String,
    state: &'static str,
}

#[derive(Template)]
#[template(path = "keys.html")]
struct Page {
    frame: Frame,
    lines: Vec<Line>,
}

/// `GET /admin/keys`.
pub(super) async fn page(operator: Operator) -> Result<Response, Problem> {
    Ok(html(StatusCode::OK, &list(&operator).await?))
}

async fn list(operator: &Operator) -> Result<Page, Problem> {
    let found: Keys = operator.get("/api/admin/keys").await?;
    let now = operator.seat.app.clock().now();
    let lines = found.keys.iter().rev().map(|key| line(key, now)).collect();
    Ok(Page { frame: operator.frame("Keys", "/admin/keys"), lines })
}

fn line(key: &KeyRow, now: Millis) -> Line {
    let state = match (key.revoked, key.expires) {
        (Some(_), _) => "revoked",
        (None, Some(at)) if at <= now => "expired",
        _ => "good",
    };
    let rights = [if key.read_only { "reads" } else { "reads and writes" }, if key.sql { "SQL" } else { "" }];
    Line {
        id: key.id.clone(),
        name: view::cell(&key.name),
        hint: format!("…{}", view::cell(&key.hint)),
        scope: key.tenant.as_ref().map_or("all tenants".to_owned(), |id| id.as_str().to_owned()),
        rights: rights.into_iter().filter(|right| !right.is_empty()).collect::<Vec<_>>().join(", "),
        created: view::time(key.created),
        expires: view::time_or(key.expires, "never"),
        last_used: view::time_or(key.last_used, "never"),
        state,
    }
}

/// What a key is to be.
#[derive(Deserialize)]
pub(super) struct Draft {
    #[serde(default)]
    name: String,
    #[serde(default)]
    user_id: String,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    sql: bool,
    /// How many days it is good for; for ever if empty.
    #[serde(default)]
    days: String,
}

/// `POST /admin/keys/make`. The key is in the answer and on no other page, so that no page of another tab shows it.
pub(super) async fn make(Change { operator, form }: Change<Draft>) -> Response {
    let days = match form.days.trim() {
        "" => None,
        text => match text.parse::<u64>().ok().and_then(|days| days.checked_mul(24 * 60 * 60)) {
            Some(seconds) => Some(seconds),
            None => return operator.then("/admin/keys", Notice::failed("No key was made: write days as a number.")),
        },
    };
    let user = form.user_id.trim();
    let draft = KeyDraft {
        name: form.name.trim().to_owned(),
        user_id: (!user.is_empty()).then(|| user.to_owned()),
        read_only: form.read_only,
        sql: form.sql,
        expires_in: days,
    };
    let made = match operator.call::<NewKey>(Method::POST, "/api/admin/keys", Some(serde_json::json!(draft))).await {
        Ok(made) => made,
        Err(problem) => {
            let notice = Notice::failed(format!("No key was made: {}", view::long(&problem.detail)));
            return operator.then("/admin/keys", notice);
        }
    };
    let notice = Notice::done("This is the key. Copy it now: it is not shown again.");
    // The key exists and cannot be shown later, so it is shown whether the list of keys can be or not.
    let mut page = list(&operator)
        .await
        .unwrap_or_else(|_| Page { frame: operator.frame("Keys", "/admin/keys"), lines: Vec::new() });
    page.frame.notice = Some(Notice { secret: Some(made.secret), ..notice });
    html(StatusCode::CREATED, &page)
}

/// Which key.
#[derive(Deserialize)]
pub(super) struct Which {
    #[serde(default)]
    key_id: String,
}

/// `POST /admin/keys/revoke`.
pub(super) async fn revoke(Change { operator, form }: Change<Which>) -> Response {
    let route = format!("/api/admin/keys/{}/revoke", encode(&form.key_id));
    let notice = match operator.call::<OneKey>(Method::POST, &route, None).await {
        Ok(OneKey { key }) => Notice::done(format!("{} does not work any more.", view::cell(&key.name))),
        Err(problem) => Notice::failed(format!("Nothing was revoked: {}", view::long(&problem.detail))),
    };
    operator.then("/admin/keys", notice)
}

//! Making, listing and revoking API keys.

use axum::{Extension, Json, body::Body, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::call::read;
use crate::{
    app::App,
    catalog::{
        audit::Author,
        model::{KeyRow, Millis},
        queries::keys as queries,
    },
    error::{Error, ErrorKind, Result},
    http::{problem::Problem, segment::Segment},
    identity::keys::{self, Key, KeyHash},
    tenants::id::TenantId,
};

/// The most good keys, all of which are in memory; and the most of those that ended that are still listed.
const MOST: u32 = 10_000;

/// What a key is to be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyDraft {
    /// What it is for.
    pub name: String,
    /// The only user it reaches; all if none.
    #[serde(default)]
    pub user_id: Option<String>,
    /// Whether it may not write.
    #[serde(default)]
    pub read_only: bool,
    /// Whether it may send SQL.
    #[serde(default)]
    pub sql: bool,
    /// How many seconds it is good for; for ever if none.
    #[serde(default)]
    pub expires_in: Option<u64>,
}

/// A key that was just made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NewKey {
    /// What is known of it.
    pub key: KeyRow,
    /// The key itself. This is the only time it is shown.
    pub secret: String,
}

/// All keys.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Keys {
    /// Good, expired and revoked ones, newest last.
    pub keys: Vec<KeyRow>,
}

/// A key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OneKey {
    /// What is known of it.
    pub key: KeyRow,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(index, make)).routes(routes!(withdraw))
}

/// API keys: good, expired and revoked ones.
#[utoipa::path(get, path = "/api/admin/keys", tag = "operators",
    responses((status = 200, description = "All of them", body = Keys)))]
async fn index(State(app): State<App>) -> Result<Json<Keys>> {
    Ok(Json(Keys { keys: app.store().catalog().query(queries::list).await? }))
}

/// Makes an API key.
#[utoipa::path(post, path = "/api/admin/keys", tag = "operators", request_body = KeyDraft,
    responses((status = 201, description = "The key, this once", body = NewKey)))]
async fn make(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    body: Body,
) -> Result<(StatusCode, Json<NewKey>), Problem> {
    let draft: KeyDraft = read(&app, body).await?;
    let _changing = app.identity().keys().lock().await;
    let now = app.clock().now();
    let (key, secret, hash) = draw(draft, now)?;
    let row = key.clone();
    let made = app.store().catalog().write(move |tx| {
        queries::delete_ended(tx, now, MOST)?;
        let inserted = queries::insert(tx, &row, &hash, MOST)?;
        if inserted {
            author.record(tx, now, "keys create", row.id.as_str(), "done")?;
        }
        Ok(inserted)
    });
    if !made.await? {
        let why = format!("there are {MOST} keys already; revoke those that nobody uses");
        return Err(Error::new(ErrorKind::Conflict, why).into());
    }
    app.identity().keys().add(Key::new(key.clone(), hash));
    Ok((StatusCode::CREATED, Json(NewKey { key, secret })))
}

/// A key as the draft says, the key itself, and its digest.
fn draw(draft: KeyDraft, now: Millis) -> Result<(KeyRow, String, KeyHash)> {
    if !(1..=100).contains(&draft.name.chars().count()) || draft.name.chars().any(char::is_control) {
        return Err(Error::invalid("name", "a key's name has 1 to 100 characters and says what it is for"));
    }
    let tenant = draft.user_id.map(|id| TenantId::parse(id.as_bytes())).transpose();
    let tenant = tenant.map_err(|e| Error::invalid("user_id", e.to_string()))?;
    let end = |seconds: u64| now.checked_add(i64::try_from(seconds).ok().filter(|s| *s > 0)?.checked_mul(1000)?);
    let bad = || Error::invalid("expires_in", "a key is good for at least a second");
    let expires = draft.expires_in.map(|seconds| end(seconds).ok_or_else(bad)).transpose()?;
    let secret = keys::generate();
    let hash = keys::digest(&secret).ok_or_else(|| Error::internal("a new key does not pass its own check"))?;
    let key = KeyRow {
        id: keys::generate_id(),
        name: draft.name,
        hint: secret[secret.len() - 4..].to_owned(),
        tenant,
        read_only: draft.read_only,
        sql: draft.sql,
        created: now,
        expires,
        revoked: None,
        last_used: None,
    };
    Ok((key, secret, hash))
}

/// Revokes an API key, at once.
#[utoipa::path(post, path = "/api/admin/keys/{key_id}/revoke", tag = "operators",
    params(("key_id" = String, Path, description = "The id of the key")),
    responses((status = 200, description = "The key", body = OneKey)))]
async fn withdraw(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(id): Segment,
) -> Result<Json<OneKey>> {
    let _changing = app.identity().keys().lock().await;
    let (target, now) = (id.clone(), app.clock().now());
    let revoked = app.store().catalog().write(move |tx| {
        let key = queries::revoke(tx, &target, now)?;
        if key.is_some() {
            author.record(tx, now, "keys revoke", target.as_str(), "done")?;
        }
        Ok(key)
    });
    let unknown = || format!("there is no key {id}; `cubby keys list` shows which there are");
    let key = revoked.await?.ok_or_else(|| Error::new(ErrorKind::NotFound, unknown()))?;
    app.identity().keys().revoke(&key.id);
    Ok(Json(OneKey { key }))
}

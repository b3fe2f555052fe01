//! The notes REST API.

use axum::{
    extract::{FromRequestParts, Path, State, rejection::PathRejection},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use utoipa::openapi::{RefOr, Schema, path::Parameter};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    model::{Note, NoteDraft, NoteId, PageQuery},
    queries,
    schema::{NotePage, NotePath, OneNote},
};
use crate::{
    app::App,
    error::{Error, ErrorKind, Result},
    http::{
        connection,
        extract::{MaybeTenant, NewTenantWith, Payload, Tenant, TenantWith},
        limits::in_flight::SMALL,
        problem::Problem,
        query::Query,
        segment::UserPath,
    },
};

/// The routes, to be mounted where a user's id is the first segment.
pub fn routes(app: &App) -> OpenApiRouter<App> {
    let mut routes = OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, update, remove));
    // The most notes on a page are a setting of this server.
    let list = routes.get_openapi_mut().paths.paths.get_mut("/{user_id}").and_then(|item| item.get.as_mut());
    for parameter in list.into_iter().flat_map(|list| list.parameters.iter_mut().flatten()) {
        if let RefOr::T(Parameter { name, schema: Some(RefOr::T(Schema::Object(schema))), .. }) = parameter
            && name == "limit"
        {
            schema.maximum = Some(app.config().notes.max_page.into());
        }
    }
    routes
}

impl Payload<App> for NoteDraft {
    /// Escapes make a character up to six times as long (`\u0000`), and there is the rest.
    fn limit(app: &App) -> usize {
        usize::try_from(app.config().notes.max_note_bytes.0)
            .unwrap_or(usize::MAX)
            .saturating_mul(6)
            .saturating_add(1024)
    }

    fn check(&self, app: &App) -> Result<()> {
        let most = app.config().notes.max_note_bytes.0;
        match self.text.len() as u64 > most {
            true => Err(Error::new(ErrorKind::TooLarge, format!("text is longer than {most} bytes"))),
            false => Ok(()),
        }
    }
}

#[utoipa::path(
    get, path = "/{user_id}", tag = "notes", description = "A user's notes, a page at a time",
    params(UserPath, PageQuery), responses((status = 200, description = "A page", body = NotePage)),
)]
async fn list(
    State(app): State<App>,
    MaybeTenant(tenant): MaybeTenant,
    Query(query): Query<PageQuery>,
) -> Result<Response> {
    let page = query.page(app.config().notes.max_page)?;
    let body = match tenant {
        Some(tenant) => tenant.read(move |conn| Ok(queries::list(conn, &page)?)).await?,
        None => br#"{"notes":[]}"#.to_vec(),
    };
    Ok(json(StatusCode::OK, body))
}

#[utoipa::path(
    post, path = "/{user_id}", tag = "notes", description = "Adds a note",
    params(UserPath, ("Idempotency-Key" = Option<String>, Header, description = "Makes it safe to send again", max_length = 255)),
    request_body = NoteDraft,
    responses(
        (status = 201, description = "The note", body = OneNote, headers(("location" = String, description = "Where it is"))),
    ),
)]
async fn create(
    State(app): State<App>,
    key: IdempotencyKey,
    NewTenantWith(tenant, draft): NewTenantWith<NoteDraft>,
) -> Result<Response> {
    let clock = app.clock().clone();
    let made = tenant
        .write_short(move |tx| {
            let now = clock.now();
            let keyed = key.0.as_ref().map(|key| (key, Sha256::digest(draft.text.as_bytes())));
            if let Some((key, request)) = &keyed
                && let Some(before) = queries::recall(tx, key, now)?
            {
                return match before.request.as_slice() == request.as_slice() {
                    true => Ok(Made::of(&draft, &before.note, before.created, true)),
                    false => Err(Error::invalid(
                        "Idempotency-Key",
                        "this Idempotency-Key was used for another text; use a new one for a new note",
                    )),
                };
            }
            let id = queries::insert(tx, &draft.text, now)?;
            if let Some((key, request)) = &keyed {
                queries::remember(tx, key, request, &id, now)?;
            }
            Ok(Made::of(&draft, id.as_str(), now, false))
        })
        .await?;
    let location = format!("/{}/{}", utf8_percent_encode(tenant.id().as_str(), SEGMENT), made.id);
    let mut response = json(StatusCode::CREATED, made.body);
    let location = HeaderValue::try_from(location).map_err(|e| Error::internal("Location").with_source(e))?;
    response.headers_mut().insert(header::LOCATION, location);
    if made.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

#[utoipa::path(
    get, path = "/{user_id}/{note_id}", tag = "notes", description = "One note", params(UserPath, NotePath),
    responses((status = 200, description = "The note", body = OneNote)),
)]
async fn read(Tenant(tenant): Tenant, note: Named) -> Result<Response> {
    let id = id_of(note)?;
    let body = tenant.read(move |conn| Ok(queries::find(conn, &id)?)).await?;
    found(body)
}

#[utoipa::path(
    patch, path = "/{user_id}/{note_id}", tag = "notes", description = "Changes a note", params(UserPath, NotePath),
    request_body = NoteDraft, responses((status = 200, description = "The note as it is now", body = OneNote)),
)]
async fn update(
    State(app): State<App>,
    note: Named,
    TenantWith(tenant, draft): TenantWith<NoteDraft>,
) -> Result<Response> {
    let id = id_of(note)?;
    let clock = app.clock().clone();
    let body = tenant.write_short(move |tx| Ok(queries::update(tx, &id, &draft.text, clock.now())?)).await?;
    found(body)
}

#[utoipa::path(
    delete, path = "/{user_id}/{note_id}", tag = "notes", description = "Removes a note", params(UserPath, NotePath),
    responses((status = 200, description = "The note as it was", body = OneNote)),
)]
async fn remove(Tenant(tenant): Tenant, note: Named) -> Result<Response, Problem> {
    let id = id_of(note)?;
    let mut counted = SMALL;
    loop {
        let id = id.clone();
        // The answer is the note: a note whose answer the limits refuse must not be removed.
        let removed = tenant.write_short(move |tx| {
            let length = queries::find(tx, &id)?.map_or(0, |body| body.len() as u64);
            Ok(if length <= counted { Ok(queries::delete(tx, &id)?) } else { Err(length) })
        });
        match removed.await? {
            Ok(body) => return Ok(found(body)?),
            Err(length) => {
                connection::hold(length)?;
                counted = length;
            }
        }
    }
}

/// `{note_id}` of the path. The handler refuses what cannot be one: the caller is authenticated first.
type Named = Result<Path<NotePath>, PathRejection>;

fn id_of(note: Named) -> Result<NoteId> {
    note.map(|Path(path)| path.note_id).map_err(|_| no_such_note())
}

/// The bytes of an id that are encoded in a path (RFC 3986, 3.3): all but letters, digits and these.
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@').remove(b':').remove(b'+');

/// A note just made, or made before under the same key.
struct Made {
    id: String,
    body: Vec<u8>,
    replayed: bool,
}

impl Made {
    fn of(draft: &NoteDraft, id: &str, created: i64, replayed: bool) -> Self {
        let note = Note { id, text: &draft.text, created, updated: created };
        Self { id: id.to_owned(), body: note.to_body(), replayed }
    }
}

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// `Idempotency-Key`: sent again with the same body, a POST makes nothing more and answers what it
/// answered first (draft-ietf-httpapi-idempotency-key-header).
struct IdempotencyKey(Option<String>);

impl FromRequestParts<App> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let key = value.to_str().ok().filter(|key| (1..=255).contains(&key.len()));
        let why = match key {
            None => "an Idempotency-Key has 1 to 255 visible ASCII characters",
            Some(_) if !app.store().has_table("idempotency_keys") => {
                "this server's own schema has no table idempotency_keys; send no Idempotency-Key"
            }
            Some(key) => return Ok(Self(Some(key.to_owned()))),
        };
        // The caller is authenticated before an error of the request is answered. This creates a tenant only where
        // any read would.
        MaybeTenant::from_request_parts(parts, app).await?;
        Err(Error::malformed("Idempotency-Key", why).into())
    }
}

fn found(body: Option<Vec<u8>>) -> Result<Response> {
    body.map(|body| json(StatusCode::OK, body)).ok_or_else(no_such_note)
}

fn no_such_note() -> Error {
    Error::new(ErrorKind::NotFound, "no such note")
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

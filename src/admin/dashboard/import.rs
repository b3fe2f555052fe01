//! The form by which a file goes in the place of a tenant's database. The file goes on to the route as it comes: it is
//! never in memory as a whole.

use std::task::Poll;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt as _;
use multer::{Constraints, Field, Multipart, SizeLimit};

use super::{
    operator::{Operator, forged},
    seat::Seat,
    sessions::{Notice, same},
    view,
};
use crate::{
    admin::import::ImportReport,
    error::Error,
    http::{
        problem::Problem,
        segment::{Segment, encode},
    },
};

/// The longest list of names, and the longest other field, in bytes.
const NAMES: u64 = 64 << 10;
const FIELD: u64 = 1 << 10;

/// What comes before the file.
#[derive(Default)]
struct Fields {
    csrf: String,
    allow: String,
    confirm: String,
    replace: bool,
}

/// `POST /admin/tenants/{user_id}/import`: fields first, and the file last.
pub(super) async fn take(
    State(seat): State<Seat>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Response> {
    let (mut parts, body) = request.into_parts();
    let operator = Operator::from_request_parts(&mut parts, &seat).await.map_err(closing)?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind).map_err(|_| {
        let why = "send the form as multipart/form-data";
        closing(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", why))
    })?;
    let limits = SizeLimit::new().for_field("allow", NAMES).for_field("file", u64::MAX).per_field(FIELD);
    let constraints = Constraints::new().size_limit(limits);
    let mut form = Multipart::with_constraints(one_by_one(body), boundary, constraints);
    let (fields, file) = read(&mut form).await.map_err(closing)?;
    if !same(&fields.csrf, &operator.session.csrf) {
        tracing::warn!(path = parts.uri.path(), "a form without the token of its session");
        return Err(closing(forged()));
    }
    let notice = match file {
        None => Notice::failed("Nothing was changed: choose a file."),
        Some(file) if fields.replace && fields.confirm.trim() != id => {
            // What is left of the form cannot be read while one of its fields is held.
            drop(file);
            Notice::failed("Nothing was changed: the id that was typed is not this tenant's.")
        }
        Some(file) => send(&operator, &id, &fields, file).await,
    };
    // A browser reads the answer once all of its form is sent.
    while let Ok(Some(_)) = form.next_field().await {}
    Ok(operator.then(&format!("/admin/tenants/{}", encode(&id)), notice))
}

/// Nothing after this answer on its connection: what is left of the form is not a request.
fn closing(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The pieces of a body, one for each time that somebody asks: whoever takes all there is has no more than one in memory.
fn one_by_one(body: Body) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send + 'static {
    let (mut pieces, mut given) = (body.into_data_stream(), false);
    stream::poll_fn(move |context| {
        if std::mem::take(&mut given) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = pieces.poll_next_unpin(context);
        given = matches!(piece, Poll::Ready(Some(_)));
        piece
    })
}

/// The fields up to the file, and that.
async fn read(form: &mut Multipart<'static>) -> Result<(Fields, Option<Field<'static>>), Problem> {
    let unreadable = |error: multer::Error| match error {
        multer::Error::FieldSizeExceeded { .. } => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "a field of the form is too long")
        }
        error => Error::malformed("body", format!("the form cannot be read: {error}")).into(),
    };
    let mut fields = Fields::default();
    while let Some(field) = form.next_field().await.map_err(unreadable)? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            return Ok((fields, Some(field)));
        }
        let text = field.text().await.map_err(unreadable)?;
        match name.as_str() {
            "csrf" => fields.csrf = text,
            "allow" => fields.allow = text,
            "confirm" => fields.confirm = text,
            "replace" => fields.replace = text == "true",
            _ => {}
        }
    }
    Ok((fields, None))
}

/// Gives the file to the route as it comes.
async fn send(operator: &Operator, id: &str, fields: &Fields, file: Field<'static>) -> Notice {
    let names = fields.allow.split([',', '\n']).map(str::trim).filter(|name| !name.is_empty());
    let allow = encode(&names.collect::<Vec<_>>().join(","));
    let route = format!("/api/admin/tenants/{}/import?replace={}&allow={allow}", encode(id), fields.replace);
    // Who signs out meanwhile imports nothing.
    let (seat, session) = (operator.seat.clone(), operator.session.clone());
    let end = stream::once(async move {
        match seat.sessions.holds(&session, seat.app.clock().now()) {
            true => Ok(Bytes::new()),
            false => Err(std::io::Error::other("the session has ended")),
        }
    });
    let body = Body::from_stream(file.map_err(std::io::Error::other).chain(end));
    let answer = match operator.pass(Method::PUT, &route, body).await {
        Ok(answer) => answer.into_body().collect().await.map(http_body_util::Collected::to_bytes).ok(),
        Err(problem) if problem.status.is_server_error() => return Notice::refused(&problem),
        Err(problem) => return Notice::failed(refusal(&problem)),
    };
    let report = answer.and_then(|bytes| serde_json::from_slice::<ImportReport>(&bytes).ok());
    let Some(ImportReport { tenant, rows, made, replaced }) = report else {
        return Notice::failed("The file was taken, but what came of it cannot be told: look at the audit trail.");
    };
    let made = match made.as_slice() {
        [] => String::new(),
        made => format!(" Made beside the schema: {}.", view::long(&made.join(", "))),
    };
    let replaced =
        replaced.map(|path| format!(" What there was is in {} until its retention ends.", view::long(&path)));
    let state = tenant.state;
    Notice::done(format!(
        "The file was taken: {} rows. The tenant is {state}.{made}{}",
        view::number(rows),
        replaced.unwrap_or_default()
    ))
}

fn refusal(problem: &Problem) -> String {
    let next = match problem.code {
        "conflict" if problem.detail.contains("--replace") => {
            " To give up what there is, tick that the file replaces it and type the id."
        }
        "invalid_field" => " If the file is good, choose it again and name what is to be taken beside the schema.",
        _ => "",
    };
    format!("Nothing was changed: {}.{next}", view::long(problem.detail.trim_end_matches('.')))
}

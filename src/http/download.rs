//! A copy of a user's database as the body of an answer, read in pieces.

use std::{collections::HashSet, fs::File, io::Read, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{Stream, stream};
use parking_lot::Mutex;

use crate::{
    error::{Error, ErrorKind, Result},
    tenants::{copy::Copy, id::TenantId},
};

/// The length of a piece, in bytes.
const PIECE: u64 = 256 << 10;

/// The most that are sent at once: a copy takes as much of the disk as its database until the client has it, and an
/// answer in pieces one of the threads for long reads.
const MOST: usize = 8;

/// SHA-256 of an answer's content (RFC 9530), by which a client knows that it has all of it.
pub const DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Of whom copies, or answers in pieces, are being sent: one of each tenant.
#[derive(Default)]
pub struct Downloads(Mutex<HashSet<TenantId>>);

/// One that is being made or sent.
pub struct Place {
    downloads: Arc<Downloads>,
    tenant: TenantId,
}

impl Downloads {
    /// A place for one more.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if there is one of this tenant, or too many.
    pub fn take(self: &Arc<Self>, tenant: &TenantId) -> Result<Place> {
        let mut held = self.0.lock();
        if held.len() >= MOST || held.contains(tenant) {
            let why = "a copy of this user's data is being sent, or too many of others'; try again when one is done";
            return Err(Error::new(ErrorKind::Busy, why));
        }
        held.insert(tenant.clone());
        Ok(Place { downloads: self.clone(), tenant: tenant.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.downloads.0.lock().remove(&self.tenant);
    }
}

/// The content type of a database.
pub const DATABASE: &str = "application/vnd.sqlite3";

/// The answer with a copy, whose place is taken until the client has it. `name` is that of the file in which a browser
/// saves it.
pub fn answer(copy: Copy, place: Place, kind: &'static str, name: &str) -> Response {
    let digest = HeaderValue::try_from(format!("sha-256=:{}:", BASE64_STANDARD.encode(copy.sha256)));
    let mut response = Body::from_stream(pieces(copy.file, place)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(copy.bytes));
    headers.extend(digest.map(|digest| (DIGEST, digest)));
    headers.insert(header::CONTENT_DISPOSITION, attachment(name));
    response
}

/// `Content-Disposition` of an answer that a browser saves under this name.
pub fn attachment(name: &str) -> HeaderValue {
    // What is no letter or digit would need quotes, or an encoding that not every client reads.
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    let text = format!("attachment; filename=\"{name}\"");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("attachment"))
}

/// The file's content. No thread waits between two pieces.
fn pieces(file: File, place: Place) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    stream::try_unfold(Arc::new((file, place)), |open| async {
        let reader = open.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::new();
            (&reader.0).take(PIECE).read_to_end(&mut piece).map(|_| piece)
        });
        let piece = read.await.map_err(std::io::Error::other)??;
        Ok((!piece.is_empty()).then(|| (piece.into(), open)))
    })
}

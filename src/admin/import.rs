//! Putting a file in the place of a user's database, for an operator.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Extension, Json,
    body::Body,
    extract::Request,
    http::{HeaderValue, header},
};
use futures_util::StreamExt;
use hyper::body::Body as _;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::process::Processes;
use super::call::Call;
use crate::{
    app::App,
    catalog::model::Row,
    error::{Error, ErrorKind, Result},
    http::{problem::Problem, query::Query, segment::UserPath},
    sqlite::import::Order,
    tenants::{
        id::TenantId,
        lifecycle::import::{Import, Imported, Worker, raise_quota, too_late},
    },
};

pub mod process;

/// Imports at once: each may take a gibibyte of memory.
const AT_ONCE: usize = 2;

/// How to import.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ImportQuery {
    /// Whether what the user has is given up.
    #[serde(default)]
    replace: bool,
    /// Names of tables, views, indexes and triggers, with commas between, that are taken although the schema does not have
    /// them.
    #[serde(default)]
    allow: String,
}

/// What came of an import.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportReport {
    /// The user as they are now.
    pub tenant: Row,
    /// Rows that were taken.
    pub rows: u64,
    /// What was made although the schema does not have it.
    pub made: Vec<String>,
    /// Where the file is that was replaced; none if there was none with rows.
    pub replaced: Option<String>,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(take)).layer(Extension(Arc::new(Semaphore::new(AT_ONCE))))
}

/// Puts a SQLite file in the place of a user's database.
#[utoipa::path(put, path = "/api/admin/tenants/{user_id}/import", tag = "operators", params(UserPath, ImportQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "What came of it", body = ImportReport)))]
async fn take(
    Call { app, author, id }: Call,
    Query(query): Query<ImportQuery>,
    Extension(turns): Extension<Arc<Semaphore>>,
    request: Request,
) -> Result<Json<ImportReport>, Problem> {
    let (store, until) = (app.store(), Instant::now() + app.config().export.transfer_timeout);
    let row = store.find(&id).await?.ok_or_else(Error::unknown_tenant)?;
    let turn = turns.try_acquire_owned().map_err(|_| {
        Error::new(ErrorKind::Busy, format!("{AT_ONCE} imports are under way; try again when one is done"))
    })?;
    let allow = query.allow.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    // Removed with this request, however it ends.
    let file = store.temporary_file();
    // The largest that may become of it, and as much for what is free in it.
    let limit = store.max_bytes_of(&row).saturating_mul(2);
    let received = receive(request.into_body(), file.path(), &id, if limit == 0 { u64::MAX } else { limit });
    if let Err(error) = timeout_at(until, received).await.unwrap_or_else(|_| Err(too_late())) {
        // The rest of the body is not a request.
        return Err(Problem::from(error).with_header(header::CONNECTION, HeaderValue::from_static("close")));
    }
    let program = program(&app)?;
    // Ended with this request.
    let (_processes, carrier) = Processes::new();
    let worker: Worker = Arc::new(move |order: &Order| {
        // The next one may begin when no process of this one runs.
        let _turn = &turn;
        carrier.carry_out(&program, order)
    });
    let import = Import { file, replace: query.replace, allow, until };
    let Imported { row, rows, made, replaced } = store.import(&id, import, &author, worker).await?;
    let replaced = replaced.map(|path| path.display().to_string());
    Ok(Json(ImportReport { tenant: row, rows, made, replaced }))
}

/// The program that runs, also after another one has taken its place.
fn program(app: &App) -> Result<PathBuf> {
    match &app.config().program {
        Some(program) => Ok(program.clone()),
        None if cfg!(target_os = "linux") => Ok(PathBuf::from("/proc/self/exe")),
        None => std::env::current_exe().map_err(|e| Error::io("this program", e)),
    }
}

/// Writes a body to a new file.
async fn receive(body: Body, path: &Path, id: &TenantId, limit: u64) -> Result<()> {
    let too_large = || {
        let why = format!("the file is larger than {limit} bytes, twice the quota of {id}; {}", raise_quota(id));
        Error::new(ErrorKind::TooLarge, why)
    };
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let failed = |e| Error::io("a file to import", e);
    let mut body = body.into_data_stream();
    let mut file = create(path).map_err(failed)?;
    let mut length = 0;
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| Error::malformed("body", format!("the file did not arrive whole: {e}")))?;
        length += piece.len() as u64;
        if length > limit {
            return Err(too_large());
        }
        let written = tokio::task::spawn_blocking(move || std::io::Write::write_all(&mut file, &piece).map(|()| file));
        file = written.await.map_err(|e| Error::internal("a write did not finish").with_source(e))?.map_err(failed)?;
    }
    Ok(())
}

fn create(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

//! `/api/admin/about`: the program, its process and its disk.

use std::{path::Path, sync::LazyLock, time::Instant};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    error::Result,
    telemetry::{disk, trace},
};

/// The program, its process and its disk.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct About {
    /// The version of the program.
    pub version: String,
    /// The newest schema of users' databases that it knows.
    pub newest_schema: i32,
    /// How many seconds it has served.
    pub uptime: u64,
    /// The data folder.
    pub data: String,
    /// Databases that are open.
    pub open: u64,
    /// How many may be.
    pub capacity: u64,
    /// Descriptors that are open; none where the system does not tell.
    pub descriptors: Option<u64>,
    /// How many may be.
    pub descriptors_limit: Option<u64>,
    /// Bytes of memory in use.
    pub memory: Option<u64>,
    /// The size of the disk that the data folder is on, in bytes.
    pub disk: Option<u64>,
    /// What is free of it.
    pub disk_free: Option<u64>,
    /// Where traces are exported to; none if they are not.
    pub traces: Option<String>,
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) fn routes() -> OpenApiRouter<App> {
    // From when the routes are made.
    LazyLock::force(&STARTED);
    OpenApiRouter::new().routes(routes!(about))
}

/// The program, its process and its disk.
#[utoipa::path(get, path = "/api/admin/about", tag = "operators",
    responses((status = 200, description = "What is known", body = About)))]
async fn about(State(app): State<App>) -> Result<Json<About>> {
    let looked = tokio::task::spawn_blocking(move || look(&app)).await;
    Ok(Json(looked.map_err(|e| crate::error::Error::internal("a look at the process").with_source(e))?))
}

fn look(app: &App) -> About {
    let store = app.store();
    let root = store.layout().root();
    let disk = disk::space(root);
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        newest_schema: store.schema().version(),
        uptime: STARTED.elapsed().as_secs(),
        data: root.display().to_string(),
        open: count(store.open_count()),
        capacity: count(store.capacity()),
        descriptors: std::fs::read_dir("/proc/self/fd").ok().map(|all| count(all.count())),
        descriptors_limit: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        memory: resident(Path::new("/proc/self/status")),
        disk: disk.map(|disk| disk.size),
        disk_free: disk.map(|disk| disk.free),
        traces: trace::target(),
    }
}

/// The resident memory that Linux tells of a process.
fn resident(status: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

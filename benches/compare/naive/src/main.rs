//! The naive design: a pool a tenant, the pools in a moka cache, every query through
//! `spawn_blocking`, every create a transaction of its own. Durable: WAL, `synchronous=FULL`.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::ListenerExt,
};
use jiff::Timestamp;
use moka::sync::Cache;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OptionalExtension, Row, params};
use scheduled_thread_pool::ScheduledThreadPool;
use serde::{Deserialize, Serialize};
use std::{env, error::Error, path::PathBuf, sync::Arc};

type Pool = r2d2::Pool<SqliteConnectionManager>;
type Failure = Box<dyn Error + Send + Sync>;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS notes (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    text TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT";

#[derive(Clone)]
struct App {
    folder: Arc<PathBuf>,
    pools: Cache<String, Pool>,
    threads: Arc<ScheduledThreadPool>,
}

#[derive(Serialize)]
struct Note {
    id: String,
    text: String,
    created: String,
    updated: String,
}

#[derive(Serialize)]
struct One {
    note: Note,
}

#[derive(Serialize)]
struct Many {
    notes: Vec<Note>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Draft {
    text: String,
}

#[derive(Deserialize)]
struct Page {
    limit: Option<u32>,
    cursor: Option<i64>,
}

fn rfc3339(milliseconds: i64) -> String {
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or_default();
    format!("{time:.3}")
}

fn note(row: &Row<'_>) -> rusqlite::Result<Note> {
    Ok(Note {
        id: row.get("id")?,
        text: row.get("text")?,
        created: rfc3339(row.get("created")?),
        updated: rfc3339(row.get("updated")?),
    })
}

impl App {
    /// The pool of a tenant, `None` when it has no file and must not get one.
    fn pool(&self, user: &str, create: bool) -> Result<Option<Pool>, Failure> {
        if let Some(pool) = self.pools.get(user) {
            return Ok(Some(pool));
        }
        let path = self.folder.join(format!("{user}.db"));
        if !create && !path.exists() {
            return Ok(None);
        }
        let open = || {
            if create {
                Connection::open(&path)?.execute_batch(&format!("PRAGMA journal_mode=WAL; {SCHEMA}"))?;
            }
            let manager = SqliteConnectionManager::file(&path).with_init(|connection| {
                connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON")
            });
            // Two departures from r2d2's defaults, without which no cold load is survived: ten connections a
            // pool ran the process out of 20,000 descriptors, and three threads of its own, which outlive it
            // by up to half a minute, out of threads.
            Ok::<_, Failure>(r2d2::Pool::builder().max_size(4).thread_pool(self.threads.clone()).build(manager)?)
        };
        let pool = self.pools.try_get_with(user.to_owned(), open);
        // moka evicts lazily, in batches: without this the pools run far past their bound.
        self.pools.run_pending_tasks();
        pool.map(Some).map_err(|error| error.to_string().into())
    }

    /// Runs a query on a blocking thread with a pooled connection.
    async fn with<T: Send + 'static>(
        self,
        user: String,
        create: bool,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Option<T>, Failure> {
        tokio::task::spawn_blocking(move || {
            let Some(pool) = self.pool(&user, create)? else {
                return Ok(None);
            };
            Ok(Some(query(&mut *pool.get()?)?))
        })
        .await?
    }
}

async fn create(State(app): State<App>, Path(user): Path<String>, Json(draft): Json<Draft>) -> Response {
    let insert = move |connection: &mut Connection| {
        let now = Timestamp::now().as_millisecond();
        let letters: Vec<char> = ('a'..='z').collect();
        let id = format!("note_{}", nanoid::nanoid!(16, &letters));
        connection
            .prepare_cached("INSERT INTO notes (id, text, created, updated) VALUES (?1, ?2, ?3, ?3)")?
            .execute(params![id, draft.text, now])?;
        Ok(Note { id, text: draft.text, created: rfc3339(now), updated: rfc3339(now) })
    };
    match app.with(user.clone(), true, insert).await {
        Ok(Some(note)) => {
            let location = [(header::LOCATION, format!("/{user}/{}", note.id))];
            (StatusCode::CREATED, location, Json(One { note })).into_response()
        }
        other => absent_or_failed(other.err()),
    }
}

async fn list(State(app): State<App>, Path(user): Path<String>, Query(page): Query<Page>) -> Response {
    let limit = page.limit.unwrap_or(20).min(100) as usize;
    let select = move |connection: &mut Connection| {
        connection
            .prepare_cached("SELECT * FROM notes WHERE seq > ?1 ORDER BY seq LIMIT ?2")?
            .query_map(params![page.cursor.unwrap_or(0), limit as i64 + 1], |row| {
                Ok((row.get::<_, i64>("seq")?, note(row)?))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()
    };
    match app.with(user, false, select).await {
        Ok(Some(mut rows)) => {
            let more = rows.len() > limit;
            rows.truncate(limit);
            let last = rows.last().map(|(seq, _)| seq.to_string());
            Json(Many { notes: rows.into_iter().map(|(_, note)| note).collect(), next_cursor: last.filter(|_| more) })
                .into_response()
        }
        other => absent_or_failed(other.err()),
    }
}

async fn read(State(app): State<App>, Path((user, id)): Path<(String, String)>) -> Response {
    let select = move |connection: &mut Connection| {
        connection.prepare_cached("SELECT * FROM notes WHERE id = ?1")?.query_row([id], note).optional()
    };
    match app.with(user, false, select).await {
        Ok(Some(Some(note))) => Json(One { note }).into_response(),
        other => absent_or_failed(other.err()),
    }
}

fn absent_or_failed(failure: Option<Failure>) -> Response {
    let Some(failure) = failure else {
        return StatusCode::NOT_FOUND.into_response();
    };
    eprintln!("{failure}");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [listen, folder, room] = arguments.as_slice() else {
        eprintln!("usage: compare-naive HOST:PORT DATA_FOLDER TENANTS_KEPT_OPEN");
        std::process::exit(2);
    };
    let app = App {
        folder: Arc::new(folder.into()),
        pools: Cache::new(room.parse().expect("the third argument is a number of tenants")),
        threads: Arc::new(ScheduledThreadPool::new(3)),
    };
    let router = Router::new()
        .route("/readyz", get(async || StatusCode::OK))
        .route("/{user}", get(list).post(create))
        .route("/{user}/{note}", get(read))
        .with_state(app);
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .unwrap_or_else(|error| panic!("cannot listen on {listen}: {error}"))
        .tap_io(|stream| _ = stream.set_nodelay(true));
    axum::serve(listener, router).await.expect("the accept loop ends only with the process");
}

//! A to-do API of your own: your schema, your routes, and Cubby's door with Clerk's session tokens, limits and
//! errors. `cargo run --example own_api -- https://your-app.clerk.accounts.dev`, then with a session token
//! `curl -H "Authorization: Bearer $TOKEN" --json '{"what": "buy milk"}' 127.0.0.1:3000/users/user_…/todos`.

use std::{error::Error, path::Path};

use axum::{Json, Router, http::StatusCode, routing::get};
use cubby::{
    Result, Schema, Store, StoreOptions,
    config::{Provisioning, ServeConfig, door::AuthMode},
    http::{
        door::Door,
        extract::{NewTenantWith, Payload, Tenant},
        segment::Segment,
    },
    server::serve_api,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

const TODOS: &str = "CREATE TABLE todos (id INTEGER PRIMARY KEY, what TEXT NOT NULL) STRICT";

#[derive(Deserialize)]
struct Draft {
    what: String,
}

impl Payload<Door> for Draft {}

#[derive(Serialize)]
struct Todo {
    id: i64,
    what: String,
}

async fn list(Tenant(tenant): Tenant) -> Result<Json<Vec<Todo>>> {
    let read = tenant.read(|conn| {
        let mut select = conn.prepare_cached("SELECT id, what FROM todos ORDER BY id")?;
        let todos = select.query_map([], |row| Ok(Todo { id: row.get(0)?, what: row.get(1)? }))?;
        Ok(todos.collect::<Result<_, _>>()?)
    });
    Ok(Json(read.await?))
}

/// When `write` returns, the row survives a power cut.
async fn add(NewTenantWith(tenant, Draft { what }): NewTenantWith<Draft>) -> Result<(StatusCode, Json<Todo>)> {
    let write = tenant.write(move |tx| {
        tx.execute("INSERT INTO todos (what) VALUES (?1)", [&what])?;
        Ok(Todo { id: tx.last_insert_rowid(), what })
    });
    Ok((StatusCode::CREATED, Json(write.await?)))
}

#[derive(Deserialize)]
struct TodoPath {
    todo_id: i64,
}

async fn remove(Tenant(tenant): Tenant, Segment(TodoPath { todo_id }): Segment<TodoPath>) -> Result<StatusCode> {
    let removed = tenant.write(move |tx| Ok(tx.execute("DELETE FROM todos WHERE id = ?1", [todo_id])?)).await?;
    Ok(if removed == 1 { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND })
}

/// Serves until `shutdown` resolves.
pub async fn serve(
    data: &Path,
    config: &ServeConfig,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let mut options = StoreOptions::new(data);
    options.schema = Some(Schema::from_sql(&[("V1__todos", TODOS)])?);
    let mut door = Door::new(Store::open(options)?, config)?;
    door.body_limit = 4096;
    let routes = Router::new()
        .route("/users/{user_id}/todos", get(list).post(add))
        .route("/users/{user_id}/todos/{todo_id}", axum::routing::delete(remove))
        .with_state(door.clone());
    serve_api(&door, routes, listener, shutdown).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = std::env::args().nth(1).ok_or("name your Clerk application: https://….clerk.accounts.dev")?;
    let mut config = ServeConfig::defaults()?;
    config.door.auth = AuthMode::Jwt;
    config.door.jwks_url = Some(format!("{issuer}/.well-known/jwks.json"));
    config.door.issuer = Some(issuer);
    config.provisioning = Provisioning::OnProof;
    config.validate()?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let data = std::env::temp_dir().join("cubby-todos");
    Ok(serve(&data, &config, listener, async { drop(tokio::signal::ctrl_c().await) }).await?)
}

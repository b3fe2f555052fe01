//! A server of your own over Cubby's store: `cargo run --example embed`, then
//! `curl -d 'buy milk' http://127.0.0.1:3000/users/ada/todos` and `curl` without `-d`.

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use cubby::{Error, ErrorKind, Schema, Store, StoreOptions, TenantId, rusqlite::Transaction};

type Reply<T> = Result<T, (StatusCode, String)>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join("cubby-embed");
    let mut options = StoreOptions::new(&folder);
    options.schema =
        Some(Schema::from_sql(&[("V1__todos", "CREATE TABLE todos (id INTEGER PRIMARY KEY, what TEXT NOT NULL)")])?);
    let store = Store::open(options)?;

    let routes = Router::new().route("/users/{user}/todos", get(list).post(add)).with_state(store.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("on http://{}, data in {}", listener.local_addr()?, folder.display());
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, routes).with_graceful_shutdown(interrupted).await?;
    // Not needed for safety: what was acknowledged is on the disk.
    store.close(tokio::time::Instant::now() + std::time::Duration::from_secs(10)).await;
    Ok(())
}

/// A read never creates: a user without a database is 404 here.
async fn list(State(store): State<Store>, Path(user): Path<TenantId>) -> Reply<String> {
    let tenant = store.lease(&user).await.map_err(|e| refuse(&e))?;
    let sql = "SELECT coalesce(group_concat(what, char(10) ORDER BY id), '') FROM todos";
    tenant.read(move |conn| Ok(conn.query_row(sql, [], |row| row.get(0))?)).await.map_err(|e| refuse(&e))
}

/// When `write` returns `Ok`, the row survives a power cut.
async fn add(State(store): State<Store>, Path(user): Path<TenantId>, what: String) -> Reply<StatusCode> {
    let (tenant, _created) = store.lease_or_create(&user).await.map_err(|e| refuse(&e))?;
    let insert = move |tx: &Transaction| Ok(tx.execute("INSERT INTO todos (what) VALUES (?1)", [what])?);
    tenant.write(insert).await.map(|_| StatusCode::CREATED).map_err(|e| refuse(&e))
}

fn refuse(error: &Error) -> (StatusCode, String) {
    let status = match error.kind() {
        ErrorKind::UnknownTenant => StatusCode::NOT_FOUND,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, error.message().to_owned())
}

//! A web service on axum and sqlx: the smallest complete host.
//!
//! ```toml
//! [dependencies]
//! audit-runtime = { version = "0.1", features = ["http"] }
//! audit-sink-s3 = "0.1" # here: audit-core with the feature test-util, for MemorySink
//! audit-sqlx = { version = "0.1", features = ["sqlite"] } # or postgres
//! axum = { version = "0.8", features = ["http1", "json", "tokio"] }
//! sqlx = { version = "0.9", features = ["runtime-tokio"] }
//! tokio = { version = "1", features = ["macros", "net", "rt-multi-thread"] }
//! ```
//!
//! `cargo run -p audit-sqlx --example axum`
//!
//! `hosts/service` adds settings, probes and an orderly shutdown.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use audit_core::testing::MemorySink;
use audit_runtime::http::RequestContextLayer;
use audit_runtime::{AuditLog, AuditRuntime, Mutation, Query, RequestContext, Var, body};
use audit_sqlx::Tx;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use sqlx::{Executor, Sqlite, SqlitePool};
use tokio::net::TcpListener;

#[derive(Clone)]
struct App {
    runtime: AuditRuntime,
    pool: SqlitePool,
}

type Failure = sqlx::Error;

/// A query, which logs what it shows.
async fn read(log: &AuditLog<'_, Query>, pool: &SqlitePool, id: &str) -> Result<String, Failure> {
    let text = sqlx::query_scalar("SELECT text FROM notes WHERE id = $1").bind(id);
    let text: Option<String> = text.fetch_optional(pool).await?;
    log.audit(&body!({
        "action": "notes.read", "note": id, "found": text.is_some(),
        "ip": Var::IP, "requestId": Var::REQUEST_ID, "at": Var::NOW,
    }))
    .map_err(Failure::decode)?;
    text.ok_or(Failure::RowNotFound)
}

/// A mutation, which logs what it is about to do. The runtime commits once the log is durable.
async fn write(
    log: &AuditLog<'_, Mutation>,
    tx: &mut Tx<Sqlite>,
    (id, text): (&str, &str),
) -> Result<(), Failure> {
    log.audit(&body!({
        "action": "notes.write", "note": id, "bytes": text.len(),
        "ip": Var::IP, "requestId": Var::REQUEST_ID, "at": Var::NOW,
    }))
    .map_err(Failure::decode)?;
    let write = "INSERT INTO notes VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = $2";
    sqlx::query(write).bind(id).bind(text).execute(&mut **tx).await?;
    Ok(())
}

/// `GET /notes/{id}`
async fn get_note(
    State(App { runtime, pool }): State<App>,
    Extension(request): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Result<String, StatusCode> {
    let query = runtime.query("notes:read");
    let result = read(&query.log(), &pool, &id).await;
    // The failure is sealed too: the log is durable before the caller learns that the note does not
    // exist.
    let released = query.seal(result).release_into(&request).await;
    released.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?.map_err(|_| StatusCode::NOT_FOUND)
}

/// `PUT /notes/{id}`
async fn put_note(
    State(App { runtime, pool }): State<App>,
    Extension(request): Extension<RequestContext>,
    Path(id): Path<String>,
    text: String,
) -> StatusCode {
    let run = runtime.run_mutation("notes:write", &request, async |execution| {
        let mut tx = audit_sqlx::begin(&pool).await?;
        let result = write(&execution.log(), &mut tx, (&id, &text)).await;
        Ok(execution.seal_transaction(tx, result))
    });
    match run.await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// A cache between the host and its clients would show notes without logs.
async fn unstored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite://{}/notes.db?mode=rwc", directory.path().display());
    let pool = SqlitePool::connect(&url).await?;
    pool.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT NOT NULL)").await?;
    let sink = Arc::new(MemorySink::new());
    let runtime = AuditRuntime::new(Arc::clone(&sink) as _);
    let layer = RequestContextLayer::new(runtime.clone(), |extensions| {
        extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())
    });
    let app = Router::new()
        .route("/notes/{id}", get(get_note).put(put_note))
        .with_state(App { runtime, pool })
        .layer(layer)
        .layer(map_response(unstored));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/notes", listener.local_addr()?);
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let client = reqwest::Client::new();
    let written = client.put(format!("{url}/plan")).body("Start small.").send().await?;
    println!("PUT /notes/plan: {}", written.status());
    let read = client.get(format!("{url}/plan")).send().await?;
    assert_eq!(read.headers()["cache-control"], "no-store");
    println!("GET /notes/plan: {}, {:?}", read.status(), read.text().await?);
    let missing = client.get(format!("{url}/nothing")).send().await?;
    println!("GET /notes/nothing: {}", missing.status());
    println!("audit logs, each durable before its answer:");
    for line in sink.lines() {
        println!("  {line}");
    }
    assert_eq!(sink.lines().len(), 3);
    server.abort();
    Ok(())
}

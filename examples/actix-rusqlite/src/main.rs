//! A host on actix-web with a blocking database (rusqlite) and a cache of sealed results (moka).
//!
//! `cargo run -p example-actix-rusqlite`; its dependencies are in its `Cargo.toml`. Start here, and
//! see `database.rs` for the recipe of a blocking database.

mod database;

use std::error::Error;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, ResponseError, web};
use audit_core::testing::MemorySink;
use audit_runtime::http::{Origin, TrustedProxies};
use audit_runtime::{
    AuditError, AuditLog, AuditRuntime, Audited, FunctionError, Mutation, MutationError, Query,
    ReleaseError, RequestContext, UserAgent, Var, body,
};
use moka::sync::Cache;
use rusqlite::{Connection, OptionalExtension};

use crate::database::Database;

/// A cache entry: a sealed result, so that each release is logged.
type Note = Audited<Arc<String>>;

struct Host {
    runtime: AuditRuntime,
    database: Database,
    /// By id **and revision**, so that entries are never stale and never need to be invalidated.
    notes: Cache<(String, i64), Note>,
    proxies: TrustedProxies,
}

/// A query. It logs that the note was read. The reader and the time are variables.
fn read(
    log: &AuditLog<'_, Query>,
    id: &str,
    found: Option<(i64, String)>,
) -> Result<(i64, Arc<String>), Failure> {
    log.audit(&body!({
        "action": "notes.read", "note": id, "revision": found.as_ref().map(|(n, _)| *n),
        "ip": Var::IP, "userAgent": Var::USER_AGENT, "at": Var::NOW,
    }))?;
    let (revision, text) = found.ok_or(Failure::NotFound)?;
    Ok((revision, Arc::new(text)))
}

fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<(i64, String)>> {
    let row = "SELECT revision, text FROM notes WHERE id = ?1";
    connection.query_row(row, [id], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn revision(connection: &Connection, id: &str) -> rusqlite::Result<Option<i64>> {
    let row = "SELECT revision FROM notes WHERE id = ?1";
    connection.query_row(row, [id], |row| row.get(0)).optional()
}

/// A mutation, in plain blocking code.
fn write(
    log: &AuditLog<'_, Mutation>,
    connection: &Connection,
    id: &str,
    text: &str,
) -> Result<i64, Failure> {
    let revision = revision(connection, id)?.unwrap_or(0) + 1;
    log.audit(&body!({
        "action": "notes.write", "note": id, "revision": revision, "bytes": text.len(),
        "ip": Var::IP, "userAgent": Var::USER_AGENT, "at": Var::NOW,
    }))?;
    connection.execute("REPLACE INTO notes VALUES (?1, ?2, ?3)", (id, revision, text))?;
    Ok(revision)
}

impl Host {
    fn context(&self, request: &HttpRequest) -> RequestContext {
        let headers = request.headers();
        let peer = request.peer_addr().map(|address| address.ip());
        let origin = Origin::of(peer, &self.proxies, "x-request-id", |name| {
            headers.get_all(name).map(|line| line.as_bytes()).collect::<Vec<_>>()
        });
        let mut context = match origin.request_id() {
            Some(id) => RequestContext::new(id.clone()),
            None => self.runtime.new_request(),
        };
        if let Some(address) = origin.client() {
            context = context.with_ip(address);
        }
        match headers.get("user-agent") {
            Some(agent) => context.with_user_agent(UserAgent::from_bytes(agent.as_bytes())),
            None => context,
        }
    }
}

/// `GET /notes/{id}`
async fn get_note(
    host: web::Data<Host>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Failure> {
    let (context, id) = (host.context(&request), id.into_inner());
    let wanted = id.clone();
    let current = host.database.read(move |connection| revision(connection, &wanted)).await??;
    let cached = current.and_then(|revision| host.notes.get(&(id.clone(), revision)));
    let note = match cached {
        Some(note) => note,
        None => {
            let query = host.runtime.query("notes:read");
            let wanted = id.clone();
            let found = host.database.read(move |connection| find(connection, &wanted)).await??;
            match read(&query.log(), &id, found) {
                Ok((revision, text)) => {
                    let note = query.seal(text);
                    host.notes.insert((id, revision), note.clone());
                    note
                }
                // A failure is sealed too: it is released once its logs are durable.
                Err(failure) => return Err(query.seal(failure).release_into(&context).await?),
            }
        }
    };
    let text = note.release(&context).await?;
    Ok(HttpResponse::Ok().body(text.as_ref().clone()))
}

/// `PUT /notes/{id}`
async fn put_note(
    host: web::Data<Host>,
    request: HttpRequest,
    id: web::Path<String>,
    text: String,
) -> Result<HttpResponse, Failure> {
    let (context, id, text) = (host.context(&request), id.into_inner(), Arc::new(text));
    let run = host.runtime.run_mutation("notes:write", &context, async |execution| {
        let (id, text) = (id.clone(), Arc::clone(&text));
        let function = move |execution: &audit_runtime::Execution<Mutation>, connection: &_| {
            write(&execution.log(), connection, &id, &text)
        };
        host.database.attempt(execution, function).await
    });
    let revision = run.await?;
    Ok(HttpResponse::Ok().body(format!("revision {revision}")))
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("there is no such note")]
    NotFound,
    #[error("the database failed")]
    Database(#[from] rusqlite::Error),
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The logs are not durable, or nothing was released or committed for another reason.
    #[error("{0}")]
    Unanswered(Box<dyn Error + Send>),
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let sink = Arc::new(MemorySink::new());
    let host = web::Data::new(Host {
        runtime: AuditRuntime::new(Arc::clone(&sink) as _),
        database: Database::open(&directory.path().join("notes.db"))?,
        notes: Cache::builder()
            .weigher(|(id, _): &(String, i64), note: &Note| {
                // The sealed text cannot be measured, but the host's limit on bodies bounds it.
                // The size of the logs is known.
                u32::try_from(id.len() + note.held_bytes()).unwrap_or(u32::MAX)
            })
            .max_capacity(64 << 20)
            .build(),
        proxies: TrustedProxies::none(),
    });
    let data = host.clone();
    let notes = || web::resource("/notes/{id}").get(get_note).put(put_note);
    // A cache between the host and its clients would show notes without logs.
    let unstored = || DefaultHeaders::new().add((CACHE_CONTROL, "no-store"));
    let app = move || App::new().app_data(data.clone()).service(notes()).wrap(unstored());
    let server = HttpServer::new(app).workers(1).disable_signals().bind("127.0.0.1:0")?;
    let address = server.addrs()[0];
    let server = server.run();
    let handle = server.handle();
    let client = std::thread::spawn(move || -> std::io::Result<()> {
        for (agent, method, path, body) in [
            ("ada", "PUT", "/notes/plan", "Start small."),
            ("bob", "GET", "/notes/plan", ""),
            ("eve", "GET", "/notes/plan", ""),
            ("eve", "GET", "/notes/nothing", ""),
        ] {
            let response = send(address, agent, method, path, body)?;
            println!("{agent}: {method} {path}: {response}");
        }
        Ok(())
    });
    let stop = async {
        let done = tokio::task::spawn_blocking(move || client.join()).await;
        handle.stop(true).await;
        done
    };
    let (served, done) = tokio::join!(server, stop);
    served?;
    done?.map_err(|_| "the client panicked")??;

    println!("audit logs, each durable before its answer; eve's is of a cached result:");
    for line in sink.lines() {
        println!("  {line}");
    }
    assert_eq!(sink.lines().len(), 4);
    assert!(sink.lines()[2].contains("\"userAgent\":\"eve\""));
    assert_eq!(host.notes.iter().count(), 1);
    Ok(())
}

/// Sends a request on a connection of its own. Returns the status line and body of the response.
fn send(
    address: std::net::SocketAddr,
    agent: &str,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut connection = std::net::TcpStream::connect(address)?;
    write!(
        connection,
        "{method} {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut response = String::new();
    connection.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    assert!(head.contains("cache-control: no-store"), "{head}");
    Ok(format!("{} {body:?}", head.lines().next().unwrap_or_default()))
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        match self {
            Failure::NotFound => StatusCode::NOT_FOUND,
            Failure::Database(_) | Failure::Audit(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Failure::Unanswered(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl FunctionError<rusqlite::Error> for Failure {
    fn database_error(&self) -> Option<&rusqlite::Error> {
        match self {
            Failure::Database(error) => Some(error),
            Failure::NotFound | Failure::Audit(_) | Failure::Unanswered(_) => None,
        }
    }
}

impl From<ReleaseError> for Failure {
    fn from(error: ReleaseError) -> Failure {
        Failure::Unanswered(Box::new(error))
    }
}

impl From<MutationError<Failure>> for Failure {
    fn from(error: MutationError<Failure>) -> Failure {
        match error {
            MutationError::Function(failure) => failure,
            error @ (MutationError::Release(_)
            | MutationError::Conflict { .. }
            | MutationError::ForeignExecution
            | MutationError::Commit(_)
            | _) => Failure::Unanswered(Box::new(error)),
        }
    }
}

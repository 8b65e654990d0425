//! A gRPC host on tonic: a query, a mutation, and a download whose stream is sealed.
//!
//! `cargo run -p example-tonic`; what it needs stands in its `Cargo.toml`.
//!
//! `RequestContextLayer` is an ordinary tower layer: in front of tonic's server it puts each call's
//! [`RequestContext`] into the extensions, and the request id into the response's metadata.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::testing::MemorySink;
use audit_runtime::http::RequestContextLayer;
use audit_runtime::prelude::*;
use futures::stream::{self, Stream, TryStreamExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Response, Status};

/// What `build.rs` generated.
mod service {
    #![allow(warnings, clippy::all, reason = "generated")]
    tonic::include_proto!("notes.Notes");
}

use service::notes_client::NotesClient;
use service::notes_server::{Notes, NotesServer};

/// Which note.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Name {
    #[prost(string, tag = "1")]
    name: String,
}

/// A note, or a part of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Note {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    text: String,
}

/// What was written.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Written {
    #[prost(uint64, tag = "1")]
    bytes: u64,
}

/// Notes by name.
#[derive(Debug, Clone, Default)]
struct Database(Arc<Mutex<BTreeMap<String, String>>>);

/// What is written when the runtime commits it.
struct Tx {
    database: Database,
    written: Vec<Note>,
}

impl Database {
    fn notes(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Tx {
        Tx { database: self.clone(), written: Vec::new() }
    }
}

impl Transaction for Tx {
    type Error = Infallible;

    async fn commit(self) -> Result<(), Infallible> {
        let written = self.written.into_iter().map(|note| (note.name, note.text));
        self.database.notes().extend(written);
        Ok(())
    }

    async fn rollback(self) -> Result<(), Infallible> {
        Ok(())
    }

    fn is_conflict(never: &Infallible) -> bool {
        match *never {}
    }
}

/// A query. It logs that the note was read; who reads it, and when, are variables.
fn read(
    log: &AuditLog<'_, Query>,
    database: &Database,
    action: &str,
    name: &str,
) -> Result<String, Failure> {
    let text = database.notes().get(name).cloned();
    log.audit(&body!({
        "action": action, "note": name, "found": text.is_some(),
        "ip": Var::IP, "userAgent": Var::USER_AGENT, "requestId": Var::REQUEST_ID, "at": Var::NOW,
    }))?;
    text.ok_or(Failure::Missing)
}

/// A mutation: it logs what it is about to do. The runtime commits, once that is durable.
fn write(log: &AuditLog<'_, Mutation>, tx: &mut Tx, note: &Note) -> Result<usize, Failure> {
    log.audit(&body!({
        "action": "notes.write", "note": note.name, "bytes": note.text.len(),
        "ip": Var::IP, "userAgent": Var::USER_AGENT, "requestId": Var::REQUEST_ID, "at": Var::NOW,
    }))?;
    tx.written.push(note.clone());
    Ok(note.text.len())
}

#[derive(Debug)]
struct Host {
    runtime: AuditRuntime,
    database: Database,
}

/// The context that the layer made, and the message.
fn parts<T>(request: Request<T>) -> Result<(RequestContext, T), Status> {
    let (_, extensions, message) = request.into_parts();
    let context = extensions.get::<RequestContext>().cloned();
    Ok((context.ok_or_else(|| Status::internal("no request context"))?, message))
}

#[tonic::async_trait]
impl Notes for Host {
    async fn read(&self, request: Request<Name>) -> Result<Response<Note>, Status> {
        let (context, Name { name }) = parts(request)?;
        let query = self.runtime.query("notes:read");
        let result = read(&query.log(), &self.database, "notes.read", &name);
        // A failure is a result too: it is handed out once its log is durable.
        let text = query.seal(result).release_into(&context).await.map_err(unreleased)??;
        Ok(Response::new(Note { name, text }))
    }

    async fn write(&self, request: Request<Note>) -> Result<Response<Written>, Status> {
        let (context, note) = parts(request)?;
        let run = self.runtime.run_mutation("notes:write", &context, async |execution| {
            let mut tx = self.database.begin();
            let result = write(&execution.log(), &mut tx, &note);
            Ok(execution.seal_transaction(tx, result))
        });
        let bytes = match run.await {
            Ok(bytes) => bytes,
            Err(MutationError::Function(failure)) => return Err(failure.into()),
            Err(error) => return Err(status(error.http_status(), &error)),
        };
        Ok(Response::new(Written { bytes: bytes as u64 }))
    }

    type ExportStream = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;

    /// The stream itself is sealed: its first message is sent once the log is durable.
    async fn export(&self, request: Request<Name>) -> Result<Response<Self::ExportStream>, Status> {
        let (context, Name { name }) = parts(request)?;
        let query = self.runtime.query("notes:export");
        let result = read(&query.log(), &self.database, "notes.export", &name);
        let stream = result.map(|text| -> Self::ExportStream {
            let lines: Vec<_> = text.lines().map(ToOwned::to_owned).collect();
            Box::pin(stream::iter(
                lines.into_iter().map(move |text| Ok(Note { name: name.clone(), text })),
            ))
        });
        let stream = query.seal(stream).release_into(&context).await.map_err(unreleased)??;
        Ok(Response::new(stream))
    }
}

fn status(http_status: u16, error: &dyn Error) -> Status {
    let code = match http_status {
        400 => Code::InvalidArgument,
        503 => Code::Unavailable,
        _ => Code::Internal,
    };
    // The message says nothing of the sink: why it failed is in the error's source, for a log.
    Status::new(code, error.to_string())
}

fn unreleased(error: ReleaseError) -> Status {
    status(error.http_status(), &error)
}

#[derive(Debug)]
enum Failure {
    Missing,
    Audit(AuditError),
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        match failure {
            Failure::Missing => Status::not_found(failure.to_string()),
            Failure::Audit(error) => status(error.http_status(), &error),
        }
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Failure {
        Failure::Audit(error)
    }
}

impl From<Infallible> for Failure {
    fn from(never: Infallible) -> Failure {
        match never {}
    }
}

impl FunctionError<Infallible> for Failure {
    fn database_error(&self) -> Option<&Infallible> {
        None
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Missing => f.write_str("there is no such note"),
            Failure::Audit(error) => error.fmt(f),
        }
    }
}

impl Error for Failure {}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let sink = Arc::new(MemorySink::new());
    let runtime = AuditRuntime::new(Arc::clone(&sink) as _);
    let layer = RequestContextLayer::new(runtime.clone(), |extensions| {
        let peer = extensions.get::<TcpConnectInfo>()?.remote_addr()?;
        Some(peer.ip())
    });
    let host = Host { runtime, database: Database::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder().layer(layer).add_service(NotesServer::new(host));
    let server = server.serve_with_incoming_shutdown(TcpIncoming::from(listener), async {
        // Stopped, or the client failed.
        let _ = stopped.await;
    });
    let server = tokio::spawn(server);

    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.user_agent("ada")?;
    let mut client = NotesClient::new(endpoint.connect().await?);
    let name = || Name { name: "plan".to_owned() };
    let note = Note { name: name().name, text: "Start small.\nGrow.".to_owned() };
    let written = client.write(note.clone()).await?.into_inner();
    println!("wrote {} bytes", written.bytes);
    let response = client.read(name()).await?;
    println!("request {:?}", response.metadata().get("x-request-id"));
    assert_eq!(response.into_inner(), note);
    let lines: Vec<Note> = client.export(name()).await?.into_inner().try_collect().await?;
    println!("exported {} lines", lines.len());
    let missing = client.read(Name { name: "nothing".to_owned() }).await;
    println!("{:?}", missing.map_err(|status| status.code()));
    drop((client, stop));
    server.await??;

    println!("audit logs, each durable before its response:");
    for line in sink.lines() {
        println!("  {line}");
    }
    assert_eq!((lines.len(), sink.lines().len()), (2, 4));
    Ok(())
}

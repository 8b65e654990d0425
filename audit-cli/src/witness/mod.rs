//! `audit witness`: cosigns checkpoints that extend what it has cosigned, by the protocol
//! `tlog-witness`.

pub(crate) mod heads;
mod memory;
pub(crate) mod show;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{Clock, SystemClock};
use audit_evidence::{AddCheckpoint, Certificate, KeyKind, Refusal, SignerKey, VerifierKey};
use audit_host::{Connections, ServeLimits};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::net::TcpListener;

use self::heads::Event;
use self::memory::Memory;
use crate::arguments::Witness;
use crate::failure::{Failure, Outcome};
use crate::key;
use crate::output::Output;

/// The maximum size of a request's body, in bytes. 63 hashes, a checkpoint and its signature lines
/// take 8 KiB.
const MAX_BODY_BYTES: usize = 64 << 10;

/// The time limit for receiving a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of connections. A host sends a checkpoint every few minutes.
const MAX_CONNECTIONS: usize = 64;

struct Cosigner {
    key: Arc<SignerKey>,
    hosts: Vec<VerifierKey>,
    memory: Memory,
}

pub(crate) async fn run(arguments: &Witness, output: &Output) -> Result<Outcome, Failure> {
    let key = key::read(&arguments.key)?;
    if key.verifier().kind() != KeyKind::Cosignature {
        let what = "is a host's: make one for a witness with audit key FILE --make NAME --witness";
        return Err(Failure::new(format!("the key in {} {what}", arguments.key.display())));
    }
    let key = Arc::new(key);
    let memory = Memory::open(&arguments.state, Arc::clone(&key))?;
    let listener = TcpListener::bind(arguments.listen).await.map_err(|error| {
        Failure::new(format!("cannot listen on {}", arguments.listen)).because(error)
    })?;
    let address: SocketAddr = listener
        .local_addr()
        .map_err(|error| Failure::new("the listener has no address").because(error))?;
    if output.is_json() {
        let key = key.verifier().to_string();
        let url = format!("http://{address}");
        output.json(&serde_json::json!({ "listening": url, "key": key }))?;
    } else {
        output.line(&format!("listening on http://{address}"))?;
        output.line(&format!("cosigning as {}", key.verifier()))?;
    }
    output.flush()?;
    let cosigner = Cosigner { key, hosts: arguments.hosts.clone(), memory };
    let router =
        Router::new().route("/add-checkpoint", post(add_checkpoint)).with_state(Arc::new(cosigner));
    let limits = ServeLimits { max_connections: Some(MAX_CONNECTIONS), ..ServeLimits::default() };
    let connections = Connections::new(limits)
        .map_err(|error| Failure::new("too few open files are allowed").because(error))?;
    // The command ends with a signal. Every cosignature that was returned is durable.
    connections.serve(listener, router, std::future::pending()).await;
    Ok(Outcome::Well)
}

async fn add_checkpoint(State(cosigner): State<Arc<Cosigner>>, request: Request) -> Response {
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES);
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body,
        Ok(Err(_too_long)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_elapsed) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let decided = tokio::task::spawn_blocking(move || cosigner.decide(&body)).await;
    match decided {
        Ok(Ok(line)) => line.into_response(),
        Ok(Err(Declined::Refusal(refusal))) => refused(&refusal),
        Ok(Err(Declined::Failure(failure))) => {
            crate::output::note(&audit_core::with_sources(&failure));
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Err(_panicked) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Why a checkpoint is not cosigned.
enum Declined {
    Refusal(Refusal),
    Failure(Failure),
}

impl From<Refusal> for Declined {
    fn from(refusal: Refusal) -> Declined {
        Declined::Refusal(refusal)
    }
}

impl From<Failure> for Declined {
    fn from(failure: Failure) -> Declined {
        Declined::Failure(failure)
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    // The response names the size from which the log can start its next proof.
    if let Refusal::OtherSize { latest: size } | Refusal::Fork { size } = refusal {
        let kind = [(header::CONTENT_TYPE, "text/x.tlog.size")];
        return (status, kind, Body::from(format!("{size}\n"))).into_response();
    }
    (status, format!("{refusal}\n")).into_response()
}

impl Cosigner {
    /// Decides on a request. Returns the line of the cosignature once its checkpoint is durable.
    fn decide(&self, body: &[u8]) -> Result<String, Declined> {
        let text = std::str::from_utf8(body)
            .map_err(|_| Refusal::Malformed("the request is not UTF-8"))?;
        let request = AddCheckpoint::parse(text)?;
        let origin = request.checkpoint().origin();
        // The stream must belong to a known host: the certificate names the host that vouches for
        // the stream's key.
        let mut hosts = self.hosts.iter();
        let certificate = hosts.find_map(|host| Certificate::find(request.note(), host));
        let stream_key = certificate.as_ref().map(Certificate::stream_key);
        let is_known = self
            .hosts
            .iter()
            .any(|host| origin.strip_prefix(host.name()).is_some_and(|rest| rest.starts_with('/')));
        if stream_key.is_none() && is_known {
            return Err(Refusal::Unsigned.into());
        }
        // One decision at a time, so that check and update are atomic.
        let mut memory = self.memory.lock();
        let latest = memory.latest(origin)?;
        let (pinned, latest) = latest.unzip();
        if let (Some(pinned), Some(certificate)) = (pinned, &certificate)
            && certificate.stream_key().to_bytes() != pinned
        {
            // A stream's key never changes.
            if request.note().verify(certificate.stream_key()) == Ok(true) {
                memory.contradict(request.note(), certificate, Event::OtherKey)?;
            }
            return Err(Refusal::Unsigned.into());
        }
        let checked = request.check(stream_key, latest);
        if let (Err(Refusal::Fork { .. }), Some(certificate)) = (&checked, &certificate) {
            memory.contradict(request.note(), certificate, Event::Fork)?;
        }
        let witnessed = checked?;
        if let Some(certificate) = certificate.as_ref().filter(|_| latest != Some(witnessed)) {
            // From here on, a crash leaves either no cosignature or a durable one.
            memory.remember(request.note(), certificate, &witnessed)?;
        }
        let time = u64::try_from(SystemClock.now_ms() / 1_000).unwrap_or_default();
        Ok(format!("{}\n", request.checkpoint().cosign(&self.key, time)))
    }
}

//! `audit serve`: a page for reading a bucket, from this process and nothing else.

mod assets;
mod export;
mod guard;
mod integrity;
mod plan;
mod question;
mod record;
mod search;

use std::net::SocketAddr;
use std::sync::Arc;

use audit_host::{Connections, ServeLimits, Tls};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use url::Url;

use crate::arguments::{Common, Serve, TrustedKeys};
use crate::bucket::{Reader, Wanted};
use crate::export::found::Found;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::units::HOUR_MS;
use crate::verify;

use self::guard::Guard;
use self::integrity::Integrity;

/// The maximum number of concurrent scans, each of which uses all cores. Further ones wait.
const MAX_SCANS: usize = 4;

/// The maximum number of concurrent connections. A browser opens six.
const MAX_CONNECTIONS: usize = 64;

/// The state that requests share.
struct Desk {
    reader: Reader,
    scans: Arc<Semaphore>,
    integrity: Arc<Integrity>,
}

impl Desk {
    /// The desk of one request: a listing that the store refuses in one request does not count in
    /// another.
    fn anew(&self) -> Desk {
        let (scans, integrity) = (Arc::clone(&self.scans), Arc::clone(&self.integrity));
        Desk { reader: self.reader.anew(), scans, integrity }
    }
}

/// How browsers reach the page.
enum Place {
    /// From this machine alone.
    Local,
    /// Through a proxy with this address.
    Proxy(Url),
    /// With TLS, under this name.
    Tls(Tls, String),
}

impl Place {
    fn new(arguments: &Serve) -> Result<Place, Failure> {
        let Serve { listen, proxy, tls_cert, tls_key, name, .. } = arguments;
        if let Some(proxy) = proxy {
            return Ok(Place::Proxy(proxy.clone()));
        }
        if let Some((chain, key)) = tls_cert.as_ref().zip(tls_key.as_ref()) {
            let name = match name {
                Some(name) => name.clone(),
                None if listen.ip().is_unspecified() => {
                    let what = format!("{} is every address of this machine", listen.ip());
                    let why =
                        "name the one of the certificate's names that browsers use: --name NAME";
                    return Err(Failure::new(format!("{what}: {why}")));
                }
                None => listen.ip().to_string(),
            };
            let tls =
                Tls::from_pem_files(chain, key, &name).map_err(|error| Failure::of(&error))?;
            return Ok(Place::Tls(tls, name));
        }
        if listen.ip().is_loopback() {
            return Ok(Place::Local);
        }
        Err(Failure::new(format!(
            "{listen} can be reached from other machines, which needs TLS: give a certificate \
             with --tls-cert and --tls-key, or put a proxy with TLS before it, and name it with \
             --proxy https://NAME"
        )))
    }
}

pub(crate) async fn run(
    arguments: &Serve,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let (keys, policy) = verify::trusted(&TrustedKeys {
        keys: arguments.keys.clone(),
        policy: arguments.policy.clone(),
    })?;
    let reader = Reader::open(&arguments.source, common)?;
    let place = Place::new(arguments)?;
    let listener = TcpListener::bind(arguments.listen).await.map_err(|error| {
        Failure::new(format!("cannot listen on {}", arguments.listen)).because(error)
    })?;
    let address: SocketAddr = listener
        .local_addr()
        .map_err(|error| Failure::new("the listener has no address").because(error))?;
    let limits = ServeLimits {
        max_connections: Some(MAX_CONNECTIONS),
        max_connections_per_address: MAX_CONNECTIONS,
        ..ServeLimits::default()
    };
    let mut connections = Connections::new(limits)
        .map_err(|error| Failure::new("the page cannot be served").because(error))?;
    let guard = Arc::new(Guard::new(address, &place));
    let first = guard.first_url();
    if output.is_json() {
        output.json(&serde_json::json!({ "page": first }))?;
    } else {
        output.line(&format!("the page is at {first}"))?;
        output.note("the address has the token of this run: who has it can read the bucket");
    }
    output.flush()?;

    let quiet = Common { quiet: true, ..common.clone() };
    let written_to = arguments.written_to.clone();
    let integrity = Integrity::new(reader.clone(), keys, policy, written_to, quiet);
    let integrity = Arc::new(integrity);
    integrity.verify();
    let desk = Desk { reader, scans: Arc::new(Semaphore::new(MAX_SCANS)), integrity };
    let router = Router::new()
        .route("/", get(assets::index))
        .route("/assets/{name}", get(assets::asset))
        .route("/api/overview", get(overview))
        .route("/api/scan", get(search::scan))
        .route("/api/records", get(search::records))
        .route("/api/export", get(export::export))
        .route("/api/record", get(record::record))
        .route("/api/proof", get(record::proof))
        .route("/api/integrity", get(integrity_now))
        .route(VERIFY, post(verify_again))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is nothing here\n") })
        .layer(axum::middleware::from_fn_with_state(guard, guard::admit))
        .with_state(Arc::new(desk));
    if let Place::Tls(tls, _) = place {
        connections = connections.with_tls(tls);
    }
    // The command ends with a signal.
    connections.serve(listener, router, std::future::pending()).await;
    Ok(Outcome::Well)
}

/// An error, as the page shows it.
struct Unanswered(StatusCode, Failure);

impl IntoResponse for Unanswered {
    fn into_response(self) -> Response {
        let Unanswered(status, failure) = self;
        (status, json(&failure.shown())).into_response()
    }
}

fn json(value: &serde_json::Value) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string())
}

async fn overview(State(desk): State<Arc<Desk>>) -> Result<Response, Unanswered> {
    let overview = look(&desk).await;
    let overview = overview.map_err(|failure| Unanswered(StatusCode::BAD_GATEWAY, failure))?;
    Ok(json(&overview).into_response())
}

/// The days of the bucket, and the members of its newest records.
async fn look(desk: &Desk) -> Result<serde_json::Value, Failure> {
    let reader = &desk.reader;
    let days = reader.days(&Wanted::all()).await?;
    let mut found = Found::default();
    let mut first_ms = None;
    let mut last_ms = None;
    'days: for day in days.iter().rev() {
        for hour in reader.hours(day).await?.into_iter().rev() {
            last_ms = last_ms.or(Some(hour.end_ms()));
            search::look_at(reader, &hour, &mut found).await?;
            if found.records() > 0 {
                break 'days;
            }
        }
    }
    if let Some(day) = days.first() {
        first_ms = reader.hours(day).await?.first().map(|hour| hour.begin_ms());
    }
    let why_nothing = match found.records() {
        0 => Some(reader.why_nothing(&Wanted::all()).await),
        _ => None,
    };
    Ok(serde_json::json!({
        "bucket": reader.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "days": days.len(),
        "first": first_ms,
        "last": last_ms.map(|ms: i64| ms + HOUR_MS),
        "members": found.texts(),
        "proofs": !desk.integrity.keys().is_empty(),
        "nothing": why_nothing.map(|why| crate::escape::text(&why).into_owned()),
    }))
}

/// The path of the only request that starts something.
const VERIFY: &str = "/api/verify";

/// Starts a verification, unless one is running.
async fn verify_again(State(desk): State<Arc<Desk>>) -> Response {
    desk.integrity.verify();
    (StatusCode::ACCEPTED, json(&desk.integrity.shown())).into_response()
}

async fn integrity_now(State(desk): State<Arc<Desk>>) -> Response {
    json(&desk.integrity.shown()).into_response()
}

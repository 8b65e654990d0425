//! Serves functions to clients: Convex's HTTP API, its sync protocol over WebSocket, and probes and
//! metrics for operators.
//!
//! | | |
//! |---|---|
//! | `POST /api/query`, `/api/mutation`, `/api/action` | calls a public function: `{"path":"messages:list","args":{},"format":"json"}` |
//! | `POST /api/function`, `/api/run/messages/list` | the same, of whatever kind |
//! | `GET /api/query?path=messages:list&args={}` | a query; the answer is not to be cached |
//! | `POST /api/query_batch` | several queries at one time: `{"queries":[…]}` gives `{"results":[…]}` |
//! | `POST /api/query_ts`, `/api/query_at_ts` | several queries at one time, which is good for 30 seconds |
//! | `GET /api/sync`, `/api/{version}/sync` | WebSocket: queries that are followed, mutations, actions |
//! | `GET /version` | this host's version |
//! | `GET /livez`, `/readyz`, `/healthz` | 200 or 503, and no reason |
//!
//! Operators have an [address of their own](ServerParts::operators): there the same say why
//! (`/healthz?verbose` says all), and `GET /metrics` is for Prometheus.
//!
//! A function's answer is `{"status":"success","value":…,"logLines":[]}`, or with status 560
//! `{"status":"error","errorMessage":…,"errorData":…,"logLines":[]}`, also where there is no such
//! function; everything else that goes wrong is `{"code":…,"message":…}`.
//!
//! `auth` tells who calls; [`audit_runtime::http`] from where. `calls.rs` is HTTP, `sync` is
//! WebSocket. `budget.rs` and `pool.rs` bound what clients may take together, by `limits.rs`.

pub mod auth;
mod budget;
mod calls;
mod export;
mod inflow;
mod limits;
mod operators;
mod pool;
mod problem;
mod receipts;
mod snapshots;
mod sync;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{AuditSink, Clock};
use audit_host::{Connection, Connections, Probe};
use audit_runtime::RequestContext;
use audit_runtime::http::{RequestContextLayer, TrustedProxies};
use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
};
use axum::http::{Extensions, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use functions_calls::Functions;
use functions_store::Snapshot;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use self::auth::Authenticator;
use self::budget::Budget;
use self::problem::Problem;
use self::snapshots::Snapshots;
use self::sync::{MutationOutcome, Mutations};

pub use self::limits::NetworkLimits;

/// How often histograms are drained, in case nobody reads the metrics.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long sessions without a connection have to end.
const SESSIONS_TIMEOUT: Duration = Duration::from_secs(1);

/// The server of one host. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    functions: Functions,
    auth: Authenticator,
    proxies: TrustedProxies,
    probe: Probe,
    limits: NetworkLimits,
    budget: Arc<Budget>,
    metrics: Option<PrometheusHandle>,
    snapshots: Snapshots<Snapshot>,
    mutations: Arc<Mutations<MutationOutcome>>,
    stopping: watch::Sender<bool>,
    /// Each session holds a clone. When the last is dropped, all have ended.
    sessions: mpsc::Sender<()>,
}

/// The parts of a server besides its functions.
#[derive(Debug)]
pub struct ServerParts {
    /// Verifies tokens.
    pub auth: Authenticator,
    /// Proxies whose headers are trusted.
    pub proxies: TrustedProxies,
    /// The sink whose health is reported, if there is a bucket.
    pub bucket: Option<Arc<dyn AuditSink>>,
    /// The recorder of metrics, if one is installed.
    pub metrics: Option<PrometheusHandle>,
    /// The listener for operators, if there is one.
    pub operators: Option<TcpListener>,
    /// Limits on clients.
    pub limits: NetworkLimits,
}

impl Server {
    /// Serves on this listener until `stop` completes; then no more is accepted, sessions are told,
    /// and calls have the [drain timeout](audit_host::ServeLimits::drain_timeout) to end.
    ///
    /// # Errors
    ///
    /// If there are not the file descriptors for the connections that are set, or the operators'
    /// listener fails.
    pub async fn serve(
        functions: Functions,
        parts: ServerParts,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let ServerParts { auth, proxies, bucket, metrics, operators, limits } = parts;
        let connections = {
            let proxies = proxies.clone();
            Connections::new(limits.serve)?.exempting(move |address| proxies.trust(address))
        };
        let for_operators = Connections::new(limits.serve.for_operators())?;
        let (sessions, mut ended) = mpsc::channel(1);
        let inner = Inner {
            functions,
            auth,
            proxies,
            probe: Probe::new(bucket),
            budget: Arc::new(Budget::new(&limits)),
            mutations: Arc::new(Mutations::new(Budget::outcomes_bytes(&limits))),
            limits,
            metrics,
            snapshots: Snapshots::default(),
            stopping: watch::Sender::new(false),
            sessions,
        };
        let server = Server { inner: Arc::new(inner) };
        describe_metrics();
        let upkeep = server.inner.metrics.clone().map(|metrics| tokio::spawn(upkeep(metrics)));
        let stopping = server.inner.stopping.clone();
        let probe = server.inner.probe.clone();
        let told = async move {
            stop.await;
            probe.stopping();
            stopping.send_replace(true);
        };
        // The operators' address answers until the end.
        let looking = operators.map(|listener| {
            let router = operators::router(server.clone());
            tokio::spawn(async move {
                for_operators.serve(listener, router, std::future::pending()).await
            })
        });
        let router = server.router();
        connections.serve(listener, router, told).await;
        if let Some(looking) = looking {
            looking.abort();
        }
        // The router is gone and the connections have ended or were cut off, so their sessions end.
        if tokio::time::timeout(SESSIONS_TIMEOUT, ended.recv()).await.is_err() {
            tracing::warn!("sessions did not end within {SESSIONS_TIMEOUT:?} of their connections");
        }
        if let Some(upkeep) = upkeep {
            upkeep.abort();
        }
        Ok(())
    }

    fn router(self) -> Router {
        let layer = RequestContextLayer::new(self.functions().runtime().clone(), peer);
        let layer = layer.with_trusted_proxies(self.inner.proxies.clone());
        let api = Router::new()
            .route("/query", get(calls::query_in_url).post(calls::query))
            .route("/query_batch", post(calls::query_batch))
            .route("/mutation", post(calls::mutation))
            .route("/action", post(calls::action))
            .route("/function", post(calls::function))
            .route("/run/{*path}", post(calls::run))
            .route("/query_ts", post(calls::query_ts))
            .route("/query_at_ts", post(calls::query_at_ts))
            .route("/sync", any(sync::upgrade))
            .route("/{version}/sync", any(sync::upgrade))
            .layer(layer);
        let for_pages = Router::new()
            .nest("/api", api)
            .route("/", get(hello))
            .route("/version", get(version))
            .method_not_allowed_fallback(wrong_method)
            .layer(from_fn(count))
            .fallback(unknown)
            .layer(from_fn(allow_other_origins));
        operators::public_probes().merge(for_pages).with_state(self)
    }

    fn functions(&self) -> &Functions {
        &self.inner.functions
    }

    fn auth(&self) -> &Authenticator {
        &self.inner.auth
    }

    fn clock(&self) -> &dyn Clock {
        self.inner.auth.clock()
    }

    fn snapshots(&self) -> &Snapshots<Snapshot> {
        &self.inner.snapshots
    }

    fn mutations(&self) -> &Arc<Mutations<MutationOutcome>> {
        &self.inner.mutations
    }

    fn probe(&self) -> &Probe {
        &self.inner.probe
    }

    fn metrics(&self) -> Option<&PrometheusHandle> {
        self.inner.metrics.as_ref()
    }

    fn limits(&self) -> &NetworkLimits {
        &self.inner.limits
    }

    fn budget(&self) -> &Arc<Budget> {
        &self.inner.budget
    }

    fn stopping(&self) -> watch::Receiver<bool> {
        self.inner.stopping.subscribe()
    }

    fn session(&self) -> mpsc::Sender<()> {
        self.inner.sessions.clone()
    }

    /// A new request by the client of another one.
    fn request_like(&self, request: &RequestContext) -> RequestContext {
        let mut fresh = self.functions().runtime().new_request();
        if let Some(ip) = request.ip() {
            fresh = fresh.with_ip(ip);
        }
        if let Some(user_agent) = request.user_agent() {
            fresh = fresh.with_user_agent(user_agent.clone());
        }
        fresh
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("auth", &self.inner.auth).finish_non_exhaustive()
    }
}

fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!("audit_usage_logs_total", "Audit logs made durable");
    describe_counter!("audit_usage_bytes_total", Unit::Bytes, "Their bytes");
    describe_counter!(
        "audit_usage_metered_bytes_total",
        Unit::Bytes,
        "What they count as, each rounded up to the next 5,000"
    );
    describe_counter!(
        "functions_query_cache_hits_total",
        "Results of queries that were computed before"
    );
    describe_counter!(
        "functions_query_cache_misses_total",
        "Results of queries that were computed"
    );
    describe_gauge!(
        "functions_query_cache_bytes",
        Unit::Bytes,
        "What the cache of results holds, arguments and sealed logs included"
    );
    describe_gauge!("functions_query_cache_entries", "Results in the cache");
    describe_counter!(
        "functions_query_cache_evictions_total",
        "Results that the cache evicted for want of room"
    );
    describe_counter!(
        "functions_scheduler_panics_total",
        "Panics of the scheduler, after each of which it began again"
    );
    describe_counter!("functions_http_requests_total", "Requests, by route and status");
    describe_histogram!(
        "functions_http_seconds",
        Unit::Seconds,
        "From a request to its response, by route"
    );
    describe_gauge!(
        "functions_workers_waiting",
        "Runs of queries and mutations that wait for a thread"
    );
    describe_histogram!(
        "functions_workers_wait_seconds",
        Unit::Seconds,
        "How long a run waited for its thread"
    );
    describe_counter!(
        "functions_workers_skipped_total",
        "Runs that were not begun, since their callers went away"
    );
    describe_counter!(
        "functions_workers_given_up_total",
        "Runs that kept their thread for too long and were given up"
    );
    describe_gauge!("functions_workers_stuck", "Threads that were given up and have not come back");
    describe_gauge!(
        "functions_requests_bytes",
        Unit::Bytes,
        "Memory that requests and messages are reckoned to take now"
    );
    describe_counter!(
        "functions_requests_refused_total",
        "Requests and messages that were refused for a limit, by reason"
    );
    describe_gauge!("functions_sync_sessions", "Clients that are connected");
    describe_counter!("functions_sync_transitions_total", "Steps that clients were sent");
    describe_counter!("functions_sync_results_total", "Results that clients were handed in them");
    describe_gauge!(
        "functions_held_bytes",
        Unit::Bytes,
        "Memory that clients hold: answers until they are taken, arguments of followed queries"
    );
    describe_counter!(
        "functions_clients_cut_off_total",
        "Connections that were cut off since they held the most of what there is"
    );
    describe_gauge!(
        "functions_outcomes_bytes",
        Unit::Bytes,
        "Outcomes of mutations that are kept for clients that send them again"
    );
}

async fn upkeep(metrics: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}

/// The peer of a connection, as an extension of its requests.
fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Arc<Connection>>().map(|connection| connection.peer().ip())
}

/// `GET /`
async fn hello() -> &'static str {
    "This is a host for functions. POST to /api/query, /api/mutation or /api/action, or give this address to a client of Convex.\n"
}

/// `GET /version`
async fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

async fn unknown(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(200).collect();
    Problem::new(StatusCode::NOT_FOUND, "NotFound", format!("there is nothing at {path}"))
}

async fn wrong_method(request: Request) -> Problem {
    let message = format!("{} is not for {}", request.uri().path(), request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

/// Counts requests that found their route, and how long they took. A WebSocket's request ends when
/// it is one.
async fn count(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let began = tokio::time::Instant::now();
    let response = next.run(request).await;
    if let Some(route) = route {
        let status = response.status().as_u16().to_string();
        metrics::counter!("functions_http_requests_total", "route" => route.clone(), "status" => status)
            .increment(1);
        metrics::histogram!("functions_http_seconds", "route" => route).record(began.elapsed());
    }
    response
}

/// Allows pages of any origin. There are no cookies that a page could misuse: tokens come in a
/// header.
async fn allow_other_origins(request: Request, next: Next) -> Response {
    let asks = request.method() == Method::OPTIONS
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response =
        if asks { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-request-id, retry-after"),
    );
    if asks {
        let methods = HeaderValue::from_static("GET, POST, OPTIONS");
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed =
            HeaderValue::from_static("authorization, content-type, convex-client, x-request-id");
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    response
}

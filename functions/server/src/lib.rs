//! Serves functions to clients: Convex's HTTP API, its sync protocol over WebSocket, and probes and
//! metrics for operators.
//!
//! | | |
//! |---|---|
//! | `POST /api/query`, `/api/mutation`, `/api/action` | calls a public function: `{"path":"messages:list","args":{},"format":"json"}` |
//! | `POST /api/function`, `/api/run/messages/list` | calls a public function of any kind |
//! | `GET /api/query?path=messages:list&args={}` | a query, whose response must not be cached |
//! | `POST /api/query_batch` | several queries on one snapshot: `{"queries":[…]}` returns `{"results":[…]}` |
//! | `POST /api/query_ts`, `/api/query_at_ts` | several queries on one snapshot, which is kept for 30 seconds |
//! | `GET /api/sync`, `/api/{version}/sync` | WebSocket: subscriptions to queries, mutations, actions |
//! | `GET /version` | this host's version |
//! | `GET /livez`, `/readyz`, `/healthz` | 200 or 503, without the reason |
//!
//! Operators have a [separate address](ServerParts::operators). There the probes include the reason
//! (`/healthz?verbose` has all details), and `GET /metrics` is for Prometheus.
//!
//! A function's response is `{"status":"success","value":…,"logLines":[]}`, or with status 560
//! `{"status":"error","errorMessage":…,"errorData":…,"logLines":[]}`, which is also that of a
//! missing function. All other errors are `{"code":…,"message":…}`.
//!
//! `auth` identifies the caller; [`audit_runtime::http`] determines its address. `calls` is HTTP,
//! `sync` is WebSocket. `budget.rs` and `pool.rs` limit the memory of all clients together, by
//! `limits.rs`.

pub mod auth;
mod body;
mod budget;
mod calls;
mod export;
mod inflow;
mod limits;
mod operators;
mod problem;
mod receipts;
mod router;
mod site;
mod snapshots;
mod sync;
mod telemetry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{AuditSink, Clock};
use audit_host::lasting::lasting;
use audit_host::{Connections, Probe};
use audit_runtime::RequestContext;
use audit_runtime::http::TrustedProxies;
use functions_calls::Functions;
use functions_store::Snapshot;
use futures::future::OptionFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use self::auth::{Authenticator, Refused, Verified};
use self::budget::Budget;
use self::snapshots::Snapshots;
use self::sync::{MutationOutcome, Mutations};

pub use self::limits::NetworkLimits;

/// How long sessions may take to end after their connections.
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
    /// Each session holds a clone, so all have ended when the last is dropped.
    sessions: mpsc::Sender<()>,
}

/// The parts of a server besides its functions.
#[derive(Debug)]
pub struct ServerParts {
    /// The verifier of tokens.
    pub auth: Authenticator,
    /// The proxies whose headers are trusted.
    pub proxies: TrustedProxies,
    /// The sink whose health is reported, if there is a bucket.
    pub bucket: Option<Arc<dyn AuditSink>>,
    /// The recorder of metrics, if one is installed.
    pub metrics: Option<PrometheusHandle>,
    /// The listener for operators, if there is one.
    pub operators: Option<TcpListener>,
    /// The listener for HTTP actions, if they are served.
    pub site: Option<TcpListener>,
    /// The limits on clients.
    pub limits: NetworkLimits,
}

impl Server {
    /// Serves on this listener until `stop` completes. Then it accepts no more connections,
    /// notifies sessions, and gives calls the [drain
    /// timeout](audit_host::ServeLimits::drain_timeout) to end.
    ///
    /// # Errors
    ///
    /// The process has too few file descriptors for the configured number of connections.
    pub async fn serve(
        functions: Functions,
        parts: ServerParts,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let ServerParts { auth, proxies, bucket, metrics, operators, site, limits } = parts;
        let connections = {
            let proxies = proxies.clone();
            Connections::new(limits.serve)?.exempting(move |address| proxies.trust(address))
        };
        let for_operators = Connections::for_operators(limits.serve)?;
        let (sessions, mut ended) = mpsc::channel(1);
        let store = functions.store().clone();
        let inner = Inner {
            budget: Arc::new(Budget::new(&limits).with_engines_of(functions.clone())),
            functions,
            auth,
            proxies,
            probe: Probe::with_part(bucket, "store", move || store.commits()),
            mutations: Arc::new(Mutations::new(Budget::outcomes_bytes(&limits))),
            limits,
            metrics,
            snapshots: Snapshots::default(),
            stopping: watch::Sender::new(false),
            sessions,
        };
        let server = Server { inner: Arc::new(inner) };
        telemetry::describe_metrics();
        let upkeep = server.inner.metrics.clone().map(|metrics| {
            let upkeep = move || telemetry::upkeep(metrics.clone());
            tokio::spawn(lasting("the upkeep of metrics", upkeep))
        });
        let stopping = server.inner.stopping.clone();
        let probe = server.inner.probe.clone();
        let stopped = async move {
            stop.await;
            probe.stopping();
            stopping.send_replace(true);
        };
        // The operators' address is served until the end.
        let serving_operators = operators.map(|listener| {
            let router = operators::router(server.clone());
            tokio::spawn(async move {
                for_operators.serve(listener, router, std::future::pending()).await
            })
        });
        let mut is_stopping = server.stopping();
        let site = OptionFuture::from(site.map(|listener| {
            let stop = async move {
                // The sender lives as long as the server.
                drop(is_stopping.wait_for(|is_stopping| *is_stopping).await);
            };
            connections.serve(listener, site::router(server.clone()), stop)
        }));
        let router = router::router(server);
        tokio::join!(connections.serve(listener, router, stopped), site);
        if let Some(serving_operators) = serving_operators {
            serving_operators.abort();
        }
        // The router is gone and all connections have ended, so their sessions end.
        if tokio::time::timeout(SESSIONS_TIMEOUT, ended.recv()).await.is_err() {
            tracing::warn!("sessions did not end within {SESSIONS_TIMEOUT:?} of their connections");
        }
        if let Some(upkeep) = upkeep {
            upkeep.abort();
        }
        Ok(())
    }

    fn functions(&self) -> &Functions {
        &self.inner.functions
    }

    /// Verifies a token by the issuers of the settings and of the app.
    async fn verify(&self, token: &str) -> Result<Verified, Refused> {
        let functions = self.functions();
        self.inner.auth.verify(token, &functions.auth_providers(), functions.fetcher()).await
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

    /// A new request of the same client as another one.
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

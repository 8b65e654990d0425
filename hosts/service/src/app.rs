//! Turns requests into function calls, and their results into responses.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use audit_core::with_sources;
use audit_host::{Answer, Busy, Pool, Probe};
use audit_runtime::http::{Origin, RequestContextLayer, TrustedProxies};
use audit_runtime::{
    Audited, HostValue, LogLimit, MutationError, ReleaseError, RequestContext, Var,
};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};

use crate::answer::answer;
use crate::cache::Cache;
use crate::database::Database;
use crate::documents::{self, Change, Document, Failure};
use crate::memory::within_memory;
use crate::tenants::{self, Tenant, Tenants};

/// The state shared by all requests.
#[derive(Clone)]
pub(crate) struct App {
    tenants: Tenants,
    database: Database,
    cache: Arc<Cache>,
    /// The variable for the user in logs.
    user: Var,
    request_timeout: Duration,
    memory: Arc<Pool>,
}

impl App {
    pub(crate) fn new(
        tenants: Tenants,
        database: Database,
        user: Var,
        request_timeout: Duration,
        request_memory_bytes: usize,
    ) -> App {
        let memory = Arc::new(Pool::new("requests", request_memory_bytes));
        App { tenants, database, cache: Arc::default(), user, request_timeout, memory }
    }

    /// Runs the query, or finds its result in the cache.
    async fn view(
        &self,
        tenant: &Tenant,
        id: &str,
    ) -> Result<Audited<Arc<Document>>, Audited<Failure>> {
        // If the revision cannot be read, the query runs, fails too, and logs that.
        if let Some((cached, hit)) = self.cache.get(id, tenant.opening)
            && let Ok(Some(current)) = documents::revision(self.database.pool(), id).await
            && current == cached
        {
            return Ok(hit);
        }
        let query = tenant.runtime.query("documents:view");
        match documents::view(&query.log(), self.user, self.database.pool(), id).await {
            Ok(document) => {
                let revision = document.revision;
                let bytes = document.title.len() + document.text.len();
                let sealed = query.seal(Arc::new(document));
                self.cache.insert(id, tenant.opening, revision, bytes, sealed.clone());
                Ok(sealed)
            }
            Err(failure) => Err(query.seal(failure)),
        }
    }

    pub(crate) fn router(self, proxies: TrustedProxies, probe: Probe) -> Router {
        // The context of a request is the same for all runtimes.
        let own = self.tenants.own().runtime.clone();
        let layer = RequestContextLayer::new(own, |extensions| {
            extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())
        });
        Router::new()
            .route("/documents/{id}", get(view).put(update))
            // `memory.rs` has already received the whole body, and limited its size.
            .layer(DefaultBodyLimit::disable())
            .layer(from_fn_with_state(self.clone(), identify))
            .layer(from_fn_with_state(self.tenants.clone(), tenants::assign))
            .layer(from_fn_with_state(Arc::clone(&self.memory), within_memory))
            .layer(from_fn(audit_host::traced))
            .layer(layer.with_trusted_proxies(proxies))
            .layer(from_fn_with_state(self.request_timeout, within))
            .layer(map_response(unstored))
            .with_state(self)
            .merge(probes(probe, Answer::public))
    }
}

/// The routes for probes. Clients learn whether the service is ready; operators also learn the
/// reason.
pub(crate) fn probes(probe: Probe, tell: fn(Answer) -> Answer) -> Router {
    let told = move |answer: Answer| {
        let answer = tell(answer);
        let status = if answer.is_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(answer.body))
    };
    let (live, ready) = (probe.clone(), probe.clone());
    let healthz = async move |RawQuery(query): RawQuery| match query.as_deref() {
        Some("verbose") => told(probe.verbose()),
        Some(_) | None => told(probe.ready()),
    };
    Router::new()
        .route("/livez", get(async move || told(live.live())))
        .route("/readyz", get(async move || told(ready.ready())))
        .route("/healthz", get(healthz))
}

/// Limits the time of a request, including its body, so that a slow client cannot hold resources
/// indefinitely. A request that is dropped here commits nothing without its log.
async fn within(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => answer(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("the request was not done within {limit:?}; a change may have been made"),
        ),
    }
}

/// Forbids caches between the service and its clients, which would show documents without logs.
async fn unstored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Adds the user to the request's context. A proxy in front authenticates users. Only trusted
/// proxies can assert a user, since any other client could name anybody.
async fn identify(
    State(app): State<App>,
    Extension(origin): Extension<Origin>,
    Extension(context): Extension<RequestContext>,
    mut request: Request,
    next: Next,
) -> Response {
    let lines = request.headers().get_all("x-user").iter().map(HeaderValue::as_bytes);
    if let Some(user) = origin.asserted(lines) {
        // Bytes that are not UTF-8 are refused, since replacing them could give two users the same
        // name.
        let Ok(user) = std::str::from_utf8(user) else {
            return answer(StatusCode::BAD_REQUEST, "X-User is not UTF-8");
        };
        match HostValue::new(app.user, user) {
            Ok(value) => {
                request.extensions_mut().insert(context.with_host_value(value));
            }
            Err(error) => return answer(StatusCode::BAD_REQUEST, &format!("X-User: {error}")),
        }
    }
    next.run(request).await
}

/// `GET /documents/{id}`
async fn view(
    State(app): State<App>,
    Extension(tenant): Extension<Tenant>,
    Extension(request): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Result<Response, Unanswered> {
    let turn = app.database.views().acquire(tenant.lane(&request)).await?;
    let viewed = app.view(&tenant, &tenant.document(&id)).await;
    // Making the logs durable takes no connection to the database.
    drop(turn);
    match viewed {
        Ok(document) => Ok(Json(&**document.release(&request).await?).into_response()),
        // A failure is a result too: it is released once its logs are durable.
        Err(failure) => Err(failure.release_into(&request).await?.into()),
    }
}

/// `PUT /documents/{id}`
async fn update(
    State(app): State<App>,
    Extension(tenant): Extension<Tenant>,
    Extension(request): Extension<RequestContext>,
    Path(id): Path<String>,
    Json(change): Json<Change>,
) -> Result<Json<Document>, Unanswered> {
    // The turn lasts until the change has committed, since it holds a connection and locks until
    // then.
    let _turn = app.database.changes().acquire(tenant.lane(&request)).await?;
    let id = tenant.document(&id);
    let updated = tenant.runtime.run_mutation("documents:update", &request, async |execution| {
        let mut tx = audit_sqlx::begin(app.database.pool()).await?.with_receipts();
        let result = documents::update(&execution.log(), app.user, &mut tx, &id, &change).await;
        Ok(execution.seal_transaction(tx, result))
    });
    Ok(Json(updated.await?))
}

/// A failure, as a response to the client.
struct Unanswered {
    status: StatusCode,
    message: String,
    /// The seconds after which the client may retry, if nothing of the request was done.
    retry_after: Option<u32>,
}

impl IntoResponse for Unanswered {
    fn into_response(self) -> Response {
        let mut response = answer(self.status, &self.message);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<Busy> for Unanswered {
    // Not logged, so that a flood of requests does not flood the log.
    fn from(busy: Busy) -> Unanswered {
        let status = StatusCode::from_u16(busy.http_status());
        let status = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Unanswered { status, message: busy.to_string(), retry_after: Some(1) }
    }
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Unanswered {
        let status = match &failure {
            Failure::NotFound => 404,
            Failure::Stale { .. } => 409,
            Failure::Invalid(_) => 400,
            Failure::Audit(error) => error.http_status(),
            Failure::Database(error) => database_status(error),
        };
        Unanswered::new(status, &failure)
    }
}

impl From<ReleaseError> for Unanswered {
    fn from(error: ReleaseError) -> Unanswered {
        Unanswered::new(error.http_status(), &error)
    }
}

impl From<MutationError<Failure>> for Unanswered {
    fn from(error: MutationError<Failure>) -> Unanswered {
        match error {
            MutationError::Function(failure) => failure.into(),
            MutationError::Release(error) => error.into(),
            // The change may have been made.
            MutationError::Commit(Failure::Database(ref source)) => {
                let status = database_status(source);
                Unanswered { retry_after: None, ..Unanswered::new(status, &error) }
            }
            error @ (MutationError::Conflict { .. } | MutationError::Commit(_) | _) => {
                Unanswered::new(error.http_status(), &error)
            }
        }
    }
}

/// The status of a failure of the database.
pub(crate) fn database_status(error: &sqlx::Error) -> u16 {
    if audit_sqlx::is_unavailable(error) { 503 } else { 500 }
}

impl Unanswered {
    /// The client gets only the message; the sources go to the operator's log. Nothing of the
    /// request was done.
    fn new(status: u16, error: &(dyn Error + 'static)) -> Unanswered {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            log_failure(status, error);
        }
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        Unanswered { status, message: error.to_string(), retry_after }
    }
}

/// Logs a failed request. While a bucket or the database is away, every request fails, so each kind
/// of failure is logged at most once a second.
fn log_failure(status: StatusCode, error: &(dyn Error + 'static)) {
    static UNAVAILABLE: LogLimit = LogLimit::new();
    static OTHERS: LogLimit = LogLimit::new();
    let is_unavailable = status == StatusCode::SERVICE_UNAVAILABLE;
    let limit = if is_unavailable { &UNAVAILABLE } else { &OTHERS };
    if let Some(others) = limit.case() {
        tracing::warn!(error = with_sources(error), others, "a request failed");
    }
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;

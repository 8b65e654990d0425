//! From a request to a function call, and from its result to a response.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use audit_runtime::http::{RequestContextLayer, TrustedProxies};
use audit_runtime::{
    AuditError, AuditRuntime, HostValue, MutationError, ReleaseError, RequestContext, Var,
};
use audit_sink_s3::{HealthState, S3Sink};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Serialize;

use crate::cache::Cache;
use crate::database::Database;
use crate::documents::{self, Change, Document, Failure};

/// What all requests share.
#[derive(Clone)]
pub(crate) struct App {
    runtime: AuditRuntime,
    database: Database,
    cache: Arc<Cache>,
    store: Option<Arc<S3Sink>>,
    /// The variable that stands for the user in logs.
    user: Var,
}

impl App {
    pub(crate) fn new(
        runtime: AuditRuntime,
        database: Database,
        store: Option<Arc<S3Sink>>,
        user: Var,
    ) -> App {
        App { runtime, database, cache: Arc::default(), store, user }
    }

    pub(crate) fn router(self, proxies: TrustedProxies) -> Router {
        let layer = RequestContextLayer::new(self.runtime.clone(), |extensions| {
            extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())
        });
        Router::new()
            .route("/documents/{id}", get(view).put(update))
            .layer(from_fn_with_state(self.clone(), identify))
            .layer(layer.with_trusted_proxies(proxies))
            .route("/healthz", get(healthz))
            .with_state(self)
    }
}

/// Adds the user to the request's context. Who that is, the proxy in front has found out: this
/// service believes it.
async fn identify(
    State(app): State<App>,
    headers: HeaderMap,
    mut request: Request,
    next: Next,
) -> Response {
    let user = headers.get("x-user").map(|user| String::from_utf8_lossy(user.as_bytes()));
    if let (Some(user), Some(context)) = (user, request.extensions().get::<RequestContext>()) {
        match HostValue::new(app.user, &user) {
            Ok(value) => {
                let context = context.clone().with_host_value(value);
                request.extensions_mut().insert(context);
            }
            Err(error) => return answer(StatusCode::BAD_REQUEST, &format!("X-User: {error}")),
        }
    }
    next.run(request).await
}

/// `GET /documents/{id}`
async fn view(
    State(app): State<App>,
    Extension(request): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Result<Response, Unanswered> {
    let sealed = match app.cache.get(&id) {
        Ok(hit) => hit,
        Err(began) => {
            let query = app.runtime.query("documents:view");
            match documents::view(&query.log(), app.user, app.database.pool(), &id).await {
                Ok(document) => {
                    let sealed = query.seal(Arc::new(document));
                    app.cache.insert(began, &id, sealed.clone());
                    sealed
                }
                // A failure is a result too: it leaves once its logs are durable.
                Err(failure) => {
                    return Err(query.seal(failure).release_into(&request).await?.into());
                }
            }
        }
    };
    let document = sealed.release(&request).await?;
    Ok(Json(&**document).into_response())
}

/// `PUT /documents/{id}`
async fn update(
    State(app): State<App>,
    Extension(request): Extension<RequestContext>,
    Path(id): Path<String>,
    Json(change): Json<Change>,
) -> Result<Json<Document>, Unanswered> {
    let updated = app.runtime.run_mutation("documents:update", &request, async |execution| {
        let mut tx = app.database.begin().await?;
        let result = documents::update(&execution.log(), app.user, &mut tx, &id, &change).await;
        Ok(execution.seal_transaction(tx, result))
    });
    let updated = updated.await;
    // Also after an error: a commit that failed may have taken effect.
    app.cache.invalidate(&id);
    Ok(Json(updated?))
}

/// `GET /healthz`
async fn healthz(State(app): State<App>) -> Response {
    let Some(store) = app.store else { return answer(StatusCode::OK, "no bucket") };
    let health = store.health();
    let status = match health.state {
        HealthState::Ok => StatusCode::OK,
        HealthState::Retrying { .. } | HealthState::Blocked { .. } => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    answer(status, &health.state.to_string())
}

/// A failure on its way to the client.
struct Unanswered {
    status: StatusCode,
    message: String,
}

impl IntoResponse for Unanswered {
    fn into_response(self) -> Response {
        answer(self.status, &self.message)
    }
}

fn answer(status: StatusCode, message: &str) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        message: &'a str,
    }
    (status, Json(Body { message })).into_response()
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Unanswered {
        let status = match &failure {
            Failure::NotFound => StatusCode::NOT_FOUND,
            Failure::Stale { .. } => StatusCode::CONFLICT,
            Failure::Invalid(_) | Failure::Audit(AuditError::Body(_)) => StatusCode::BAD_REQUEST,
            Failure::Audit(_) | Failure::Database(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Unanswered::new(status, &failure)
    }
}

impl From<ReleaseError> for Unanswered {
    fn from(error: ReleaseError) -> Unanswered {
        let status = match &error {
            ReleaseError::Body(_) => StatusCode::BAD_REQUEST,
            ReleaseError::NotDurable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ReleaseError::Limit(_) | _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Unanswered::new(status, &error)
    }
}

impl From<MutationError<Failure>> for Unanswered {
    fn from(error: MutationError<Failure>) -> Unanswered {
        let error = match error {
            MutationError::Function(failure) => return failure.into(),
            MutationError::Release(error) => return error.into(),
            error @ (MutationError::Conflict { .. } | MutationError::Commit(_) | _) => error,
        };
        let is_passing = matches!(error, MutationError::Conflict { .. });
        Unanswered::new(unavailable_if(is_passing), &error)
    }
}

/// Whether it is worth trying again.
fn unavailable_if(is_passing: bool) -> StatusCode {
    if is_passing { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR }
}

impl Unanswered {
    /// What the client may know is the message; what lies beneath is for the operator.
    fn new(status: StatusCode, error: &(dyn Error + 'static)) -> Unanswered {
        if status.is_server_error() {
            let mut causes = Vec::new();
            let mut source = error.source();
            while let Some(cause) = source {
                causes.push(cause.to_string());
                source = cause.source();
            }
            tracing::warn!(%error, because = causes.join(": "), "a request failed");
        }
        Unanswered { status, message: error.to_string() }
    }
}

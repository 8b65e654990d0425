//! For operators: reads the file of routes again, and serves the tenants in it from then on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use audit_host::{OpenRoutes, Output, RoutesChange};
use audit_runtime::{AuditRuntime, AuditSink};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;

use crate::answer::answer;
use crate::settings::Settings;
use crate::tenants::Tenants;

/// What a reload needs.
pub(crate) struct Reload {
    pub(crate) settings: Arc<Settings>,
    pub(crate) routes: OpenRoutes,
    pub(crate) tenants: Tenants,
    /// Makes the runtime of a tenant, on the sink of its route.
    pub(crate) runtime: Box<dyn Fn(Arc<dyn AuditSink>) -> AuditRuntime + Send + Sync>,
    pub(crate) out: Output,
}

/// `POST /routes/reload`
pub(crate) fn router(reload: Reload) -> Router {
    Router::new().route("/routes/reload", post(requested)).with_state(Arc::new(reload))
}

async fn requested(State(reload): State<Arc<Reload>>, headers: HeaderMap) -> Response {
    // A browser names the page that makes it send a request. No page decides when the file is
    // complete.
    if headers.contains_key(header::ORIGIN) {
        return answer(StatusCode::FORBIDDEN, "routes are not reloaded for a web page");
    }
    // A client that goes away does not leave tenants half changed.
    match tokio::spawn(async move { reload.run().await }).await {
        Ok(Ok(change)) => reloaded(change),
        Ok(Err(why)) => answer(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, &format!("it failed: {error}")),
    }
}

fn reloaded(change: RoutesChange) -> Response {
    let RoutesChange { added, changed, removed, delivering, failed } = change;
    let (status, message) = match failed.is_empty() {
        true => (StatusCode::OK, "the routes are those of the file"),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "some routes are not open: reload again"),
    };
    let body = json!({
        "message": message, "added": added, "changed": changed, "removed": removed,
        "delivering": delivering, "failed": failed,
    });
    (status, Json(body)).into_response()
}

impl Reload {
    /// Serves the tenants that are in the file now. If the file is invalid, nothing changes.
    ///
    /// # Errors
    ///
    /// If the file is invalid, with the reason.
    async fn run(&self) -> Result<RoutesChange, String> {
        let Reload { settings, routes, tenants, runtime, out } = self;
        let read = Arc::clone(settings);
        let read = move || Ok(read.destinations().map_err(|error| error.to_string())?.routes);
        let prepared = routes.prepare(read).await.inspect_err(|why| {
            tracing::warn!(why, "the file of routes was not reloaded: nothing changed");
        })?;
        // As in a shutdown: requests in progress get their time, and then their outcomes.
        let limit = Duration::from_millis(settings.drain_timeout_ms);
        let ended = tenants.suspend(&prepared.changed(), prepared.removed());
        if tokio::time::timeout(limit, ended).await.is_err() {
            tracing::warn!(
                "requests of tenants that changed or left were not done within {limit:?}: what \
                 they log from now on fails, or is the tenant's as before"
            );
        }
        let change = prepared.make().await;
        let mut sinks = routes.sinks();
        let opened = change.added.iter().chain(&change.changed);
        let opened = opened.map(|name| (name.clone(), sinks.remove(name).map(runtime)));
        tenants.resume(opened.collect::<BTreeMap<_, _>>());
        for (name, why) in &change.failed {
            tracing::error!(route = name, why, "a tenant is not served: reload again");
        }
        let RoutesChange { added, changed, removed, .. } = &change;
        out.line(&format!(
            "routes reloaded: added {added:?}, changed {changed:?}, removed {removed:?}"
        ));
        Ok(change)
    }
}

//! Probes, metrics and receipts for operators, on a separate address. Pages of other origins cannot
//! read them.

use audit_core::{Commits, Usage};
use audit_host::Answer;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::Server;
use super::problem::Problem;
use super::receipts;

pub(super) fn router(server: Server) -> Router {
    Router::new()
        .route("/livez", get(async |State(server): State<Server>| respond(server.probe().live())))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/metrics", get(metrics_page))
        .route("/receipts", get(receipts::find).delete(receipts::remove))
        .with_state(server)
}

/// Probes for load balancers, which only know the clients' address: a status without the reason.
pub(super) fn public_probes() -> Router<Server> {
    let ready = async |State(server): State<Server>| respond(server.probe().ready().public());
    let live = async |State(server): State<Server>| respond(server.probe().live().public());
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
}

async fn ready(State(server): State<Server>, RawQuery(query): RawQuery) -> Response {
    let is_verbose = query.is_some_and(|query| {
        query.split('&').any(|part| part.split('=').next() == Some("verbose"))
    });
    respond(if is_verbose { server.probe().verbose() } else { server.probe().ready() })
}

fn respond(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(answer.body)).into_response()
}

async fn metrics_page(State(server): State<Server>) -> Response {
    match server.metrics() {
        Some(metrics) => {
            count_usage(server.functions().runtime().usage());
            let accepts = server.functions().store().commits() == Commits::Accepted;
            metrics::gauge!("functions_store_accepts").set(f64::from(u8::from(accepts)));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            ([(CONTENT_TYPE, kind)], metrics.render()).into_response()
        }
        None => {
            Problem::new(StatusCode::NOT_FOUND, "NoMetrics", "no metrics recorder is installed")
                .into_response()
        }
    }
}

/// Counts the metered usage, which is the logs made durable so far.
fn count_usage(usage: Usage) {
    metrics::counter!("audit_usage_logs_total").absolute(usage.logs());
    metrics::counter!("audit_usage_bytes_total").absolute(usage.bytes());
    metrics::counter!("audit_usage_metered_bytes_total").absolute(usage.metered_bytes());
}

//! The routes for clients, and their common layers.

use std::net::IpAddr;
use std::sync::Arc;

use audit_host::Connection;
use audit_runtime::http::RequestContextLayer;
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

use super::problem::Problem;
use super::{Server, calls, operators, sync};

pub(super) fn router(server: Server) -> Router {
    let layer = RequestContextLayer::new(server.functions().runtime().clone(), peer);
    let layer = layer.with_trusted_proxies(server.inner.proxies.clone());
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
        .layer(from_fn(audit_host::traced))
        .layer(layer);
    let for_pages = Router::new()
        .nest("/api", api)
        .route("/", get(hello))
        .route("/version", get(version))
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(count))
        .fallback(unknown)
        .layer(from_fn(allow_other_origins));
    operators::public_probes().merge(for_pages).with_state(server)
}

/// The peer of a connection, as an extension of its requests.
pub(super) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Arc<Connection>>().map(|connection| connection.peer().ip())
}

async fn hello() -> &'static str {
    "This is a host for functions. POST to /api/query, /api/mutation or /api/action, or give this address to a Convex client.\n"
}

async fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

async fn unknown(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(200).collect();
    Problem::new(StatusCode::NOT_FOUND, "NotFound", format!("no such path: {path}"))
}

async fn wrong_method(request: Request) -> Problem {
    let message = format!("{} does not support {}", request.uri().path(), request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

/// Counts requests with a route, and measures how long they take. The request of a WebSocket ends
/// when it is upgraded.
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

/// Allows pages of any origin. There are no cookies that a page could misuse, since tokens are sent
/// in a header.
async fn allow_other_origins(request: Request, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response =
        if is_preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-request-id, retry-after"),
    );
    if is_preflight {
        let methods = HeaderValue::from_static("GET, POST, OPTIONS");
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed =
            HeaderValue::from_static("authorization, content-type, convex-client, x-request-id");
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    response
}

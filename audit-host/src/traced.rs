//! An axum middleware that makes each request a span of a trace.

use audit_runtime::RequestContext;
use audit_runtime::http::Origin;
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::traces;

/// Makes a request a span with its method, route, status and the request id of its audit logs.
/// Layer it below the [`RequestContextLayer`](audit_runtime::http::RequestContextLayer):
/// `.layer(from_fn(audit_host::traced)).layer(context)`.
///
/// The span joins the trace in `traceparent` (W3C Trace Context) only if a trusted proxy sent that
/// header: any other client could add its requests to the traces of others. It does nothing if
/// traces are disabled.
pub async fn traced(request: Request, next: Next) -> Response {
    let span = span(&request);
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    response
}

fn span(request: &Request) -> Span {
    let extensions = request.extensions();
    let route = extensions.get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
    let method = request.method().as_str();
    let span = tracing::info_span!(
        target: "audit::trace", "request", otel.name = format!("{method} {route}").trim_end(),
        otel.kind = "server", http.request.method = method, http.route = route,
        http.response.status_code = Empty, otel.status_code = Empty, request_id = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    if let Some(context) = extensions.get::<RequestContext>() {
        span.record("request_id", context.request_id().as_str());
    }
    let asserted = |name: &str| {
        let lines = request.headers().get_all(name).iter().map(|line| line.as_bytes());
        let value = extensions.get::<Origin>()?.asserted(lines)?;
        std::str::from_utf8(value).ok()
    };
    if let Some(parent) = asserted("traceparent") {
        traces::set_parent(&span, parent, asserted("tracestate"));
    }
    span
}

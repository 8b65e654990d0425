//! HTTP actions, on their own address.

use std::io;

use audit_host::Holder;
use audit_runtime::http::RequestContextLayer;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use functions_calls::{HttpError, HttpPieces, HttpRequest, HttpResponse};
use futures::stream;

use super::Server;
use super::body::Anything;
use super::budget::Share;
use super::calls::Client;
use super::problem::Problem;
use super::router::peer;

/// Routes all requests to the app, which alone decides which origins may read a response.
pub(super) fn router(server: Server) -> Router {
    let layer = RequestContextLayer::new(server.functions().runtime().clone(), peer);
    let layer = layer.with_trusted_proxies(server.inner.proxies.clone());
    Router::new()
        .fallback(answer)
        .layer(from_fn(audit_host::traced))
        .layer(layer)
        .with_state(server)
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let began = tokio::time::Instant::now();
    let response = match respond(&server, request).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    let status = response.status().as_u16().to_string();
    metrics::counter!("functions_http_requests_total", "route" => "http", "status" => status)
        .increment(1);
    metrics::histogram!("functions_http_seconds", "route" => "http").record(began.elapsed());
    response
}

/// The methods that no `Request` of a function can have (<https://fetch.spec.whatwg.org>). The third,
/// `CONNECT`, never gets here.
const FORBIDDEN: [&str; 2] = ["TRACE", "TRACK"];

async fn respond(server: &Server, request: Request) -> Result<Response, Problem> {
    let method = request.method().as_str();
    if FORBIDDEN.iter().any(|forbidden| method.eq_ignore_ascii_case(forbidden)) {
        let message = format!("HTTP actions do not support {method}");
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message));
    }
    let (mut parts, body) = request.into_parts();
    let Ok(client) = Client::from_request_parts(&mut parts, server).await;
    let (caller, refused_token) = client.caller_of_http(server).await;
    let path_and_query = parts.uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or("localhost").to_owned();
    let headers = parts.headers.iter().map(|(name, value)| {
        let value = value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
        (name.as_str().to_owned(), value)
    });
    let headers = headers.collect();
    let method = parts.method.as_str().to_owned();
    let body = Anything::from_request(Request::from_parts(parts, body), server).await?;
    let Anything { bytes, shares } = body;
    let request = HttpRequest { method, path_and_query, host, headers, body: bytes, refused_token };
    let answered = server.functions().http(request, &caller).await;
    let HttpResponse { status, headers, body, rest } = answered.map_err(problem)?;
    let invalid = || {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            "the HTTP action responded with a status or header that cannot be sent",
        )
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| invalid())?;
    *response.headers_mut() = sent(headers).ok_or_else(invalid)?;
    let (pool, holder) = (server.budget().answers(), client.holder());
    *response.body_mut() = match rest {
        None => Body::from(pool.hold(0, &holder).of_bytes(body)),
        Some(rest) => {
            let held = pool.hold(0, &holder);
            let state = Streaming { rest, shares, server: server.clone(), holder };
            let first = (!body.is_empty()).then(|| Ok(held.of_bytes(body)));
            let pieces = stream::unfold(state, async |mut state| {
                let piece = state.next().await.transpose()?;
                Some((piece, state))
            });
            Body::from_stream(futures::StreamExt::chain(stream::iter(first), pieces))
        }
    };
    Ok(response)
}

/// The rest of a response, with its request's shares of the budget.
struct Streaming {
    rest: HttpPieces,
    shares: (Option<Share>, Share),
    server: Server,
    holder: Holder,
}

impl Streaming {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let _ = &self.shares;
        let piece = self.rest.next().await.map_err(io::Error::other)?;
        let held = self.server.budget().answers();
        Ok(piece.map(|bytes| held.hold(0, &self.holder).of_bytes(bytes)))
    }
}

/// The headers to send, without those of the connection. `None` if one is invalid.
fn sent(headers: Vec<(String, String)>) -> Option<HeaderMap> {
    let mut sent = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        if [CONNECTION, CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(&name) {
            continue;
        }
        let value: Option<Vec<u8>> =
            value.chars().map(|it| u8::try_from(u32::from(it)).ok()).collect();
        sent.append(name, HeaderValue::from_bytes(&value?).ok()?);
    }
    Some(sent)
}

fn problem(error: HttpError) -> Problem {
    match error {
        HttpError::None => {
            Problem::new(StatusCode::NOT_FOUND, "NotFound", HttpError::None.to_string())
        }
        HttpError::Failed(_) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            error.to_string(),
        ),
        HttpError::Call(error) => error.into(),
    }
}

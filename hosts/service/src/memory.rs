//! The memory of all requests together, from the first byte of a body until the response is sent.

use std::sync::Arc;

use audit_host::{Connection, Holder, Pool};
use audit_runtime::http::Origin;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use axum::{Error, Extension};
use futures::StreamExt;

use crate::answer::answer;

/// The maximum size of a request body, in bytes: the longest document, with room for escapes.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The memory that a request takes for each byte of its body: the body itself, the parsed change,
/// the document, and the copies of the database's driver.
const COPIES: usize = 4;

/// Passes a request on with its whole body. The request's memory counts for its client until the
/// response is sent.
///
/// A client may send and receive as slowly as the limits of connections allow, so nobody waits for
/// this memory. Beyond its limit, the client that holds the most is cut off: its request is
/// dropped, and commits nothing without its log.
pub(crate) async fn within_memory(
    State(memory): State<Arc<Pool>>,
    Extension(connection): Extension<Arc<Connection>>,
    Extension(origin): Extension<Origin>,
    request: Request,
    next: Next,
) -> Response {
    let held = memory.hold(0, &Holder::new(origin.client(), connection));
    let (parts, body) = request.into_parts();
    let body = match arrived(body, |bytes| held.resize(COPIES * bytes)).await {
        Ok(Some(body)) => body,
        Ok(None) => {
            let message = format!("the body exceeds limit of {MAX_BODY_BYTES} bytes");
            return answer(StatusCode::PAYLOAD_TOO_LARGE, &message);
        }
        Err(_) => return answer(StatusCode::BAD_REQUEST, "the body ended early"),
    };
    let response = next.run(Request::from_parts(parts, body.into())).await;
    // The response is already complete in memory.
    let (parts, body) = response.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(body) => Response::from_parts(parts, Body::from(held.of_bytes(body))),
        Err(_) => answer(StatusCode::INTERNAL_SERVER_ERROR, "the response failed"),
    }
}

/// Receives the whole body, or returns `None` if it exceeds the limit. Passes its size so far to
/// `takes`.
async fn arrived(body: Body, takes: impl Fn(usize)) -> Result<Option<Vec<u8>>, Error> {
    let mut chunks = body.into_data_stream();
    let mut all = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if all.len() + chunk.len() > MAX_BODY_BYTES {
            return Ok(None);
        }
        all.extend_from_slice(&chunk);
        takes(all.capacity());
    }
    Ok(Some(all))
}

//! HTTP actions: requests from anyone, and the responses that actions of `http.ts` send.
//!
//! Each function that the action calls is audited on its own, for the request. The action itself
//! cannot log.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use functions_engine::SyscallError;
use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot};

use super::call::{CallError, Internal};
use super::lock;
use super::operations::failed;

/// The maximum size of a response body, in bytes: 20 MiB, as on Convex.
const MAX_RESPONSE_BYTES: usize = 20 << 20;

/// The size of the pieces in which the engine reads the body of a request, in bytes.
const REQUEST_PIECE_BYTES: usize = 1 << 20;

/// The maximum number of pieces of a response that wait for the client, each of at most 1 MiB.
const MAX_PIECES: usize = 4;

/// A request to the HTTP actions of the app.
#[derive(Debug)]
pub struct HttpRequest {
    /// The method, in capitals.
    pub method: String,
    /// The path and query, as they were sent.
    pub path_and_query: String,
    /// The value of the `Host` header. Functions see the app's `CONVEX_SITE_URL` instead, if that
    /// is set.
    pub host: String,
    /// The headers. Values are Latin-1.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Why the bearer token was rejected, if it was. `ctx.auth` reports it.
    pub refused_token: Option<String>,
}

/// The response of an HTTP action, which may not be complete yet.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// The headers. Values are Latin-1.
    pub headers: Vec<(String, String)>,
    /// The first part of the body.
    pub body: Vec<u8>,
    /// The rest of the body, if there is more.
    pub rest: Option<HttpPieces>,
}

/// The rest of a response body. Dropping it tells the action that it is no longer read.
#[derive(Debug)]
pub struct HttpPieces {
    pieces: mpsc::Receiver<Piece>,
    _wanted: oneshot::Sender<()>,
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    End,
}

impl HttpPieces {
    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    ///
    /// The action failed, so the response is incomplete.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no piece.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, BrokenOff> {
        match self.pieces.recv().await {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::End) => Ok(None),
            None => Err(BrokenOff),
        }
    }
}

/// An HTTP action failed after it had begun to respond.
#[derive(Debug)]
pub struct BrokenOff;

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the HTTP action failed before its response was complete")
    }
}

impl std::error::Error for BrokenOff {}

/// An HTTP request without a response of a function. The message is safe to send to clients.
#[derive(Debug)]
pub enum HttpError {
    /// The app has no HTTP actions.
    None,
    /// The action failed. Only the host's log has the reason, since callers may be anyone.
    Failed(Internal),
    /// The action did not run.
    Call(CallError),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpError::None => f.write_str("there are no HTTP actions here"),
            HttpError::Failed(internal) => write!(f, "the HTTP action failed; {internal}"),
            HttpError::Call(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HttpError {}

/// The action's side of an HTTP request.
#[derive(Debug)]
pub(super) struct Responding {
    /// The request as JSON text, for the engine, without its body.
    pub(super) request: String,
    body: Vec<u8>,
    /// The path of the request, as it was sent.
    pub(super) path: String,
    pub(super) refused_token: Option<String>,
    head: Mutex<Option<oneshot::Sender<HttpResponse>>>,
    pieces: mpsc::Sender<Piece>,
    rest: Mutex<Option<mpsc::Receiver<Piece>>>,
    /// Ends when the rest of the response is no longer read.
    unwanted: Mutex<Option<oneshot::Receiver<()>>>,
    sent_bytes: Mutex<usize>,
    is_abandoned: Arc<AtomicBool>,
}

fn abandoned(is_abandoned: &AtomicBool) -> SyscallError {
    is_abandoned.store(true, Ordering::Relaxed);
    failed("the client is gone")
}

fn check_response(bytes: usize) -> Result<(), SyscallError> {
    if bytes <= MAX_RESPONSE_BYTES {
        return Ok(());
    }
    Err(failed(format!(
        "the response of an HTTP action exceeds limit of {MAX_RESPONSE_BYTES} bytes"
    )))
}

impl Responding {
    /// Also returns a receiver for the response.
    pub(super) fn new(
        request: String,
        body: Vec<u8>,
        path: String,
        refused_token: Option<String>,
    ) -> (Responding, oneshot::Receiver<HttpResponse>) {
        let (head, responded) = oneshot::channel();
        let (pieces, rest) = mpsc::channel(MAX_PIECES);
        let responding = Responding {
            request,
            body,
            path,
            refused_token,
            head: Mutex::new(Some(head)),
            pieces,
            rest: Mutex::new(Some(rest)),
            unwanted: Mutex::new(None),
            sent_bytes: Mutex::new(0),
            is_abandoned: Arc::default(),
        };
        (responding, responded)
    }

    /// Becomes true once the action has found its client gone.
    pub(super) fn is_abandoned(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_abandoned)
    }

    /// `host/requestPiece`: a piece of the request's body, in base64.
    pub(super) fn request_piece(&self, args: &Json) -> String {
        let at = args.get("at").and_then(Json::as_u64).and_then(|at| usize::try_from(at).ok());
        let rest = at.and_then(|at| self.body.get(at..)).unwrap_or_default();
        BASE64_STANDARD.encode(&rest[..rest.len().min(REQUEST_PIECE_BYTES)])
    }

    fn bytes(&self, args: &Json, member: &str) -> Result<Vec<u8>, SyscallError> {
        let text = args.get(member).and_then(Json::as_str).unwrap_or_default();
        let bytes = BASE64_STANDARD.decode(text).map_err(|error| failed(error.to_string()))?;
        let mut sent = lock(&self.sent_bytes);
        *sent += bytes.len();
        check_response(*sent)?;
        Ok(bytes)
    }

    /// `host/respond`: sends the head of the response.
    pub(super) fn head(&self, args: &Json) -> Result<(), SyscallError> {
        // The length of a body that follows, if it is known. One that is too long is refused while
        // the response can still say so.
        let length = args.get("length").and_then(Json::as_u64).unwrap_or(0);
        check_response(usize::try_from(length).unwrap_or(usize::MAX))?;
        let body = self.bytes(args, "body")?;
        let status =
            args.get("status").and_then(Json::as_u64).and_then(|it| u16::try_from(it).ok());
        let status = status.ok_or_else(|| failed("the status of a response is a number"))?;
        let headers = args.get("headers").cloned().unwrap_or_default();
        let headers = serde_json::from_value(headers)
            .map_err(|error| failed(format!("the headers of a response are pairs: {error}")))?;
        let is_whole = args.get("isWhole").and_then(Json::as_bool).unwrap_or(false);
        let sender = lock(&self.head).take();
        let sender = sender.ok_or_else(|| failed("an HTTP action responds once"))?;
        let rest = lock(&self.rest).take().filter(|_| !is_whole).map(|pieces| {
            let (wanted, unwanted) = oneshot::channel();
            *lock(&self.unwanted) = Some(unwanted);
            HttpPieces { pieces, _wanted: wanted }
        });
        sender
            .send(HttpResponse { status, headers, body, rest })
            .map_err(|_| abandoned(&self.is_abandoned))
    }

    /// A receiver that ends when the client is gone or has the whole response. `None` before the
    /// response has begun, if it has no more pieces, and after the first call.
    pub(super) fn unwanted(&self) -> Option<oneshot::Receiver<()>> {
        lock(&self.unwanted).take()
    }

    /// `host/respondPiece` and `host/respondEnd`: a future that sends the piece or the end.
    pub(super) fn piece(
        &self,
        args: Option<&Json>,
    ) -> Result<impl Future<Output = Result<(), SyscallError>> + Send + use<>, SyscallError> {
        let piece = match args {
            Some(args) => Piece::Bytes(self.bytes(args, "bytes")?),
            None => Piece::End,
        };
        let (pieces, is_abandoned) = (self.pieces.clone(), self.is_abandoned());
        Ok(async move { pieces.send(piece).await.map_err(|_| abandoned(&is_abandoned)) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn an_action_whose_client_left_is_abandoned() {
        let head = json!({ "status": 200, "headers": [], "body": "" });
        let piece = json!({ "bytes": "YWI=" });
        let (responding, responded) =
            Responding::new(String::new(), Vec::new(), String::new(), None);
        responding.head(&head).unwrap();
        responding.piece(Some(&piece)).unwrap().await.unwrap();
        assert!(!responding.is_abandoned().load(Ordering::Relaxed));
        drop(responded);
        assert!(responding.piece(Some(&piece)).unwrap().await.is_err());
        assert!(responding.is_abandoned().load(Ordering::Relaxed));
        let (responding, responded) =
            Responding::new(String::new(), Vec::new(), String::new(), None);
        drop(responded);
        assert!(responding.head(&head).is_err());
        assert!(responding.is_abandoned().load(Ordering::Relaxed));
    }

    #[test]
    fn the_size_of_a_whole_response_is_limited() {
        let (responding, _responded) =
            Responding::new(String::new(), Vec::new(), String::new(), None);
        *lock(&responding.sent_bytes) = MAX_RESPONSE_BYTES - 3;
        let piece = json!({ "bytes": BASE64_STANDARD.encode("ab") });
        assert!(responding.piece(Some(&piece)).is_ok());
        let refused = responding.piece(Some(&piece)).err().unwrap();
        assert_eq!(
            refused.message,
            "the response of an HTTP action exceeds limit of 20971520 bytes"
        );
        let head = json!({ "status": 200, "headers": [], "body": "YWI=", "isWhole": true });
        assert!(responding.head(&head).is_err());
    }
}

//! HTTP actions: a request from anywhere, and the response that an action of `http.ts` sends.
//!
//! What it calls is audited for the request, each call on its own. The action itself cannot log.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use functions_engine::SyscallError;
use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot};

use super::call::{CallError, Internal};

/// The most bytes of the body of a response: 20 MiB, as at Convex.
const MAX_RESPONSE_BYTES: usize = 20 << 20;

/// How many pieces of a response wait for the client, each of 1 MiB at most.
const MAX_PIECES: usize = 4;

/// A request for the HTTP actions of the app.
#[derive(Debug)]
pub struct HttpRequest {
    /// Its method, in capitals.
    pub method: String,
    /// Its path and query, as they were sent.
    pub path_and_query: String,
    /// What it was sent to, as the `Host` header says. Functions see the app's `CONVEX_SITE_URL`
    /// instead, if that is set.
    pub host: String,
    /// Its headers. Values are Latin-1.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// Why its bearer token was refused, if it was: `ctx.auth` says so.
    pub refused_token: Option<String>,
}

/// The response of an HTTP action, of which a part may still be to come.
#[derive(Debug)]
pub struct HttpResponse {
    /// Its status.
    pub status: u16,
    /// Its headers. Values are Latin-1.
    pub headers: Vec<(String, String)>,
    /// The beginning of its body.
    pub body: Vec<u8>,
    /// The rest, if the action sends one.
    pub rest: Option<HttpPieces>,
}

/// The rest of a response. Dropped, nobody wants it any more.
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
    /// The next piece; none after the last.
    ///
    /// # Errors
    ///
    /// If the action failed before the end: what was sent is not a whole response.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, BrokenOff> {
        match self.pieces.recv().await {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::End) => Ok(None),
            None => Err(BrokenOff),
        }
    }
}

/// An HTTP action that failed after it had begun to respond.
#[derive(Debug)]
pub struct BrokenOff;

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the HTTP action failed before its response was complete")
    }
}

impl std::error::Error for BrokenOff {}

/// Why an HTTP request has no response of a function. Its `Display` is safe to send to clients.
#[derive(Debug)]
pub enum HttpError {
    /// The app has no HTTP actions.
    None,
    /// The action failed. Why stands in the host's log, for callers are strangers.
    Failed(Internal),
    /// The action was not run.
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

/// A running HTTP action's side of its request.
#[derive(Debug)]
pub(super) struct Responding {
    /// The request as JSON text, for the engine.
    pub(super) request: String,
    /// The path of the request, as it was sent.
    pub(super) path: String,
    pub(super) refused_token: Option<String>,
    head: Mutex<Option<oneshot::Sender<HttpResponse>>>,
    pieces: mpsc::Sender<Piece>,
    rest: Mutex<Option<mpsc::Receiver<Piece>>>,
    /// Ends when nobody wants the rest of the response.
    unwanted: Mutex<Option<oneshot::Receiver<()>>>,
    sent_bytes: Mutex<usize>,
    is_abandoned: Arc<AtomicBool>,
}

fn failed(message: impl Into<String>) -> SyscallError {
    SyscallError::new(message)
}

fn abandoned(is_abandoned: &AtomicBool) -> SyscallError {
    is_abandoned.store(true, Ordering::Relaxed);
    failed("the client is gone")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Responding {
    /// With what is told when it responds.
    pub(super) fn new(
        request: String,
        path: String,
        refused_token: Option<String>,
    ) -> (Responding, oneshot::Receiver<HttpResponse>) {
        let (head, responded) = oneshot::channel();
        let (pieces, rest) = mpsc::channel(MAX_PIECES);
        let responding = Responding {
            request,
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

    /// Set once the action met that its client has gone.
    pub(super) fn is_abandoned(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_abandoned)
    }

    fn bytes(&self, args: &Json, member: &str) -> Result<Vec<u8>, SyscallError> {
        let text = args.get(member).and_then(Json::as_str).unwrap_or_default();
        let bytes = BASE64_STANDARD.decode(text).map_err(|error| failed(error.to_string()))?;
        let mut sent = lock(&self.sent_bytes);
        *sent += bytes.len();
        if *sent > MAX_RESPONSE_BYTES {
            return Err(failed(format!(
                "the response of an HTTP action exceeds the limit of {MAX_RESPONSE_BYTES} bytes"
            )));
        }
        Ok(bytes)
    }

    /// `host/respond`: the head of the response.
    pub(super) fn head(&self, args: &Json) -> Result<(), SyscallError> {
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

    /// What completes when the client of a response of which more is to come has gone, or has all
    /// of it. None before that, and the second time.
    pub(super) fn unwanted(&self) -> Option<oneshot::Receiver<()>> {
        lock(&self.unwanted).take()
    }

    /// `host/respondPiece` and `host/respondEnd`: what sends it.
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
        let (responding, responded) = Responding::new(String::new(), String::new(), None);
        responding.head(&head).unwrap();
        responding.piece(Some(&piece)).unwrap().await.unwrap();
        assert!(!responding.is_abandoned().load(Ordering::Relaxed));
        drop(responded);
        assert!(responding.piece(Some(&piece)).unwrap().await.is_err());
        assert!(responding.is_abandoned().load(Ordering::Relaxed));
        let (responding, responded) = Responding::new(String::new(), String::new(), None);
        drop(responded);
        assert!(responding.head(&head).is_err());
        assert!(responding.is_abandoned().load(Ordering::Relaxed));
    }

    #[test]
    fn the_parts_of_a_response_are_limited_together() {
        let (responding, _responded) = Responding::new(String::new(), String::new(), None);
        *lock(&responding.sent_bytes) = MAX_RESPONSE_BYTES - 3;
        let piece = json!({ "bytes": BASE64_STANDARD.encode("ab") });
        assert!(responding.piece(Some(&piece)).is_ok());
        let refused = responding.piece(Some(&piece)).err().unwrap();
        assert_eq!(
            refused.message,
            "the response of an HTTP action exceeds the limit of 20971520 bytes"
        );
        let head = json!({ "status": 200, "headers": [], "body": "YWI=", "isWhole": true });
        assert!(responding.head(&head).is_err());
    }
}

//! The fetches of one call.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::{Body, Method};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::body::{Incoming, Outgoing, Reading, Receiving, Sent, has_body, window};
use crate::memory::{FETCH_BYTES, Memory, Share};
use crate::request::Sending;
use crate::{FetchError, FetchRequest, Fetcher, Reached, too_slow};

/// The maximum size of a piece of a streamed request body, in bytes.
const MAX_SENT_BYTES: usize = 1 << 20;

/// The memory of a streamed request body, in bytes: one piece that waits, and one being sent.
const STREAM_BYTES: usize = 2 * MAX_SENT_BYTES;

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// The standard reason phrase of the status.
    pub status_text: &'static str,
    /// The URL that responded, without its fragment.
    pub url: String,
    /// Whether there was a redirect to that URL.
    pub redirected: bool,
    /// The headers. Values are Latin-1.
    pub headers: Vec<(String, String)>,
    /// Whether there is a body to read.
    pub has_body: bool,
}

/// The fetches of one call, each under a number that the call chooses. Dropping it cancels them.
#[derive(Debug)]
pub struct Fetches {
    fetcher: Fetcher,
    tasks: Handle,
    memory: Memory,
    open: Arc<Mutex<HashMap<u32, Open>>>,
}

#[derive(Debug)]
struct Open {
    task: AbortHandle,
    sending: Option<Upload>,
    reading: Arc<tokio::sync::Mutex<Reading>>,
}

#[derive(Debug)]
struct Upload {
    pieces: mpsc::Sender<Sent>,
    sent_bytes: usize,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fetcher {
    /// The fetches of a new call. They run on this runtime.
    pub fn fetches(&self, tasks: Handle) -> Fetches {
        let largest = self.inner.settings.max_request_bytes + FETCH_BYTES;
        let memory = self.inner.memory.quarter(largest);
        Fetches { fetcher: self.clone(), tasks, memory, open: Arc::default() }
    }
}

fn unknown() -> FetchError {
    FetchError::new("no such fetch is open")
}

impl Fetches {
    /// Begins a fetch. `done` is called with the head of the response, or with the error.
    ///
    /// # Errors
    ///
    /// The number is in use, or the body is too large. `done` is not called then.
    pub fn begin(
        &self,
        id: u32,
        request: FetchRequest,
        done: impl FnOnce(Result<Head, FetchError>) + Send + 'static,
    ) -> Result<(), FetchError> {
        let limit = self.fetcher.inner.settings.max_request_bytes;
        let bytes = match &request.body {
            Sending::None => 0,
            Sending::Bytes(bytes) => bytes.len(),
            Sending::Stream => STREAM_BYTES,
        };
        if let Sending::Bytes(bytes) = &request.body
            && bytes.len() > limit
        {
            return Err(too_large(bytes.len(), limit));
        }
        let (sending, stream) = match &request.body {
            Sending::None | Sending::Bytes(_) => (None, None),
            Sending::Stream => {
                let (pieces, sent) = mpsc::channel(1);
                let upload = Upload { pieces, sent_bytes: 0 };
                (Some(upload), Some(Body::wrap(Outgoing(sent))))
            }
        };
        let (receiving, reading) = window();
        let running = Running {
            fetcher: self.fetcher.clone(),
            memory: self.memory.clone(),
            bytes: FETCH_BYTES + bytes,
            receiving,
        };
        let all = Arc::clone(&self.open);
        let mut open = self.open.lock();
        if open.contains_key(&id) {
            return Err(FetchError::new("a fetch with this number is already open"));
        }
        let task = self.tasks.spawn(async move {
            let counted = Counted::begin();
            let mut done = Some(done);
            let mut respond = |head: Result<Head, FetchError>| {
                counted.set_result(head.is_ok());
                if let Some(done) = done.take() {
                    done(head);
                }
            };
            if !Box::pin(running.run(request, stream, &mut respond)).await {
                // There is no body to read.
                all.lock().remove(&id);
            }
        });
        let reading = Arc::new(tokio::sync::Mutex::new(reading));
        open.insert(id, Open { task: task.abort_handle(), sending, reading });
        Ok(())
    }

    /// Sends a piece of a streamed request body, at most 1 MiB. The future completes when there is
    /// room for the next piece.
    ///
    /// # Errors
    ///
    /// The fetch or its request body has ended, or the body is too large.
    pub fn send(
        &self,
        id: u32,
        piece: Vec<u8>,
    ) -> Result<impl Future<Output = Result<(), FetchError>> + Send + use<>, FetchError> {
        let limit = self.fetcher.inner.settings.max_request_bytes;
        let mut open = self.open.lock();
        let upload = open.get_mut(&id).and_then(|open| open.sending.as_mut());
        let upload = upload.ok_or_else(unknown)?;
        upload.sent_bytes = upload.sent_bytes.saturating_add(piece.len());
        if upload.sent_bytes > limit || piece.len() > MAX_SENT_BYTES {
            return Err(too_large(upload.sent_bytes, limit));
        }
        let pieces = upload.pieces.clone();
        Ok(pass(pieces, Sent::Bytes(Bytes::from(piece))))
    }

    /// Ends a streamed request body.
    ///
    /// # Errors
    ///
    /// The fetch or its request body has ended.
    pub fn send_end(
        &self,
        id: u32,
    ) -> Result<impl Future<Output = Result<(), FetchError>> + Send + use<>, FetchError> {
        let upload = self.open.lock().get_mut(&id).and_then(|open| open.sending.take());
        Ok(pass(upload.ok_or_else(unknown)?.pieces, Sent::End))
    }

    /// The next bytes of a response body, or `None` at the end.
    ///
    /// # Errors
    ///
    /// No such fetch is open. The future fails if the body ends early.
    pub fn read(
        &self,
        id: u32,
    ) -> Result<impl Future<Output = Result<Option<Vec<u8>>, FetchError>> + Send + use<>, FetchError>
    {
        let reading = Arc::clone(&self.open.lock().get(&id).ok_or_else(unknown)?.reading);
        let open = Arc::clone(&self.open);
        Ok(async move {
            let read = reading.lock().await.next().await;
            if !matches!(read, Ok(Some(_))) {
                open.lock().remove(&id);
            }
            read
        })
    }

    /// Cancels a fetch, if it is open.
    pub fn cancel(&self, id: u32) {
        self.open.lock().remove(&id);
    }

    /// A handle that cancels all open fetches of the call.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::downgrade(&self.open))
    }
}

/// Cancels the open fetches of a call.
#[derive(Debug, Clone)]
pub struct Canceller(Weak<Mutex<HashMap<u32, Open>>>);

impl Canceller {
    /// Cancels the fetches, unless the call has ended.
    pub fn cancel(&self) {
        if let Some(open) = self.0.upgrade() {
            open.lock().clear();
        }
    }
}

impl Drop for Fetches {
    fn drop(&mut self) {
        // Pending reads hold the map too.
        self.open.lock().clear();
    }
}

async fn pass(pieces: mpsc::Sender<Sent>, piece: Sent) -> Result<(), FetchError> {
    let gone = |_| FetchError::new("the request has ended before its body");
    pieces.send(piece).await.map_err(gone)
}

fn too_large(bytes: usize, limit: usize) -> FetchError {
    let message = format!("the body of the request, {bytes} bytes, exceeds limit of {limit} bytes");
    FetchError::new(message)
}

struct Running {
    fetcher: Fetcher,
    memory: Memory,
    /// Its share of the memory, in bytes.
    bytes: usize,
    receiving: Receiving,
}

impl Running {
    /// Runs the fetch. Returns whether there is a response body to read.
    async fn run(
        self,
        request: FetchRequest,
        stream: Option<Body>,
        respond: &mut (dyn FnMut(Result<Head, FetchError>) + Send),
    ) -> bool {
        let Running { fetcher, memory, bytes, receiving } = self;
        let settings = &fetcher.inner.settings;
        let until = Instant::now() + settings.timeout;
        let share = timeout_at(until, Share::take(&memory, &fetcher.inner.memory, bytes)).await;
        let Ok(share) = share else {
            respond(Err(FetchError::new(format!(
                "the memory for fetches was in use for {} ms: read or cancel the bodies of responses",
                settings.timeout.as_millis()
            ))));
            return false;
        };
        let reached = timeout_at(until, Box::pin(fetcher.reach(request, stream))).await;
        let reached = reached.unwrap_or_else(|_| Err(too_slow(settings.timeout)));
        let limit = settings.max_response_bytes;
        let incoming = reached.and_then(|Reached { response, url, method, redirected }| {
            let incoming = Incoming::new(response, &method, limit)?;
            let head = head(&incoming, url, &method, redirected);
            Ok((incoming, head))
        });
        let (mut incoming, head) = match incoming {
            Ok(incoming) => incoming,
            Err(error) => {
                respond(Err(error));
                return false;
            }
        };
        let has_body = head.has_body;
        // The request body was sent, or is no longer needed.
        let share = share.shrunk(FETCH_BYTES);
        respond(Ok(head));
        if !has_body {
            return false;
        }
        loop {
            match timeout(settings.timeout, incoming.next()).await {
                Ok(Ok(Some(bytes))) => receiving.give(bytes).await,
                Ok(Ok(None)) => {
                    drop(incoming);
                    receiving.end(share);
                    return true;
                }
                Ok(Err(error)) => {
                    receiving.fail(error);
                    return true;
                }
                Err(_) => {
                    let ms = settings.timeout.as_millis();
                    let message = format!("no more of the response body arrived within {ms} ms");
                    receiving.fail(FetchError::new(message));
                    return true;
                }
            }
        }
    }
}

fn head(incoming: &Incoming, mut url: url::Url, method: &Method, redirected: bool) -> Head {
    let response = incoming.response();
    let status = response.status();
    let headers = response.headers().iter().map(|(name, value)| {
        let value = value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
        (name.as_str().to_owned(), value)
    });
    url.set_fragment(None);
    Head {
        status: status.as_u16(),
        status_text: status.canonical_reason().unwrap_or_default(),
        url: url.into(),
        redirected,
        headers: headers.collect(),
        has_body: has_body(method, status),
    }
}

/// Counts a fetch in the metrics: as running, and by its result when it ends.
struct Counted {
    result: Mutex<&'static str>,
}

impl Counted {
    fn begin() -> Counted {
        metrics::gauge!("functions_fetches").increment(1.0);
        Counted { result: Mutex::new("cancelled") }
    }

    fn set_result(&self, is_ok: bool) {
        let result = if is_ok { "responded" } else { "failed" };
        *self.result.lock() = result;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let result = *self.result.lock();
        metrics::gauge!("functions_fetches").decrement(1.0);
        metrics::counter!("functions_fetches_total", "result" => result).increment(1);
    }
}

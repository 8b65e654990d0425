//! The fetches of one call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use reqwest::{Body, Method};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::body::{Incoming, Outgoing, Reading, Receiving, Sent, has_body, window};
use crate::memory::{FETCH_BYTES, Memory, Share};
use crate::request::Sending;
use crate::{FetchError, FetchRequest, Fetcher, Reached, too_slow};

/// The most bytes that are sent at once of a body that is sent bit by bit.
const MAX_SENT_BYTES: usize = 1 << 20;

/// What the pieces of such a body take, in bytes: one that waits, and one that is sent.
const STREAM_BYTES: usize = 2 * MAX_SENT_BYTES;

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its status.
    pub status: u16,
    /// What the status means.
    pub status_text: &'static str,
    /// The URL that responded, without its fragment.
    pub url: String,
    /// Whether another URL redirected to that.
    pub redirected: bool,
    /// Its headers. Values are Latin-1.
    pub headers: Vec<(String, String)>,
    /// Whether there is a body to read.
    pub has_body: bool,
}

/// The fetches of one call, each under a number that the call gives it. Dropped, all of them end.
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
    /// The fetches of a call, which run on this runtime.
    pub fn fetches(&self, tasks: Handle) -> Fetches {
        let largest = self.inner.settings.max_request_bytes + FETCH_BYTES;
        let memory = self.inner.memory.quarter(largest);
        Fetches { fetcher: self.clone(), tasks, memory, open: Arc::default() }
    }
}

fn unknown() -> FetchError {
    FetchError::new("there is no such fetch")
}

impl Fetches {
    fn open(&self) -> MutexGuard<'_, HashMap<u32, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a fetch. `done` is called with the head of the response, or the error.
    ///
    /// # Errors
    ///
    /// If the number is taken, or the body is too large.
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
        let mut open = self.open();
        if open.contains_key(&id) {
            return Err(FetchError::new("there is such a fetch already"));
        }
        let task = self.tasks.spawn(async move {
            let counted = Counted::begin();
            let mut done = Some(done);
            let mut told = |head: Result<Head, FetchError>| {
                counted.told(head.is_ok());
                if let Some(done) = done.take() {
                    done(head);
                }
            };
            if !Box::pin(running.run(request, stream, &mut told)).await {
                // There is nothing to read.
                all.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            }
        });
        let reading = Arc::new(tokio::sync::Mutex::new(reading));
        open.insert(id, Open { task: task.abort_handle(), sending, reading });
        Ok(())
    }

    /// Sends a piece of a body that is sent bit by bit, at most 1 MiB. The future completes when
    /// there is room for the next.
    ///
    /// # Errors
    ///
    /// If there is no such body any more, or it becomes too large.
    pub fn send(
        &self,
        id: u32,
        piece: Vec<u8>,
    ) -> Result<impl Future<Output = Result<(), FetchError>> + Send + use<>, FetchError> {
        let limit = self.fetcher.inner.settings.max_request_bytes;
        let mut open = self.open();
        let upload = open.get_mut(&id).and_then(|open| open.sending.as_mut());
        let upload = upload.ok_or_else(unknown)?;
        upload.sent_bytes = upload.sent_bytes.saturating_add(piece.len());
        if upload.sent_bytes > limit || piece.len() > MAX_SENT_BYTES {
            return Err(too_large(upload.sent_bytes, limit.min(MAX_SENT_BYTES.max(limit))));
        }
        let pieces = upload.pieces.clone();
        Ok(pass(pieces, Sent::Bytes(Bytes::from(piece))))
    }

    /// Ends a body that is sent bit by bit.
    ///
    /// # Errors
    ///
    /// If there is no such body any more.
    pub fn send_end(
        &self,
        id: u32,
    ) -> Result<impl Future<Output = Result<(), FetchError>> + Send + use<>, FetchError> {
        let upload = self.open().get_mut(&id).and_then(|open| open.sending.take());
        Ok(pass(upload.ok_or_else(unknown)?.pieces, Sent::End))
    }

    /// The next bytes of a response's body; none after the last.
    ///
    /// # Errors
    ///
    /// If there is no such fetch; the future, if the body is not complete.
    pub fn read(
        &self,
        id: u32,
    ) -> Result<impl Future<Output = Result<Option<Vec<u8>>, FetchError>> + Send + use<>, FetchError>
    {
        let reading = Arc::clone(&self.open().get(&id).ok_or_else(unknown)?.reading);
        let open = Arc::clone(&self.open);
        Ok(async move {
            let read = reading.lock().await.next().await;
            if !matches!(read, Ok(Some(_))) {
                open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            }
            read
        })
    }

    /// Ends a fetch, if there is such a one.
    pub fn cancel(&self, id: u32) {
        self.open().remove(&id);
    }

    /// What ends all that are under way, from elsewhere.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::downgrade(&self.open))
    }
}

/// Ends the fetches of a call that are under way.
#[derive(Debug, Clone)]
pub struct Canceller(Weak<Mutex<HashMap<u32, Open>>>);

impl Canceller {
    /// Ends them, if the call has not ended.
    pub fn cancel(&self) {
        if let Some(open) = self.0.upgrade() {
            open.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

impl Drop for Fetches {
    fn drop(&mut self) {
        // Reads hold the map too.
        self.open().clear();
    }
}

async fn pass(pieces: mpsc::Sender<Sent>, piece: Sent) -> Result<(), FetchError> {
    let gone = |_| FetchError::new("the rest of the request's body is not wanted");
    pieces.send(piece).await.map_err(gone)
}

fn too_large(bytes: usize, limit: usize) -> FetchError {
    let message =
        format!("the body of the request has {bytes} bytes, more than the limit of {limit}");
    FetchError::new(message)
}

/// A fetch that runs.
struct Running {
    fetcher: Fetcher,
    memory: Memory,
    /// What it takes of memory.
    bytes: usize,
    receiving: Receiving,
}

impl Running {
    /// Returns whether there is something to read.
    async fn run(
        self,
        request: FetchRequest,
        stream: Option<Body>,
        told: &mut (dyn FnMut(Result<Head, FetchError>) + Send),
    ) -> bool {
        let Running { fetcher, memory, bytes, receiving } = self;
        let settings = &fetcher.inner.settings;
        let until = Instant::now() + settings.timeout;
        let share = timeout_at(until, Share::take(&memory, &fetcher.inner.memory, bytes)).await;
        let Ok(share) = share else {
            told(Err(FetchError::new(format!(
                "the memory of fetches was in use for {} ms: read or cancel the bodies of responses",
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
                told(Err(error));
                return false;
            }
        };
        let has_body = head.has_body;
        // The request's body is sent, or not wanted.
        let share = share.shrunk(FETCH_BYTES);
        told(Ok(head));
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
                    let message =
                        format!("nothing more of the response's body came within {ms} ms");
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

/// Counts a fetch: how many are under way, and how each of them ended.
struct Counted {
    result: Mutex<&'static str>,
}

impl Counted {
    fn begin() -> Counted {
        metrics::gauge!("functions_fetches").increment(1.0);
        Counted { result: Mutex::new("cancelled") }
    }

    fn told(&self, is_ok: bool) {
        let result = if is_ok { "responded" } else { "failed" };
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = result;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let result = *self.result.lock().unwrap_or_else(PoisonError::into_inner);
        metrics::gauge!("functions_fetches").decrement(1.0);
        metrics::counter!("functions_fetches_total", "result" => result).increment(1);
    }
}

//! Request bodies that are streamed, and response bodies.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::{Semaphore, mpsc};

use crate::FetchError;
use crate::decode::{Decoder, Step};
use crate::error::failed;
use crate::memory::Share;

/// The number of bytes of a response that are received before they are read.
const WINDOW_BYTES: usize = 128 << 10;

/// The maximum size of one piece, in bytes.
const PIECE_BYTES: usize = 64 << 10;

pub(crate) fn has_body(method: &Method, status: StatusCode) -> bool {
    method != Method::HEAD && !matches!(status.as_u16(), 204 | 205 | 304)
}

/// The body of a response: decompressed, and within its limit.
pub(crate) struct Incoming {
    response: Response,
    decoder: Option<Decoder>,
    is_complete: bool,
    limit: usize,
    /// The number of bytes received.
    arrived: usize,
    /// The number of bytes decompressed.
    decoded: usize,
}

impl Incoming {
    pub(crate) fn new(
        mut response: Response,
        method: &Method,
        limit: usize,
    ) -> Result<Incoming, FetchError> {
        let mut decoder = None;
        if has_body(method, response.status()) {
            let codings = response.headers().get_all(CONTENT_ENCODING).iter();
            let codings: Vec<_> =
                codings.map(|coding| String::from_utf8_lossy(coding.as_bytes())).collect();
            decoder = Decoder::of(&codings.join(","))?;
        }
        // These headers describe the compressed body, and would be wrong in a response that a
        // function passes on.
        if decoder.is_some() {
            response.headers_mut().remove(CONTENT_ENCODING);
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        Ok(Incoming { response, decoder, is_complete: false, limit, arrived: 0, decoded: 0 })
    }

    pub(crate) fn response(&self) -> &Response {
        &self.response
    }

    /// The next bytes, or `None` at the end.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no bytes.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            if let Some(decoder) = &mut self.decoder {
                match decoder.step()? {
                    Step::Bytes(bytes) => {
                        self.decoded = within(self.decoded + bytes.len(), self.limit)?;
                        return Ok(Some(bytes));
                    }
                    Step::End => return Ok(None),
                    Step::NeedsInput if self.is_complete => return Ok(None),
                    Step::NeedsInput => {}
                }
            } else if self.is_complete {
                return Ok(None);
            }
            let chunk = self.response.chunk().await;
            let chunk = chunk.map_err(|error| failed(&error, self.response.url()))?;
            self.arrived = within(self.arrived + chunk.as_ref().map_or(0, Bytes::len), self.limit)?;
            match (chunk, &mut self.decoder) {
                (None, decoder) => {
                    self.is_complete = true;
                    if let Some(decoder) = decoder {
                        decoder.finish();
                    }
                }
                (Some(bytes), Some(decoder)) => decoder.feed(bytes),
                (Some(bytes), None) if bytes.is_empty() => {}
                (Some(bytes), None) => return Ok(Some(bytes)),
            }
        }
    }
}

fn within(bytes: usize, limit: usize) -> Result<usize, FetchError> {
    if bytes > limit {
        let message = format!("the body of the response exceeds limit of {limit} bytes");
        return Err(FetchError::new(message));
    }
    Ok(bytes)
}

/// A received part of a response, on its way to the reader.
#[derive(Debug)]
enum Received {
    Bytes(Bytes),
    /// The end, with the memory share of the unread pieces before it.
    End(#[allow(dead_code, reason = "it is held until the end is read")] Share),
    Failed(FetchError),
}

/// The receiving side of a response body.
#[derive(Debug)]
pub(crate) struct Receiving {
    room: Arc<Semaphore>,
    pieces: mpsc::UnboundedSender<Received>,
}

/// The reading side of a response body.
#[derive(Debug)]
pub(crate) struct Reading {
    room: Arc<Semaphore>,
    pieces: mpsc::UnboundedReceiver<Received>,
    /// The end or error that followed the bytes last read.
    last: Option<Received>,
}

pub(crate) fn window() -> (Receiving, Reading) {
    let room = Arc::new(Semaphore::new(WINDOW_BYTES));
    let (sender, pieces) = mpsc::unbounded_channel();
    let receiving = Receiving { room: Arc::clone(&room), pieces: sender };
    (receiving, Reading { room, pieces, last: None })
}

impl Receiving {
    /// Passes bytes to the reader, waiting for room.
    pub(crate) async fn give(&self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            let permits = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            if let Ok(room) = self.room.acquire_many(permits).await {
                room.forget();
            }
            // The reader may be gone: then this task is about to be aborted.
            let _ = self.pieces.send(Received::Bytes(piece));
        }
    }

    pub(crate) fn end(self, share: Share) {
        let unread = WINDOW_BYTES.saturating_sub(self.room.available_permits());
        let _ = self.pieces.send(Received::End(share.shrunk(unread)));
    }

    pub(crate) fn fail(self, error: FetchError) {
        let _ = self.pieces.send(Received::Failed(error));
    }
}

impl Reading {
    /// All bytes that have arrived, waiting for the first ones; at most [`WINDOW_BYTES`]. `None` at
    /// the end.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no bytes.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        let first = match self.last.take() {
            Some(last) => Some(last),
            None => self.pieces.recv().await,
        };
        let mut all = match first {
            Some(Received::Bytes(bytes)) => bytes.to_vec(),
            Some(Received::End(_)) => return Ok(None),
            Some(Received::Failed(error)) => return Err(error),
            None => return Err(FetchError::new("the fetch was cancelled")),
        };
        while let Ok(next) = self.pieces.try_recv() {
            match next {
                Received::Bytes(bytes) => all.extend_from_slice(&bytes),
                last @ (Received::End(_) | Received::Failed(_)) => {
                    self.last = Some(last);
                    break;
                }
            }
        }
        self.room.add_permits(all.len());
        Ok(Some(all))
    }
}

/// A piece of a streamed request body.
#[derive(Debug)]
pub(crate) enum Sent {
    Bytes(Bytes),
    End,
}

#[derive(Debug)]
pub(crate) struct Outgoing(pub(crate) mpsc::Receiver<Sent>);

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = FetchError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FetchError>>> {
        Poll::Ready(match ready!(self.0.poll_recv(context)) {
            Some(Sent::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Sent::End) => None,
            None => Some(Err(FetchError::new("the body of the request ended early"))),
        })
    }
}

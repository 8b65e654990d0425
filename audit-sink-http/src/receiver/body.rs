//! The body of a request, which reports when all of it was handed to the connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

/// The most bytes handed over at once: the connection keeps up to 16 such pieces before it writes.
const PIECE_BYTES: usize = 8 << 10;

struct Whole {
    left: Bytes,
    sent: Option<oneshot::Sender<()>>,
}

/// A body, and a channel that receives a message once the whole body was handed over. The channel
/// fails if the connection drops the body before.
pub(super) fn whole(bytes: Bytes) -> (reqwest::Body, oneshot::Receiver<()>) {
    let (sent, received) = oneshot::channel();
    let mut body = Whole { left: bytes, sent: Some(sent) };
    body.note_end();
    (reqwest::Body::wrap(body), received)
}

impl Whole {
    fn note_end(&mut self) {
        if let Some(sent) = self.sent.take_if(|_| self.left.is_empty()) {
            // Nobody may be waiting any more, as after an early response with an error.
            let _ = sent.send(());
        }
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = self.left.len().min(PIECE_BYTES);
        let piece = self.left.split_to(bytes);
        self.note_end();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

//! The writing half of a session: a queue, and the task that writes it to the socket.

use std::sync::Arc;
use std::time::Duration;

use audit_host::{Held, Holder, Pool};
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures::SinkExt;
use futures::stream::SplitSink;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::sync::protocol;

const PING_INTERVAL: Duration = Duration::from_secs(15);

/// The maximum length of a close reason, in characters. A frame has room for 123 bytes.
const MAX_REASON_CHARS: usize = 30;

/// The queue of a session's messages. It needs no limit of its own, since each message has a permit
/// or is sent only once.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Outgoing>,
    unread: Arc<Pool>,
    holder: Holder,
}

/// A queued message. Its permit and bytes are freed after it is written.
#[derive(Debug)]
struct Outgoing {
    message: Message,
    _permit: Option<OwnedSemaphorePermit>,
    _held: Option<Held>,
}

impl Outbox {
    /// Starts the task that writes. The task ends when the outbox is dropped and empty, or when the
    /// client is gone. Queued bytes are held in `unread`.
    pub(super) fn open(
        sink: SplitSink<WebSocket, Message>,
        unread: Arc<Pool>,
        holder: Holder,
    ) -> (Outbox, JoinHandle<()>) {
        let (queue, queued) = mpsc::unbounded_channel();
        (Outbox { queue, unread, holder }, tokio::spawn(write(sink, queued)))
    }

    /// Queues a message. The permit is freed when it is written.
    pub(super) fn send(&self, text: String, permit: Option<OwnedSemaphorePermit>) {
        // The text is copied once, into the frame.
        let held = self.unread.hold(2 * text.len(), &self.holder);
        self.queue(Message::Text(text.into()), permit, Some(held));
    }

    pub(super) fn close(&self, code: u16, reason: &str) {
        let reason = reason.chars().take(MAX_REASON_CHARS).collect::<String>().into();
        self.queue(Message::Close(Some(CloseFrame { code, reason })), None, None);
    }

    fn queue(&self, message: Message, permit: Option<OwnedSemaphorePermit>, held: Option<Held>) {
        // If the writer is gone, so is the client, which is noticed elsewhere.
        drop(self.queue.send(Outgoing { message, _permit: permit, _held: held }));
    }
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
) {
    let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    loop {
        let outgoing = tokio::select! {
            biased;
            outgoing = queue.recv() => match outgoing {
                Some(outgoing) => outgoing,
                None => return,
            },
            // A ping for the client's code, and one that its WebSocket library answers.
            _ = ping.tick() => {
                drop(sink.feed(Message::Ping(Default::default())).await);
                Outgoing { message: Message::text(protocol::PING), _permit: None, _held: None }
            }
        };
        // A client that reads too slowly is cut off, as on any connection.
        if let Err(error) = sink.send(outgoing.message).await {
            return tracing::debug!(%error, "a client is gone");
        }
    }
}

//! Callers of flush that wait for the delivery.

use tokio::sync::oneshot;

use crate::format::Position;

/// The waiting callers, each with the position that must be delivered.
#[derive(Debug, Default)]
pub(super) struct Flushes(Vec<(Position, oneshot::Sender<()>)>);

impl Flushes {
    pub(super) fn push(&mut self, position: Position, reply: oneshot::Sender<()>) {
        self.0.push((position, reply));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Answers the callers that wait for nothing after `delivered_to`.
    pub(super) fn answer(&mut self, delivered_to: Position) {
        for (_, reply) in self.0.extract_if(.., |(position, _)| *position <= delivered_to) {
            // The caller may be gone.
            let _ = reply.send(());
        }
    }
}

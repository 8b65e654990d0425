//! Callers of flush that wait for the delivery.

use tokio::sync::oneshot;

use super::JournalDelivery;
use crate::format::Position;

/// The waiting callers, each with the position that must be delivered.
#[derive(Debug, Default)]
pub(super) struct Flushes(Vec<(Position, oneshot::Sender<()>)>);

impl Flushes {
    pub(super) fn push(&mut self, position: Position, reply: oneshot::Sender<()>) {
        // Drops the callers that gave up, so that they do not add up in a long outage.
        self.0.retain(|(_, reply)| !reply.is_closed());
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

impl JournalDelivery {
    /// Answers the callers whose records are delivered.
    pub(super) fn answer_flushes(&mut self) {
        // The end of an object that an earlier process planned is unknown.
        if self.planned.iter().any(|planned| planned.end.ordinal == 0) {
            return;
        }
        // Read before the index: all records that are durable at this position are already indexed.
        let durable = self.durable.get();
        let consumed = match self.route {
            _ if !self.is_idle() => self.delivered_to,
            None => self.cutter().consumed,
            Some(_) => durable,
        };
        self.flushes.answer(consumed.max(self.delivered_to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_that_gave_up_are_forgotten() {
        let mut flushes = Flushes::default();
        let position = |ordinal| Position { ordinal, offset: 0 };
        let mut kept = Vec::new();
        for ordinal in 0..100 {
            let (reply, waiting) = oneshot::channel();
            flushes.push(position(ordinal), reply);
            kept.extend((ordinal % 50 == 7).then_some(waiting));
        }
        assert!(flushes.0.len() <= 3, "{flushes:?}");
        flushes.answer(position(7));
        assert_eq!(kept.iter_mut().filter_map(|waiting| waiting.try_recv().ok()).count(), 1);
    }
}

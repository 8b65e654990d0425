//! A sink that reports what it has made durable.

use std::fmt;
use std::pin::Pin;

use async_trait::async_trait;

use crate::{AuditSink, Batch, Health, Place, Receipt, SinkError};

/// Forwards to another sink, and calls an observer with each batch and its place once the batch is
/// durable.
///
/// For hosts that show or count audit logs. The batch is durable whatever the observer does. The
/// caller of `persist` waits for the observer, so it must be quick. If the future of `persist` is
/// dropped, the observer may miss a batch that became durable.
pub struct Observed<S> {
    sink: S,
    observe: Box<Observer>,
}

type Observer = dyn Fn(&Batch, Place) + Send + Sync;

impl<S: AuditSink> Observed<S> {
    /// Calls `observe` with what `sink` makes durable.
    pub fn new(sink: S, observe: impl Fn(&Batch, Place) + Send + Sync + 'static) -> Observed<S> {
        Observed { sink, observe: Box::new(observe) }
    }
}

#[async_trait]
impl<S: AuditSink> AuditSink for Observed<S> {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        // Clones of a batch share its bytes.
        let receipt = self.sink.persist(batch.clone()).await?;
        if let Some(place) = receipt.place {
            (self.observe)(&batch, place);
        }
        Ok(receipt)
    }

    async fn flush(&self) -> Result<(), SinkError> {
        self.sink.flush().await
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.sink.close().await
    }

    fn health(&self) -> Health {
        self.sink.health()
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
        self.sink.stopped()
    }
}

impl<S: AuditSink> fmt::Debug for Observed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("sink", &self.sink).finish_non_exhaustive()
    }
}

impl<S: AuditSink> fmt::Display for Observed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.sink, f)
    }
}

//! A sink that shows each record on standard output, once it is durable: in the journal, or in the bucket itself.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use audit_core::{AuditSink, Batch, Receipt, SinkError, async_trait};
use audit_sink_s3::S3Sink;

/// Hands everything to a sink and shows what that made durable.
#[derive(Debug)]
pub(crate) struct Shown {
    sink: Arc<S3Sink>,
}

impl Shown {
    pub(crate) fn new(sink: Arc<S3Sink>) -> Shown {
        Shown { sink }
    }
}

#[async_trait]
impl AuditSink for Shown {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        let receipt = self.sink.persist(batch.clone()).await?;
        if let Some(place) = receipt.place {
            let mut out = std::io::stdout().lock();
            for (sequence, record) in (place.first_sequence..).zip(batch.records()) {
                let shown = writeln!(out, "durable #{sequence} {}", String::from_utf8_lossy(&record));
                if let Err(error) = shown {
                    // A closed pipe: the record is durable all the same.
                    tracing::debug!(%error, "standard output is gone");
                    break;
                }
            }
        }
        Ok(receipt)
    }

    async fn flush(&self) -> Result<(), SinkError> {
        self.sink.flush().await
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.sink.close().await
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.sink, f)
    }
}

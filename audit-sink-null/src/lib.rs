//! An audit sink for hosts with no bucket configured: it discards every batch, and its receipts say
//! so.
//!
//! [`NullSink`] keeps the [contract](AuditSink) as far as is possible without a destination: its
//! receipts are [`Receipt::DISCARDED`], and it accepts nothing after [`close`](AuditSink::close).
//! The runtime enforces limits and holds effects back as with a bucket, so a function that works
//! here works there.
//!
//! It depends on `audit-core` alone. A host opens it if its settings name no destination;
//! benchmarks use it as the baseline.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use audit_core::{AuditSink, Batch, Receipt, SinkErrorKind};
//! use audit_sink_null::NullSink;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sink: Arc<dyn AuditSink> = Arc::new(NullSink::new());
//! let batch = Batch::from_lines(1_700_000_000_000, "{\"event\":\"login\"}\n".into())?;
//! assert_eq!(sink.persist(batch.clone()).await?, Receipt::DISCARDED);
//!
//! sink.close().await?;
//! assert_eq!(sink.persist(batch).await.unwrap_err().kind(), SinkErrorKind::Closed);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use audit_core::{AuditSink, Batch, Receipt, SinkError, async_trait};

/// Discards every batch until it is closed.
#[derive(Debug, Default)]
pub struct NullSink {
    closed: AtomicBool,
}

impl NullSink {
    /// An open sink.
    pub fn new() -> NullSink {
        NullSink::default()
    }
}

#[async_trait]
impl AuditSink for NullSink {
    async fn persist(&self, _batch: Batch) -> Result<Receipt, SinkError> {
        if self.closed.load(Ordering::Acquire) {
            Err(SinkError::closed())
        } else {
            Ok(Receipt::DISCARDED)
        }
    }

    async fn flush(&self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}

impl fmt::Display for NullSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NullSink")
    }
}

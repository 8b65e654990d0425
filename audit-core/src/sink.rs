//! The contract between a runtime and its sinks.

use std::fmt::{Debug, Display};
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Batch, Health, SinkError, UniqueId};

/// A place that makes batches durable.
///
/// # Contract
///
/// - A batch is persisted whole or not at all, its records in order and next to each other.
/// - `persist` MUST NOT return a receipt before the batch is as durable as the receipt says.
/// - Each batch for which `persist` returned a receipt MUST reach the destination once, despite
///   retries, restarts and ambiguous responses. A batch whose `persist` failed as
///   [indeterminate](crate::Outcome::Indeterminate) MAY reach it, once; one that failed as [not
///   persisted](crate::Outcome::NotPersisted) MUST NOT.
/// - The methods may be called concurrently, in any order, and after one another's failure. Nothing
///   orders two concurrent calls; a call that begins after another has returned comes after it.
/// - Once `close` has been called, every `persist` MUST fail as *not persisted*, of the kind
///   [`Closed`](crate::SinkErrorKind::Closed). `flush` and `close` MAY be called again.
/// - An implementation MUST bound the memory that undelivered batches take: `persist` waits or
///   fails, but never drops, samples or truncates.
/// - `Display` names the destination for an operator, as in `S3Sink(s3://bucket/prefix)`. Neither
///   it nor `Debug` may show a credential or the content of a record.
///
/// # Durability
///
/// A receipt's [`Durability`] says how much it promises. A sink documents which one it gives.
///
/// # Cancellation
///
/// Dropping the future of `persist` does not undo the write: a batch the sink has begun to persist
/// is persisted or not by the rules above, but its caller does not learn which. Dropping the future
/// of `flush` or `close` loses nothing either.
///
/// # Errors
///
/// A [`SinkError`] says whether the batch may have been persisted and what the caller can do.
///
/// The test suite that every implementation must pass is `audit_core::testing::conformance`, behind
/// the feature `test-util`.
#[async_trait]
pub trait AuditSink: Debug + Display + Send + Sync + 'static {
    /// Makes the batch durable and returns where its records are.
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError>;

    /// Waits until everything for which `persist` returned before this call is at its final
    /// destination.
    async fn flush(&self) -> Result<(), SinkError>;

    /// Refuses new batches, then does what [`flush`](Self::flush) does and releases what the sink
    /// holds: connections, files, background tasks.
    ///
    /// It has no deadline of its own: it waits while the destination is unreachable. The caller
    /// sets one; batches acknowledged by then stay as durable as their receipts say.
    async fn close(&self) -> Result<(), SinkError>;

    /// How the sink is doing, for probes and for operators. Cheap: sends no request to the
    /// destination.
    ///
    /// The default reports no known problem.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Completes with the reason when the sink accepts nothing more until the process is restarted
    /// ([`Commits::Stopped`](crate::Commits::Stopped)): the host then exits, so that its supervisor
    /// restarts it. Otherwise never completes, not even if the sink is closed or dropped.
    fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
        Box::pin(std::future::pending())
    }
}

/// A sink that can also persist records under ids assigned by another sink, so that a record has
/// the same id everywhere.
#[async_trait]
pub trait Mirror: AuditSink {
    /// Makes the batch durable at `place`, which the sink that persisted it first assigned.
    ///
    /// Errors and cancellation are those of [`persist`](AuditSink::persist). Places may arrive in
    /// any order, and with gaps.
    async fn persist_at(&self, batch: Batch, place: Place) -> Result<(), SinkError>;
}

macro_rules! forward {
    ($pointer:ident) => {
        #[async_trait]
        impl<S: AuditSink + ?Sized> AuditSink for $pointer<S> {
            async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
                (**self).persist(batch).await
            }

            async fn flush(&self) -> Result<(), SinkError> {
                (**self).flush().await
            }

            async fn close(&self) -> Result<(), SinkError> {
                (**self).close().await
            }

            fn health(&self) -> Health {
                (**self).health()
            }

            fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
                (**self).stopped()
            }
        }
    };
}

forward!(Arc);
forward!(Box);

/// What `persist` promises on return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// How durable the batch is now.
    pub durability: Durability,
    /// Where the batch is. `None` if it was discarded.
    pub place: Option<Place>,
}

impl Receipt {
    /// The receipt for a batch that was discarded on purpose.
    pub const DISCARDED: Receipt = Receipt { durability: Durability::Discarded, place: None };
}

/// How durable a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Nowhere, on purpose: no destination is configured.
    Discarded,
    /// On this host's disk, synced; on its way to the destination.
    Journaled,
    /// At the destination.
    Delivered,
}

/// The position of a batch's records: their stream, and their sequence numbers in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The stream: one opening of a sink.
    pub stream: UniqueId,
    /// The number of the batch's first record. The first record of a stream has number 0.
    pub first_sequence: u64,
    /// How many records, numbered from `first_sequence` without a gap.
    pub count: u32,
}

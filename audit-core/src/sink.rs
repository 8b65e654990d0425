//! Where batches go: the contract between a runtime and its sink.

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
/// - Each batch for which `persist` returned a receipt MUST reach the destination once: retries,
///   restarts and ambiguous answers of the destination notwithstanding. A batch whose `persist`
///   failed as [indeterminate](crate::Outcome::Indeterminate) MAY reach it, once; one that failed
///   as [not persisted](crate::Outcome::NotPersisted) MUST NOT.
/// - The methods may be called concurrently, in any order, and after one another's failure. Nothing
///   orders two concurrent calls; a call that begins after another has returned comes after it.
/// - After `close` was called every `persist` MUST fail as *not persisted*, of the kind
///   [`Closed`](crate::SinkErrorKind::Closed). `flush` and `close` MAY be called again.
/// - An implementation MUST bound the memory that undelivered batches take: `persist` waits or
///   fails, and never drops, samples or truncates.
/// - `Display` names the destination for an operator, as in `S3Sink(s3://bucket/prefix)`. Neither
///   it nor `Debug` may show a credential or the content of a record.
///
/// # Durability
///
/// How much a receipt promises stands in its [`Durability`]. A sink says in its documentation which
/// it gives.
///
/// # Cancellation
///
/// Dropping the future of `persist` does not undo the write: a batch the sink has begun to persist
/// is persisted or not by the rules above, just that nobody learns which. Dropping the future of
/// `flush` or `close` loses nothing either.
///
/// # Errors
///
/// A [`SinkError`] says whether the batch may have been persisted and what its reader can do; see
/// there.
///
/// The test suite that every implementation must pass is `audit_core::testing::conformance`, behind
/// the feature `test-util`.
#[async_trait]
pub trait AuditSink: Debug + Display + Send + Sync + 'static {
    /// Makes the batch durable and says where it went.
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError>;

    /// Waits until everything for which `persist` returned before this call is at its final
    /// destination.
    async fn flush(&self) -> Result<(), SinkError>;

    /// Refuses new batches, then does what [`flush`](Self::flush) does and releases what the sink
    /// holds: connections, files, background tasks.
    ///
    /// It has no deadline of its own: if the destination is out of reach it waits. The caller puts
    /// a limit on it; what was promised by then is kept as the sink's durability says.
    async fn close(&self) -> Result<(), SinkError>;

    /// How the sink is doing, for probes and for operators. Cheap: the destination is not asked.
    ///
    /// A sink that does not say is one of which nothing is known to be wrong.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Completes when the sink takes nothing more before the process is restarted
    /// ([`Commits::Stopped`](crate::Commits::Stopped)), with the reason: for a host that then ends,
    /// so that its supervisor starts it again. Never completes for a sink that goes on, closed or
    /// not, nor once the sink was dropped.
    fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
        Box::pin(std::future::pending())
    }
}

/// A sink that can also persist under ids that another sink gave, so that a record has one id
/// wherever it goes.
#[async_trait]
pub trait Mirror: AuditSink {
    /// Makes the batch durable at this place, which the sink that persisted it first gave it.
    ///
    /// As [`persist`](AuditSink::persist) otherwise. Places may arrive in any order, and with gaps.
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
    /// Where the batch stands. `None` if it was discarded.
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

/// Where the records of one batch stand: each is known by its stream and its number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The stream: one opening of a sink.
    pub stream: UniqueId,
    /// The number of the batch's first record. The first record of a stream has number 0.
    pub first_sequence: u64,
    /// How many records, numbered from `first_sequence` without a gap.
    pub count: u32,
}

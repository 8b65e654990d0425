//! The result of a redelivery.

use audit_core::{SinkError, SinkErrorKind, UniqueId};
use audit_journal::Plan;
use tokio::task::JoinError;

use crate::bucket::put::PutOutcome;
use crate::destination::key;
use crate::layout::ObjectKey;

/// The result of a redelivery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalRedelivered {
    /// Objects that were put.
    pub objects: u64,
    /// Records in them.
    pub records: u64,
    /// Delivered records of the journal that were found in the bucket.
    pub present: u64,
    /// Objects under the keys of records of this journal that hold something else. They were left
    /// alone.
    pub conflicts: Vec<ForeignObject>,
    /// Streams whose first records the journal does not hold any more.
    pub gone: Vec<GoneRecords>,
}

impl JournalRedelivered {
    /// Counts an object whose request has ended.
    pub(super) fn ended(
        &mut self,
        request: Option<Result<(Plan, PutOutcome), JoinError>>,
    ) -> Result<(), SinkError> {
        match request {
            Some(Ok((plan, PutOutcome::Stored))) => {
                self.objects += 1;
                self.records += plan.count;
                Ok(())
            }
            Some(Ok((plan, PutOutcome::Conflict))) => {
                self.conflicts.push(ForeignObject { key: key(&plan), records: plan.count });
                Ok(())
            }
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) | None => Err(SinkError::indeterminate(
                SinkErrorKind::Closed,
                "the delivery of an object ended without an outcome: start it again",
            )),
        }
    }

    /// Whether every delivered record of the journal is in the bucket now, and no record is known
    /// to be in neither.
    pub fn is_whole(&self) -> bool {
        self.conflicts.is_empty() && self.gone.iter().all(|gone| gone.missing() == 0)
    }
}

/// An object that stands where records of the journal belong, and does not hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignObject {
    /// Its key.
    pub key: ObjectKey,
    /// How many records were not delivered for it.
    pub records: u64,
}

/// Records of a stream that were delivered and removed from the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoneRecords {
    /// The stream.
    pub stream: UniqueId,
    /// Records below this number are not in the journal.
    pub kept_from: u64,
    /// The number after that of the last one of them that is in the bucket. Whether those before
    /// it are, was not looked at: `audit stats` does.
    pub in_bucket_to: u64,
}

impl GoneRecords {
    /// How many records are known to be in neither the journal nor the bucket.
    pub fn missing(&self) -> u64 {
        self.kept_from - self.in_bucket_to
    }
}

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
    /// The number of restored objects.
    pub objects: u64,
    /// The number of records in them.
    pub records: u64,
    /// The number of delivered records found in the bucket.
    pub present: u64,
    /// Foreign objects under keys of this journal's records. They were left alone.
    pub conflicts: Vec<ForeignObject>,
    /// Streams whose first records are no longer in the journal.
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

    /// Whether all delivered records of the journal are now in the bucket, and no record is known
    /// to be in neither.
    pub fn is_whole(&self) -> bool {
        self.conflicts.is_empty() && self.gone.iter().all(|gone| gone.missing() == 0)
    }
}

/// An object that has the key of records of the journal, but does not contain them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignObject {
    /// Its key.
    pub key: ObjectKey,
    /// The number of records not restored because of it.
    pub records: u64,
}

/// Records of a stream that were delivered and removed from the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoneRecords {
    /// The stream.
    pub stream: UniqueId,
    /// The first number still in the journal.
    pub kept_from: u64,
    /// One past the number of the last earlier record in the bucket. Whether all records before it
    /// are present was not checked: `audit stats` does that.
    pub in_bucket_to: u64,
}

impl GoneRecords {
    /// The number of records known to be in neither the journal nor the bucket.
    pub fn missing(&self) -> u64 {
        self.kept_from - self.in_bucket_to
    }
}

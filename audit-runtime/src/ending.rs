//! The end of an attempt at a mutation, and its outcome.

use std::sync::Arc;

use audit_core::Outcome;

use crate::error::ReleaseError;
use crate::outcomes::{AttemptOutcome, Ended, Outcomes};
use crate::provenance::Identity;
use crate::sealed_logs::SealedLogs;

/// The end of one attempt. Dropping it records the attempt's outcome, so each attempt has one
/// however it ends, even if its caller is gone. An unknown outcome is not recorded.
pub(crate) struct Ending {
    /// `None` if the attempt logged nothing, or if another `Ending` claimed it.
    logs: Option<Arc<SealedLogs>>,
    /// `None` while the outcome is unknown.
    outcome: Option<AttemptOutcome>,
    has_another_end: bool,
}

impl Ending {
    /// Claims the end of the attempt that emitted these logs, with this outcome unless
    /// [`set`](Self::set) replaces it.
    pub(crate) fn new(logs: Option<&Arc<SealedLogs>>, outcome: AttemptOutcome) -> Ending {
        let has_another_end = logs.is_some_and(|logs| !logs.claim_end());
        let logs = logs.filter(|_| !has_another_end).map(Arc::clone);
        Ending { logs, outcome: Some(outcome), has_another_end }
    }

    /// Whether no other `Ending` has claimed the attempt.
    pub(crate) fn may_commit(&self) -> bool {
        !self.has_another_end
    }

    /// Sets the outcome of the attempt; `None` while it is unknown.
    pub(crate) fn set(&mut self, outcome: Option<AttemptOutcome>) {
        self.outcome = outcome;
    }

    /// The logs did not become durable. If that is certain, there is nothing for an outcome to
    /// refer to, and the claim is given up, so that a later release of the logs can end the
    /// attempt.
    pub(crate) fn note_undurable(&mut self, error: &ReleaseError) {
        if let ReleaseError::NotDurable(error) = error
            && error.outcome() == Outcome::NotPersisted
            && let Some(logs) = self.logs.take()
        {
            logs.unclaim_end();
        }
    }

    /// Where the outcome goes, if outcomes are recorded and the attempt logged something.
    pub(crate) fn outcomes(&self) -> Option<&Outcomes> {
        self.logs.as_ref()?.context().outcomes()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Logs that were never passed to the sink are in no bucket, so they get no outcome.
        if let (Some(logs), Some(outcome)) = (&self.logs, self.outcome)
            && let Some(outcomes) = logs.context().outcomes()
            && logs.were_released()
        {
            let Identity { execution, attempt } = logs.identity();
            outcomes.queue(Ended { execution, attempt, outcome });
        }
    }
}

//! The end of an attempt at a mutation, and its outcome.

use std::sync::Arc;

use audit_core::Outcome;

use crate::error::ReleaseError;
use crate::outcomes::{AttemptOutcome, Ended, Outcomes};
use crate::provenance::Identity;
use crate::sealed_logs::SealedLogs;

/// The end of one attempt. When it is dropped, the outcome that it holds then is recorded: so there
/// is one whichever way the attempt ends and whoever stops waiting for it, and none where nobody
/// knows it.
pub(crate) struct Ending {
    /// `None` if the attempt logged nothing, or if it has another end.
    logs: Option<Arc<SealedLogs>>,
    /// `None` while nobody knows.
    outcome: Option<AttemptOutcome>,
    has_another_end: bool,
}

impl Ending {
    /// Claims the end of the attempt that logged these, with this outcome unless another one is
    /// set.
    pub(crate) fn new(logs: Option<&Arc<SealedLogs>>, outcome: AttemptOutcome) -> Ending {
        let has_another_end = logs.is_some_and(|logs| !logs.claim_end());
        let logs = logs.filter(|_| !has_another_end).map(Arc::clone);
        Ending { logs, outcome: Some(outcome), has_another_end }
    }

    /// Whether the attempt has no other end.
    pub(crate) fn may_commit(&self) -> bool {
        !self.has_another_end
    }

    /// Sets the outcome of the attempt; `None` while it is unknown.
    pub(crate) fn set(&mut self, outcome: Option<AttemptOutcome>) {
        self.outcome = outcome;
    }

    /// The logs did not become durable. If they certainly did not, there are none that an outcome
    /// could be about, and a further release of them has an end of its own.
    pub(crate) fn note_undurable(&mut self, error: &ReleaseError) {
        if let ReleaseError::NotDurable(error) = error
            && error.outcome() == Outcome::NotPersisted
            && let Some(logs) = self.logs.take()
        {
            logs.give_end_back();
        }
    }

    /// Where the outcome goes, if outcomes are recorded and the attempt logged something.
    pub(crate) fn outcomes(&self) -> Option<&Outcomes> {
        self.logs.as_ref()?.context().outcomes()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Logs that the sink was never given are in no bucket, and no outcome is about them.
        if let (Some(logs), Some(outcome)) = (&self.logs, self.outcome)
            && let Some(outcomes) = logs.context().outcomes()
            && logs.were_released()
        {
            let Identity { execution, attempt } = logs.identity();
            outcomes.queue(Ended { execution, attempt, outcome });
        }
    }
}

//! The errors of batches that are not committed.

use audit_core::{Receipt, SinkError, SinkErrorKind};
use tokio::sync::oneshot;

use super::{Journal, Slot};

impl Journal {
    /// The result of a queued batch, given the thread's answer.
    pub(super) fn answered(
        &self,
        slot: &Slot,
        answer: Result<Result<Receipt, SinkError>, oneshot::error::RecvError>,
    ) -> Result<Receipt, SinkError> {
        answer.unwrap_or_else(|_gone| {
            Err(match slot.take() {
                Some(_) => self.stopped(),
                None => SinkError::indeterminate(
                    SinkErrorKind::Closed,
                    "the journal stopped while the audit batch was being written: restart the process",
                ),
            })
        })
    }

    /// The error of a batch that was not written because there was no room in time.
    pub(crate) fn no_room(&self) -> SinkError {
        let (bytes, max_bytes) = (self.live.bytes(), self.journal.max_bytes);
        let why = match self.health.hindrance() {
            Some(refusal) => refusal.to_string(),
            None => "the disk is slow".to_owned(),
        };
        let message = format!(
            "no room in the journal within {} ms: {bytes} of {max_bytes} bytes are used; {why}",
            self.bounds.persist_timeout.as_millis()
        );
        SinkError::not_persisted(SinkErrorKind::Unavailable, message)
    }

    /// The error after the journal has stopped: nothing is accepted until the process is restarted.
    pub(crate) fn stopped(&self) -> SinkError {
        let why = self.health.stop_reason();
        match why {
            Some(why) => SinkError::not_persisted(SinkErrorKind::Closed, why),
            None => stopped(),
        }
    }
}

/// The error if the threads have ended or write nothing more.
pub(super) fn stopped() -> SinkError {
    let message = "the journal has stopped: restart the process";
    SinkError::not_persisted(SinkErrorKind::Closed, message)
}

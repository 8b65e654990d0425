//! Results that are inaccessible until their logs are durable.

use std::fmt;
use std::sync::Arc;

use crate::error::Refusal;
use crate::sealed_logs::SealedLogs;

/// A result whose audit logs are not durable yet. The only access to the value is a release, which
/// makes them durable for a request.
///
/// A cache holds these instead of bare values, so that every release is logged, cache hits
/// included. Cloning shares the logs and clones the value: wrap a large one in an [`Arc`] before
/// sealing it.
///
/// Failures are results too: seal the `Result`, and an error's logs are released like those of a
/// value.
#[must_use = "the value and its logs are lost unless it is released"]
pub struct Audited<T> {
    value: Result<T, Refusal>,
    logs: Option<Arc<SealedLogs>>,
}

impl<T> Audited<T> {
    pub(crate) fn new(value: Result<T, Refusal>, logs: Option<Arc<SealedLogs>>) -> Audited<T> {
        Audited { value, logs }
    }

    /// Takes the value apart from its logs, for `ordering.rs`.
    pub(crate) fn into_parts(self) -> (Result<T, Refusal>, Option<Arc<SealedLogs>>) {
        (self.value, self.logs)
    }

    /// An upper estimate of the memory that the logs take, in bytes, for a cache with a memory
    /// limit. The value is not counted.
    pub fn held_bytes(&self) -> usize {
        self.logs.as_ref().map_or(0, |logs| logs.held_bytes())
    }

    /// The logs, for `ordering.rs`.
    pub(crate) fn logs(&self) -> Option<&SealedLogs> {
        self.logs.as_deref()
    }

    /// The value without its logs, for `ordering.rs`.
    pub(crate) fn value(&self) -> Result<&T, Refusal> {
        self.value.as_ref().map_err(Clone::clone)
    }
}

impl<T: Clone> Clone for Audited<T> {
    fn clone(&self) -> Audited<T> {
        Audited { value: self.value.clone(), logs: self.logs.clone() }
    }
}

/// Shows the number of logs and not the value.
impl<T> fmt::Debug for Audited<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audited")
            .field("logs", &self.logs.as_ref().map_or(0, |logs| logs.count()))
            .finish_non_exhaustive()
    }
}

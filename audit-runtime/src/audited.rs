//! Results that cannot be reached before their logs are durable.

use std::fmt;
use std::sync::Arc;

use crate::error::Refusal;
use crate::sealed_logs::SealedLogs;
use crate::{ReleaseError, RequestContext, ordering};

/// A result whose audit logs are not durable yet: the only way to the value is to make them so, for
/// a request.
///
/// A cache holds these and not bare values, so that every hand-out is logged, cache hits included.
/// Cloning shares the logs and clones the value: wrap a large one in an [`Arc`] before sealing it.
///
/// Failures are results too: seal the `Result`, and an error's logs are released like those of a
/// value.
#[must_use = "the value and its logs reach nobody until it is released"]
pub struct Audited<T> {
    value: Result<T, Refusal>,
    logs: Option<Arc<SealedLogs>>,
}

impl<T> Audited<T> {
    pub(crate) fn new(value: Result<T, Refusal>, logs: Option<Arc<SealedLogs>>) -> Audited<T> {
        Audited { value, logs }
    }

    /// Makes the logs durable, resolved for this request, then hands out the value.
    ///
    /// The first release carries the moment when the function ran as `now`; each later one is a
    /// replay and carries the moment of the replay.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::NotDurable`]: nothing was handed out. Its source says whether the logs may
    /// have reached the sink nevertheless: releasing again may log this hand-out twice.
    /// [`ReleaseError::Limit`] and [`ReleaseError::Body`]: the function itself failed; its logs are
    /// durable.
    ///
    /// # Cancellation
    ///
    /// Dropping the future hands out nothing. Logs that were on their way to the sink stay on their
    /// way.
    ///
    /// # Panics
    ///
    /// If `request` carries a value for a variable that was registered with another runtime.
    pub async fn release(&self, request: &RequestContext) -> Result<&T, ReleaseError> {
        ordering::release(self.value(), self.logs.as_deref(), std::slice::from_ref(request)).await
    }

    /// As [`release`](Self::release), for the one who owns it.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    pub async fn release_into(self, request: &RequestContext) -> Result<T, ReleaseError> {
        let Audited { value, logs } = self;
        ordering::release(value, logs.as_deref(), std::slice::from_ref(request)).await
    }

    /// As [`release`](Self::release) for many requests at once, say the subscribers of a query: one
    /// set of logs for each, made durable together. The value may then be handed to all of them;
    /// there is none to hand to nobody, so without requests this is `None`.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release). After an error the logs of some requests may be durable; the
    /// value belongs to none of them.
    pub async fn release_all(
        &self,
        requests: &[RequestContext],
    ) -> Result<Option<&T>, ReleaseError> {
        if requests.is_empty() {
            return Ok(None);
        }
        ordering::release(self.value(), self.logs.as_deref(), requests).await.map(Some)
    }

    /// Takes the value apart from its logs. For the one place that then orders what becomes of
    /// both.
    pub(crate) fn into_parts(self) -> (Result<T, Refusal>, Option<Arc<SealedLogs>>) {
        (self.value, self.logs)
    }

    /// How much memory the logs take, in bytes, and rather more than less: for a cache that bounds
    /// what it holds. The value does not count.
    pub fn held_bytes(&self) -> usize {
        self.logs.as_ref().map_or(0, |logs| logs.held_bytes())
    }

    fn value(&self) -> Result<&T, Refusal> {
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

//! Results that cannot be reached before their logs are durable.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit_core::{BatchBuilder, Buffer, BufferPool, MAX_ADDED_BYTES, Usage};
use audit_vars::{Now, Template};

use crate::error::Refusal;
use crate::provenance::{Identity, Origin, Provenance};
use crate::{AuditRuntime, ReleaseError, RequestContext, ordering};

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
    pub(crate) fn without_logs(value: Result<T, Refusal>) -> Audited<T> {
        Audited { value, logs: None }
    }

    pub(crate) fn with_logs(value: Result<T, Refusal>, logs: SealedLogs) -> Audited<T> {
        Audited { value, logs: Some(Arc::new(logs)) }
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
        self.make_durable(request).await?;
        self.value()
    }

    /// As [`release`](Self::release), for the one who owns it.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    pub async fn release_into(self, request: &RequestContext) -> Result<T, ReleaseError> {
        self.make_durable(request).await?;
        Ok(self.value?)
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
        if let Some(logs) = &self.logs {
            ordering::make_durable(logs.runtime(), logs.batches(requests)).await?;
        }
        self.value().map(Some)
    }

    pub(crate) async fn make_durable(&self, request: &RequestContext) -> Result<(), ReleaseError> {
        let Some(logs) = &self.logs else { return Ok(()) };
        ordering::make_durable(logs.runtime(), logs.batches(std::slice::from_ref(request))).await
    }

    /// Takes the value apart from its logs. For the one place that then orders their persisting
    /// itself.
    pub(crate) fn into_parts(self) -> (Result<T, Refusal>, Audited<()>) {
        let Audited { value, logs } = self;
        (value, Audited { value: Ok(()), logs })
    }

    /// The same logs, and whether the function failed for a log that was refused.
    pub(crate) fn without_value(&self) -> Audited<()> {
        let value = self.value.as_ref().map(|_| ()).map_err(Clone::clone);
        Audited { value, logs: self.logs.clone() }
    }

    /// How much memory the logs take, in bytes, and rather more than less: for a cache that bounds
    /// what it holds. The value does not count.
    pub fn held_bytes(&self) -> usize {
        self.logs.as_ref().map_or(0, |logs| {
            size_of::<SealedLogs>()
                + logs.bound_bytes
                + logs.emissions.len() * size_of::<Emission>()
        })
    }

    pub(crate) fn log_count(&self) -> usize {
        self.logs.as_ref().map_or(0, |logs| logs.emissions.len())
    }

    fn value(&self) -> Result<&T, ReleaseError> {
        self.value.as_ref().map_err(|refusal| refusal.clone().into())
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
        f.debug_struct("Audited").field("logs", &self.log_count()).finish_non_exhaustive()
    }
}

/// One log as it was emitted.
pub(crate) struct Emission {
    pub(crate) template: Template,
    /// Which function: 0 is the one that was called, others were called by it.
    pub(crate) origin: usize,
}

/// The logs of one sealed execution.
pub(crate) struct SealedLogs {
    runtime: AuditRuntime,
    emissions: Vec<Emission>,
    provenance: Option<Provenance>,
    now_ms: i64,
    /// Whether a first release was begun. From then on every release is a replay, also if that one
    /// failed: it may have been persisted all the same.
    released: AtomicBool,
    /// The most bytes that the records for one request can have, line feeds and provenance
    /// included.
    bound_bytes: usize,
}

/// Logs of many requests are handed to the sink in batches of about this size, so that memory stays
/// bounded however many requests there are, and is used again while it is still in the processor's
/// cache.
const BATCH_BYTES: usize = 1 << 20;

/// The memory of such batches, which releases to many requests use again.
pub(crate) fn batch_buffers() -> BufferPool {
    BufferPool::new(BATCH_BYTES + Template::SPARE_BYTES, ordering::BATCHES_AT_ONCE)
}

impl SealedLogs {
    pub(crate) fn new(
        runtime: AuditRuntime,
        emissions: Vec<Emission>,
        origins: Vec<Origin>,
        identity: Identity,
        now_ms: i64,
    ) -> SealedLogs {
        let provenance = runtime.has_provenance().then(|| {
            let id = identity.execution.unwrap_or_else(|| runtime.new_id());
            Provenance::new(id, identity.attempt, &origins)
        });
        let added = if provenance.is_some() { MAX_ADDED_BYTES } else { 1 };
        let bound_bytes = emissions.iter().map(|e| e.template.bound_bytes() as usize + added).sum();
        SealedLogs {
            runtime,
            emissions,
            provenance,
            now_ms,
            released: AtomicBool::new(false),
            bound_bytes,
        }
    }

    fn runtime(&self) -> &AuditRuntime {
        &self.runtime
    }

    /// The records of a release to these requests, rendered as they are asked for.
    fn batches<'a>(
        &'a self,
        requests: &'a [RequestContext],
    ) -> impl Iterator<Item = ordering::Rendered> + 'a {
        let mut requests = requests.iter().peekable();
        // Without a request nothing is released, so the first release is still to come.
        let mut replay = requests.peek().is_none() || self.released.swap(true, Ordering::Relaxed);
        let mut now = Now::at_ms(if replay { self.runtime.clock().now_ms() } else { self.now_ms });
        std::iter::from_fn(move || {
            requests.peek()?;
            let room = self
                .bound_bytes
                .saturating_mul(requests.len())
                .min(BATCH_BYTES.max(self.bound_bytes));
            let mut builder = BatchBuilder::in_buffer(if room == BATCH_BYTES {
                self.runtime.batch_buffers().take()
            } else {
                Buffer::with_capacity(room + Template::SPARE_BYTES)
            });
            let mut usage = Usage::default();
            let first_now = now;
            while builder.is_empty() || builder.len() + self.bound_bytes <= BATCH_BYTES {
                let Some(request) = requests.next() else { break };
                usage += self.render(request, &now, replay, &mut builder);
                if !replay {
                    // The first hand-out carries the time of the execution, all others that of the
                    // replay.
                    replay = true;
                    now = Now::at_ms(self.runtime.clock().now_ms());
                }
            }
            let batch = builder.build(first_now.ms())?;
            Some(ordering::Rendered { batch, usage })
        })
    }

    fn render(
        &self,
        request: &RequestContext,
        now: &Now,
        replay: bool,
        builder: &mut BatchBuilder,
    ) -> Usage {
        let values = request.values(self.runtime.vars(), now);
        let mut usage = Usage::default();
        for Emission { template, origin } in &self.emissions {
            builder.record(|record| {
                let start = record.len();
                template.render(&values, record);
                usage += Usage::of_log(record.len() - start);
                if let Some(provenance) = &self.provenance {
                    provenance.append(record, start, *origin, replay);
                }
            });
        }
        usage
    }
}

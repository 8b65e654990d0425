//! The logs of one sealed execution, and how they become records for a sink.

use std::sync::atomic::{AtomicBool, Ordering};

use audit_core::{Batch, BatchBuilder, Buffer, BufferPool, MAX_ADDED_BYTES, Usage};
use audit_vars::{Now, Template};

use crate::context::Context;
use crate::error::Refusal;
use crate::provenance::{Identity, Origin, Provenance, RefusalRecord};
use crate::request::RequestContext;

pub(crate) struct Emission {
    pub(crate) template: Template,
    /// The index of the function that emitted it: 0 is the one that was called.
    pub(crate) origin: usize,
}

pub(crate) struct SealedLogs {
    context: Context,
    emissions: Vec<Emission>,
    /// The record that takes the place of the logs if the function's first log was refused.
    refusal: Option<RefusalRecord>,
    provenance: Option<Provenance>,
    identity: Identity,
    /// Whether an `Ending` has claimed the attempt.
    has_end: AtomicBool,
    now_ms: i64,
    /// Whether a first release was begun. From then on every release is a replay, even if the first
    /// one failed: it may have been persisted anyway.
    released: AtomicBool,
    /// The largest total size of the records for one request, in bytes, with line feeds and
    /// provenance.
    bound_bytes: usize,
    /// Whether a release succeeded.
    durable: AtomicBool,
}

/// Records ready for the sink, and their usage.
pub(crate) struct Rendered {
    pub(crate) batch: Batch,
    pub(crate) usage: Usage,
}

/// How many batches of one release are persisted at once, at most. It bounds the memory of a
/// release to many requests.
pub(crate) const BATCHES_AT_ONCE: usize = 8;

/// The approximate size of a batch in a release to many requests, in bytes: memory stays bounded
/// for any number of requests, and is reused while it is still in the processor's cache.
const BATCH_BYTES: usize = 1 << 20;

/// A pool of buffers for batches of [`BATCH_BYTES`].
pub(crate) fn batch_buffers() -> BufferPool {
    BufferPool::new(BATCH_BYTES + Template::SPARE_BYTES, BATCHES_AT_ONCE)
}

impl SealedLogs {
    /// The logs of an execution. `origins` are the functions that emitted them; `refused` is the
    /// first refusal and the function whose log it was.
    pub(crate) fn new(
        context: Context,
        emissions: Vec<Emission>,
        origins: &[Origin],
        refused: Option<(&Refusal, &Origin)>,
        identity: Identity,
        now_ms: i64,
    ) -> SealedLogs {
        let provenance = context.has_provenance().then(|| Provenance::new(identity, origins));
        let refusal = refused.filter(|_| emissions.is_empty()).map(|(refusal, origin)| {
            RefusalRecord::new(origin, &refusal.to_string(), provenance.as_ref())
        });
        let added = if provenance.is_some() { MAX_ADDED_BYTES } else { 1 };
        let emitted: usize =
            emissions.iter().map(|e| e.template.bound_bytes() as usize + added).sum();
        let bound_bytes = emitted + refusal.as_ref().map_or(0, RefusalRecord::bound_bytes);
        SealedLogs {
            context,
            emissions,
            refusal,
            provenance,
            identity,
            has_end: AtomicBool::new(false),
            now_ms,
            released: AtomicBool::new(false),
            bound_bytes,
            durable: AtomicBool::new(false),
        }
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// The execution that emitted them, and the attempt at it.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Claims the end of the attempt. True for the first caller, which then ends it. Relaxed, since
    /// it publishes no other data.
    pub(crate) fn claim_end(&self) -> bool {
        !self.has_end.swap(true, Ordering::Relaxed)
    }

    /// Undoes [`claim_end`](Self::claim_end).
    pub(crate) fn unclaim_end(&self) {
        self.has_end.store(false, Ordering::Relaxed);
    }

    /// Whether a release was begun, so that the sink may have the logs.
    pub(crate) fn were_released(&self) -> bool {
        self.released.load(Ordering::Relaxed)
    }

    /// The number of records of a release to one request.
    pub(crate) fn count(&self) -> usize {
        self.emissions.len() + usize::from(self.refusal.is_some())
    }

    /// An upper estimate of the memory that the logs take, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        size_of::<SealedLogs>() + self.bound_bytes + self.emissions.len() * size_of::<Emission>()
    }

    /// Whether a release succeeded.
    pub(crate) fn are_durable(&self) -> bool {
        self.durable.load(Ordering::Relaxed)
    }

    pub(crate) fn set_durable(&self) {
        self.durable.store(true, Ordering::Relaxed);
    }

    /// The records of a release to these requests, rendered lazily.
    pub(crate) fn batches<'a>(
        &'a self,
        requests: &'a [RequestContext],
    ) -> impl Iterator<Item = Rendered> + 'a {
        let mut requests = requests.iter().peekable();
        // Without requests nothing is released, so this does not count as the first release.
        let mut replay = requests.peek().is_none() || self.released.swap(true, Ordering::Relaxed);
        let mut now = Now::at_ms(if replay { self.context.clock().now_ms() } else { self.now_ms });
        std::iter::from_fn(move || {
            requests.peek()?;
            let room = self
                .bound_bytes
                .saturating_mul(requests.len())
                .min(BATCH_BYTES.max(self.bound_bytes));
            let mut builder = BatchBuilder::in_buffer(if room == BATCH_BYTES {
                self.context.batch_buffers().take()
            } else {
                Buffer::with_capacity(room + Template::SPARE_BYTES)
            });
            let mut usage = Usage::default();
            let first_now = now;
            while builder.is_empty() || builder.len() + self.bound_bytes <= BATCH_BYTES {
                let Some(request) = requests.next() else { break };
                usage += self.render(request, &now, replay, &mut builder);
                if !replay {
                    // The first release has the time of the execution, later ones that of the
                    // replay.
                    replay = true;
                    now = Now::at_ms(self.context.clock().now_ms());
                }
            }
            let batch = builder.build(first_now.ms())?;
            Some(Rendered { batch, usage })
        })
    }

    fn render(
        &self,
        request: &RequestContext,
        now: &Now,
        replay: bool,
        builder: &mut BatchBuilder,
    ) -> Usage {
        let values = request.values(self.context.vars(), now);
        let mut usage = Usage::default();
        if let Some(refusal) = &self.refusal {
            builder.record(|record| refusal.append(record, now, replay));
        }
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

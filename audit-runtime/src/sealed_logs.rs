//! The logs of one sealed execution.

use std::sync::atomic::{AtomicBool, Ordering};

use audit_core::MAX_ADDED_BYTES;

use crate::context::Context;
use crate::emitted::Emission;
use crate::error::Refusal;
use crate::provenance::{Identity, Origin, Provenance, RefusalRecord};

pub(crate) struct SealedLogs {
    context: Context,
    pub(crate) emissions: Vec<Emission>,
    /// The record that takes the place of the logs if the function's first log was refused.
    pub(crate) refusal: Option<RefusalRecord>,
    pub(crate) provenance: Option<Provenance>,
    identity: Identity,
    /// Whether an `Ending` has claimed the attempt.
    has_end: AtomicBool,
    /// When the function ran, in milliseconds since the Unix epoch.
    pub(crate) now_ms: i64,
    /// Whether a first release was begun. From then on every release is a replay, even if the first
    /// one failed: it may have been persisted anyway.
    released: AtomicBool,
    /// The largest total size of the records for one request, in bytes, with line feeds and
    /// provenance.
    pub(crate) bound_bytes: usize,
    /// Whether a release succeeded.
    durable: AtomicBool,
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

    /// Begins a release. True for the first one.
    pub(crate) fn begin_release(&self) -> bool {
        !self.released.swap(true, Ordering::Relaxed)
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
}

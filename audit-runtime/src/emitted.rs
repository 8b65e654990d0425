//! What a running function has emitted so far.

use audit_core::{Budget, Limits};
use audit_vars::Template;

use crate::error::{AuditError, Refusal};
use crate::metrics::Metrics;
use crate::provenance::Origin;

/// A log as it was emitted, to be rendered for each release.
pub(crate) struct Emission {
    pub(crate) template: Template,
    /// The index of the function that emitted it: 0 is the one that was called.
    pub(crate) origin: usize,
}

/// The logs of a function and everything that it calls, before they are sealed.
pub(crate) struct Emitted {
    budget: Budget,
    /// The first refusal, and the function whose log it was. The execution has then failed for
    /// good.
    refused: Option<Box<(Refusal, Origin)>>,
    emissions: Vec<Emission>,
    /// The nested functions that emitted something.
    nested: Vec<Origin>,
}

impl Emitted {
    pub(crate) fn new(limits: Limits) -> Emitted {
        let budget = Budget::new(limits);
        Emitted { budget, refused: None, emissions: Vec::new(), nested: Vec::new() }
    }

    #[inline]
    pub(crate) fn check_unrefused(&self) -> Result<(), AuditError> {
        match self.refused.as_deref() {
            Some((refusal, _)) => Err(refusal.clone().into()),
            None => Ok(()),
        }
    }

    /// The first refusal, and the function whose log it was.
    pub(crate) fn refused(&self) -> Option<(&Refusal, &Origin)> {
        self.refused.as_deref().map(|(refusal, origin)| (refusal, origin))
    }

    /// Adds a log, which is charged at its largest size. `origin` is the nested function that
    /// emitted it, `None` for the one that was called.
    #[inline]
    pub(crate) fn push(
        &mut self,
        template: Template,
        origin: Option<&Origin>,
    ) -> Result<(), Refusal> {
        self.budget.charge(template.bound_bytes().into()).map_err(Refusal::Limit)?;
        let origin = origin.map_or(0, |origin| {
            // Number 0 is the function itself.
            let known = self.nested.iter().position(|nested| nested == origin);
            1 + known.unwrap_or_else(|| {
                self.nested.push(origin.clone());
                self.nested.len() - 1
            })
        });
        self.emissions.push(Emission { template, origin });
        Ok(())
    }

    /// Records the first refusal. The actual size goes only to the operator's log: a client could
    /// infer from it the size of data it may not see.
    #[cold]
    pub(crate) fn refuse(&mut self, refusal: Refusal, origin: Origin, metrics: &Metrics) {
        metrics.refused(&refusal);
        let (function, kind) = (&origin.function, origin.kind);
        match &refusal {
            Refusal::Limit(exceeded) => {
                let (actual, max) = (exceeded.actual(), exceeded.max());
                tracing::info!(%function, %kind, %refusal, actual, max, "an audit log was refused");
            }
            Refusal::Body(error) => {
                let problem = error.problem();
                tracing::info!(%function, %kind, %refusal, ?problem, "an audit log was refused");
            }
        }
        self.refused = Some(Box::new((refusal, origin)));
    }

    /// The number of emitted logs.
    pub(crate) fn logs(&self) -> usize {
        self.emissions.len()
    }

    /// The number of records that they become: a function whose first log was refused leaves one.
    pub(crate) fn records(&self) -> usize {
        self.logs().max(usize::from(self.refused.is_some()))
    }

    /// Takes the logs and the nested functions that emitted them. A refusal stays.
    pub(crate) fn take(&mut self) -> (Vec<Emission>, Vec<Origin>) {
        (std::mem::take(&mut self.emissions), std::mem::take(&mut self.nested))
    }
}

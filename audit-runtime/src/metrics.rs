//! What a runtime counts, through the `metrics` facade.

use audit_core::Outcome;
use metrics::{Counter, counter, describe_counter};

use crate::error::Refusal;

/// The handles of one runtime. They go to the recorder that is installed when it is built.
pub(crate) struct Metrics {
    refused_for_a_body: Counter,
    refused_for_a_limit: Counter,
    refused_for_durability: Counter,
    not_persisted: Counter,
    indeterminate: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        describe_counter!(
            "audit_functions_refused_total",
            "Functions that failed for their audit logs, by reason: body (an invalid body), limit (too many or too large), not_durable (each release that failed)"
        );
        describe_counter!(
            "audit_persists_failed_total",
            "Releases whose logs the sink did not make durable, by outcome: not_persisted, indeterminate (they may be durable all the same)"
        );
        let refused = |reason| counter!("audit_functions_refused_total", "reason" => reason);
        let failed = |outcome| counter!("audit_persists_failed_total", "outcome" => outcome);
        Metrics {
            refused_for_a_body: refused("body"),
            refused_for_a_limit: refused("limit"),
            refused_for_durability: refused("not_durable"),
            not_persisted: failed("not_persisted"),
            indeterminate: failed("indeterminate"),
        }
    }

    /// A function has failed for a log that was refused.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Body(_) => self.refused_for_a_body.increment(1),
            Refusal::Limit(_) => self.refused_for_a_limit.increment(1),
        }
    }

    /// The logs of a release did not become durable.
    pub(crate) fn not_durable(&self, outcome: Outcome) {
        self.refused_for_durability.increment(1);
        match outcome {
            Outcome::NotPersisted => self.not_persisted.increment(1),
            Outcome::Indeterminate => self.indeterminate.increment(1),
        }
    }
}

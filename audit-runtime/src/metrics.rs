//! The counters of a runtime, through the `metrics` facade.

use audit_core::Outcome;
use metrics::{Counter, counter, describe_counter};

use crate::error::Refusal;

/// Why an outcome may not reach the bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    Full,
    Closed,
    /// The sink may have the outcome, so it is not retried: it could be stored twice.
    Indeterminate,
}

/// The counters of one runtime, in the recorder that is installed when the runtime is built.
#[derive(Clone)]
pub(crate) struct Metrics {
    refused_for_a_body: Counter,
    refused_for_a_limit: Counter,
    refused_for_durability: Counter,
    not_persisted: Counter,
    indeterminate: Counter,
    outcomes_without_room: Counter,
    outcomes_after_close: Counter,
    outcomes_indeterminate: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        describe_counter!(
            "audit_functions_refused_total",
            "Functions that failed for their audit logs, by reason: body (an invalid body), limit (too many or too large), not_durable (each release that failed)"
        );
        describe_counter!(
            "audit_persists_failed_total",
            "Releases whose logs the sink did not make durable, by outcome: not_persisted, indeterminate (they may be durable anyway)"
        );
        describe_counter!(
            "audit_outcomes_lost_total",
            "Outcomes of mutations that may not reach the bucket, by reason: full (too many waited for the sink), closed (the sink was closed), indeterminate (the sink may have them)"
        );
        let lost = |reason| counter!("audit_outcomes_lost_total", "reason" => reason);
        let refused = |reason| counter!("audit_functions_refused_total", "reason" => reason);
        let failed = |outcome| counter!("audit_persists_failed_total", "outcome" => outcome);
        Metrics {
            refused_for_a_body: refused("body"),
            refused_for_a_limit: refused("limit"),
            refused_for_durability: refused("not_durable"),
            not_persisted: failed("not_persisted"),
            indeterminate: failed("indeterminate"),
            outcomes_without_room: lost("full"),
            outcomes_after_close: lost("closed"),
            outcomes_indeterminate: lost("indeterminate"),
        }
    }

    /// A function has failed because one of its logs was refused.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Body(_) => self.refused_for_a_body.increment(1),
            Refusal::Limit(_) => self.refused_for_a_limit.increment(1),
        }
    }

    /// `count` outcomes may be lost.
    pub(crate) fn outcomes_lost(&self, why: Loss, count: u64) {
        match why {
            Loss::Full => self.outcomes_without_room.increment(count),
            Loss::Closed => self.outcomes_after_close.increment(count),
            Loss::Indeterminate => self.outcomes_indeterminate.increment(count),
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

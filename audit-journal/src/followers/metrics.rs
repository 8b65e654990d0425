//! The metrics of a follower.

use ::metrics::{Gauge, Unit, describe_gauge, gauge};

use super::record::{FollowerRecord, FollowerState};

pub(super) struct Metrics {
    pub(super) lag_bytes: Gauge,
    limit_bytes: Gauge,
    paused: Gauge,
    missing: Gauge,
}

impl Metrics {
    pub(super) fn new(name: &str) -> Metrics {
        describe_gauge!(
            "audit_follower_lag_bytes",
            Unit::Bytes,
            "Bytes of the journal that a follower does not have"
        );
        describe_gauge!(
            "audit_follower_limit_bytes",
            Unit::Bytes,
            "The most of the journal that is kept for followers alone before this one is paused"
        );
        describe_gauge!(
            "audit_follower_paused",
            "1 if records leave the journal before a follower has them: alert on it"
        );
        describe_gauge!(
            "audit_follower_missing_records",
            "Records that left the journal before a follower had them, and are in the bucket alone"
        );
        let label = || [("bucket", name.to_owned())];
        Metrics {
            lag_bytes: gauge!("audit_follower_lag_bytes", &label()),
            limit_bytes: gauge!("audit_follower_limit_bytes", &label()),
            paused: gauge!("audit_follower_paused", &label()),
            missing: gauge!("audit_follower_missing_records", &label()),
        }
    }

    pub(super) fn limit(&self, bytes: u64) {
        self.limit_bytes.set(bytes as f64);
    }

    pub(super) fn note(&self, record: &FollowerRecord) {
        self.paused.set(f64::from(u8::from(record.state == FollowerState::Paused)));
        self.missing.set(record.missing_records() as f64);
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

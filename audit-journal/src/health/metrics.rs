//! The metrics of a sink, through the `metrics` facade. Each has the label `bucket`.

use std::fmt;
use std::time::Duration;

use ::metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge,
};
use ::metrics::{SharedString, histogram};

/// The metric handles of one sink, bound to the recorder that is installed when the sink is opened.
pub(super) struct Metrics {
    objects_delivered: Counter,
    records_delivered: Counter,
    retries: Counter,
    conflicts: Counter,
    panics: Counter,
    blocked: Gauge,
    commit_seconds: Histogram,
    group_batches: Histogram,
    group_bytes: Histogram,
    journal_bytes: Gauge,
    journal_limit: Gauge,
    oldest_undelivered: Gauge,
}

impl Metrics {
    pub(super) fn new(bucket: &str) -> Metrics {
        describe_counter!("audit_objects_delivered_total", "Objects delivered to the bucket");
        describe_counter!("audit_records_delivered_total", "Records delivered to the bucket");
        describe_counter!("audit_retries_total", "Retried requests to the bucket");
        describe_counter!(
            "audit_conflicts_total",
            "Objects whose key is taken by another object: alert on any"
        );
        describe_counter!(
            "audit_panics_total",
            "Panics of the sink's tasks and threads, and of the client of the bucket: alert on any"
        );
        describe_gauge!(
            "audit_blocked",
            "2 if delivery is blocked until an operator acts, 1 if requests are retried, else 0"
        );
        describe_histogram!(
            "audit_commit_seconds",
            Unit::Seconds,
            "Time to write and sync one group of the journal"
        );
        describe_histogram!("audit_group_batches", "Batches that one sync made durable");
        describe_histogram!("audit_group_bytes", Unit::Bytes, "Bytes that one sync made durable");
        describe_gauge!(
            "audit_journal_bytes",
            Unit::Bytes,
            "Disk space taken by the journal's segments, or by a route's undelivered records"
        );
        describe_gauge!(
            "audit_journal_limit_bytes",
            Unit::Bytes,
            "The most that audit_journal_bytes may be: functions fail once it is reached"
        );
        describe_gauge!(
            "audit_oldest_undelivered_timestamp_seconds",
            Unit::Seconds,
            "Unix time of the oldest record that is not yet in the bucket; 0 if there is none"
        );
        let bucket = SharedString::from(bucket.to_owned());
        let label = || [("bucket", bucket.clone())];
        Metrics {
            objects_delivered: counter!("audit_objects_delivered_total", &label()),
            records_delivered: counter!("audit_records_delivered_total", &label()),
            retries: counter!("audit_retries_total", &label()),
            conflicts: counter!("audit_conflicts_total", &label()),
            panics: counter!("audit_panics_total", &label()),
            blocked: gauge!("audit_blocked", &label()),
            commit_seconds: histogram!("audit_commit_seconds", &label()),
            group_batches: histogram!("audit_group_batches", &label()),
            group_bytes: histogram!("audit_group_bytes", &label()),
            journal_bytes: gauge!("audit_journal_bytes", &label()),
            journal_limit: gauge!("audit_journal_limit_bytes", &label()),
            oldest_undelivered: gauge!("audit_oldest_undelivered_timestamp_seconds", &label()),
        }
    }

    pub(super) fn delivered(&self, records: u64) {
        self.objects_delivered.increment(1);
        self.records_delivered.increment(records);
    }

    pub(super) fn retried(&self) {
        self.retries.increment(1);
    }

    pub(super) fn met_conflict(&self) {
        self.conflicts.increment(1);
    }

    pub(super) fn panicked(&self) {
        self.panics.increment(1);
    }

    /// 0: no trouble, 1: requests are retried, 2: blocked.
    pub(super) fn blocked(&self, level: u8) {
        self.blocked.set(level);
    }

    pub(super) fn committed(&self, took: Duration, batches: usize, bytes: u64) {
        self.commit_seconds.record(took);
        // The sizes are far below 2^53, so the conversion is exact.
        self.group_batches.record(batches as f64);
        self.group_bytes.record(bytes as f64);
    }

    pub(super) fn journal_bytes(&self, bytes: u64) {
        self.journal_bytes.set(bytes as f64);
    }

    pub(super) fn journal_limit(&self, bytes: u64) {
        self.journal_limit.set(bytes as f64);
    }

    pub(super) fn oldest_undelivered(&self, time_ms: Option<i64>) {
        self.oldest_undelivered.set(time_ms.map_or(0.0, |ms| ms as f64 / 1_000.0));
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

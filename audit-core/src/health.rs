//! How a sink is doing, for probes and for operators.

use std::fmt;

/// How a sink is doing, at one moment.
///
/// The default describes a sink with no known problem, and counters of zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether the sink can deliver.
    pub state: HealthState,
    /// Whether a batch persisted now can become durable.
    pub commits: Commits,
    /// Accepted batches whose outcome is still unknown.
    pub pending_batches: u64,
    /// The size of the lines of these batches in bytes, which the sink's settings limit.
    pub pending_bytes: u64,
    /// Objects delivered since the sink was opened.
    pub objects_delivered: u64,
    /// Records in the delivered objects.
    pub records_delivered: u64,
    /// Requests to the destination that were retried since the sink was opened.
    pub retries: u64,
    /// Objects that were not delivered because another object had their key.
    pub conflicts: u64,
    /// Panics of the sink's tasks and threads, and of the destination's client, since it was
    /// opened. The work in progress is retried, or the sink accepts nothing more: see
    /// [`commits`](Self::commits).
    pub panics: u64,
    /// Whether the destination refuses to overwrite objects. `None` if unknown.
    pub create_only: Option<bool>,
    /// Disk space taken by the journal's segments, in bytes. `None` without a journal.
    pub journal_bytes: Option<u64>,
    /// The time of the oldest undelivered record that delivery has read from the journal, in
    /// milliseconds since the Unix epoch. `None` if all are delivered.
    pub oldest_undelivered_ms: Option<i64>,
    /// The public key that verifies the sink's evidence. `None` if it writes none.
    pub verifier_key: Option<String>,
    /// The most recent problem, possibly resolved.
    pub last_error: Option<String>,
    /// The journal's followers, which get every record and delay no commit. Their problems appear
    /// in no other member.
    pub followers: Vec<FollowerHealth>,
    /// The witnesses that cosign the evidence, which delay nothing. Their problems appear in no
    /// other member.
    pub witnesses: Vec<WitnessHealth>,
}

/// The health of a witness, which cosigns the checkpoints of a sink's streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WitnessHealth {
    /// The name of its key.
    pub name: String,
    /// Whether it cosigns.
    pub state: HealthState,
    /// When it last cosigned a checkpoint, in milliseconds since the Unix epoch. `None` if it has
    /// not since the sink was opened.
    pub last_cosigned_ms: Option<i64>,
    /// Submissions that it did not cosign since the sink was opened.
    pub failures: u64,
    /// The most recent problem, possibly resolved.
    pub last_error: Option<String>,
}

/// The health of a follower: a further destination of a journal, which delays no commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FollowerHealth {
    /// Its name.
    pub name: String,
    /// Whether it accepts records.
    pub state: HealthState,
    /// Whether it lags so far behind that records are removed from the journal before it has them.
    pub is_paused: bool,
    /// The size of the part of the journal that it lacks, in bytes.
    pub lag_bytes: u64,
    /// The time of the oldest record that it lacks, as far as delivery has read, in milliseconds
    /// since the Unix epoch. `None` if it has all.
    pub oldest_undelivered_ms: Option<i64>,
    /// Records delivered to it since the sink was opened.
    pub records_delivered: u64,
    /// Requests to it that were retried since the sink was opened.
    pub retries: u64,
    /// Panics of its delivery since the sink was opened. The work in progress is retried.
    pub panics: u64,
    /// Records that were removed from the journal before it had them, since it was first opened.
    pub missing_records: u64,
    /// The most recent problem, possibly resolved.
    pub last_error: Option<String>,
}

/// Whether a sink can deliver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HealthState {
    /// There is no known problem.
    #[default]
    Ok,
    /// Requests are retried: the destination or the service that issues credentials is unreachable
    /// or overloaded, or its responses are lost. Recovers without an operator.
    Retrying {
        /// What failed, and why.
        reason: String,
    },
    /// The destination, the service that issues credentials, TLS or this host's disk refuses until
    /// an operator acts. Requests are retried slowly.
    Blocked {
        /// What refused, why, and what to do.
        reason: String,
    },
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HealthState::Ok => f.write_str("ok"),
            HealthState::Retrying { reason } => write!(f, "retrying: {reason}"),
            HealthState::Blocked { reason } => write!(f, "blocked: {reason}"),
        }
    }
}

/// Whether a batch persisted now can become durable, which is what a readiness probe asks. With a
/// journal this depends on the journal, which commits while the destination is unreachable; without
/// one, on the destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Commits {
    /// It can, as far as the sink knows.
    #[default]
    Accepted,
    /// Batches fail until the problem passes or an operator acts. The process then recovers by
    /// itself.
    Refused {
        /// What prevents it, and what to do.
        reason: String,
    },
    /// Batches fail until the process is restarted.
    Stopped {
        /// What happened.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;

    use super::*;
    use crate::{AuditSink, Batch, Observed, Receipt, SinkError, async_trait};

    #[derive(Debug)]
    struct Stopped;

    impl fmt::Display for Stopped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Stopped")
        }
    }

    #[async_trait]
    impl AuditSink for Stopped {
        async fn persist(&self, _: Batch) -> Result<Receipt, SinkError> {
            Err(SinkError::closed())
        }

        async fn flush(&self) -> Result<(), SinkError> {
            Ok(())
        }

        async fn close(&self) -> Result<(), SinkError> {
            Ok(())
        }

        fn health(&self) -> Health {
            Health { commits: Commits::Stopped { reason: "disk".to_owned() }, ..Health::default() }
        }

        fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
            Box::pin(std::future::ready("disk".to_owned()))
        }
    }

    #[tokio::test]
    async fn pointers_and_observers_forward_health() {
        let sinks: [Box<dyn AuditSink>; 3] = [
            Box::new(Stopped),
            Box::new(Arc::new(Stopped)),
            Box::new(Observed::new(Box::new(Stopped) as Box<dyn AuditSink>, |_, _| ())),
        ];
        for sink in sinks {
            assert_eq!(sink.health().commits, Commits::Stopped { reason: "disk".to_owned() });
            assert_eq!(sink.stopped().await, "disk");
        }
    }
}

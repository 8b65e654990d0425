//! Responses to liveness and readiness probes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit_core::{AuditSink, Commits, Health, HealthState};
use serde_json::{Value as Json, json};

/// A host's answers to probes. Cheap to clone.
///
/// - [Alive](Probe::live) until only a restart helps: for the supervisor that restarts the process.
/// - [Ready](Probe::ready) as long as calls can succeed: for the load balancer. With a journal it
///   does not depend on the bucket, and trouble with delivery is in the body only.
///
/// A [public answer](Answer::public) is for listeners that clients reach: it says whether the host
/// is ready, and not why.
#[derive(Clone)]
pub struct Probe {
    inner: Arc<Inner>,
}

struct Inner {
    sink: Option<Arc<dyn AuditSink>>,
    stopping: AtomicBool,
}

/// An answer to a probe: a status of HTTP and a body of JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Whether it is 200, and not 503.
    pub is_ok: bool,
    /// The details. They may name files and buckets, so they are for operators.
    pub body: Json,
}

impl Probe {
    /// The probe of a host with this sink, or without one.
    pub fn new(sink: Option<Arc<dyn AuditSink>>) -> Probe {
        Probe { inner: Arc::new(Inner { sink, stopping: AtomicBool::new(false) }) }
    }

    /// Makes the host not ready: it is stopping, and takes no new requests.
    pub fn stopping(&self) {
        self.inner.stopping.store(true, Ordering::Release);
    }

    /// Whether the process should go on: 503 once nothing but a restart helps.
    pub fn live(&self) -> Answer {
        live(self.health().as_ref())
    }

    /// Whether calls can succeed: 503 while none can.
    pub fn ready(&self) -> Answer {
        ready(self.health().as_ref(), self.inner.stopping.load(Ordering::Acquire))
    }

    /// As [`ready`](Self::ready), with all details of the sink.
    pub fn verbose(&self) -> Answer {
        let health = self.health();
        let mut answer = ready(health.as_ref(), self.inner.stopping.load(Ordering::Acquire));
        answer.body["sink"] = health.as_ref().map_or(Json::Null, details);
        answer
    }

    fn health(&self) -> Option<Health> {
        self.inner.sink.as_ref().map(|sink| sink.health())
    }
}

impl Answer {
    /// The status as HTTP has it.
    pub fn status(&self) -> u16 {
        if self.is_ok { 200 } else { 503 }
    }

    /// The answer without its reason.
    pub fn public(self) -> Answer {
        let message = if self.is_ok { "ok" } else { "unavailable" };
        Answer { is_ok: self.is_ok, body: json!({ "message": message }) }
    }
}

fn live(health: Option<&Health>) -> Answer {
    match health.map(|health| &health.commits) {
        Some(Commits::Stopped { reason }) => Answer::of(false, format!("restart it: {reason}")),
        Some(Commits::Accepted | Commits::Refused { .. }) | None => Answer::of(true, "ok"),
    }
}

fn ready(health: Option<&Health>, is_stopping: bool) -> Answer {
    if is_stopping {
        return Answer::of(false, "the host is stopping");
    }
    let Some(health) = health else { return Answer::of(true, "ok: no bucket") };
    match &health.commits {
        Commits::Accepted => {
            let mut answer = Answer::of(true, "ok");
            answer.body["delivery"] = health.state.to_string().into();
            answer
        }
        Commits::Refused { reason } => {
            Answer::of(false, format!("audit logs cannot be made durable: {reason}"))
        }
        Commits::Stopped { reason } => {
            Answer::of(false, format!("audit logs cannot be made durable, restart it: {reason}"))
        }
    }
}

impl Answer {
    fn of(is_ok: bool, message: impl Into<String>) -> Answer {
        Answer { is_ok, body: json!({ "message": message.into() }) }
    }
}

/// All numbers of a sink's health.
fn details(health: &Health) -> Json {
    let state = match health.state {
        HealthState::Ok => "ok",
        HealthState::Retrying { .. } => "retrying",
        HealthState::Blocked { .. } => "blocked",
    };
    let commits = match health.commits {
        Commits::Accepted => "accepted",
        Commits::Refused { .. } => "refused",
        Commits::Stopped { .. } => "stopped",
    };
    json!({
        "commits": commits,
        "delivery": state,
        "pendingBatches": health.pending_batches,
        "pendingBytes": health.pending_bytes,
        "objectsDelivered": health.objects_delivered,
        "recordsDelivered": health.records_delivered,
        "retries": health.retries,
        "conflicts": health.conflicts,
        "panics": health.panics,
        "createOnly": health.create_only,
        "journalBytes": health.journal_bytes,
        "oldestUndeliveredMs": health.oldest_undelivered_ms,
        "verifierKey": health.verifier_key,
        "lastError": health.last_error,
    })
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("sink", &self.inner.sink).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "s3://logs: /var/lib/journal";

    fn health(commits: Commits, state: HealthState) -> Health {
        Health { state, commits, last_error: Some(HERE.to_owned()), ..Health::default() }
    }

    #[test]
    fn readiness_follows_calls_and_liveness_follows_restarts() {
        let reason = || HERE.to_owned();
        let commits = [
            Commits::Accepted,
            Commits::Refused { reason: reason() },
            Commits::Stopped { reason: reason() },
        ];
        let states = [
            HealthState::Ok,
            HealthState::Retrying { reason: reason() },
            HealthState::Blocked { reason: reason() },
        ];
        for commits in commits {
            for state in &states {
                let health = health(commits.clone(), state.clone());
                let what = format!("{commits:?} {state:?}");
                let ready_now = ready(Some(&health), false);
                assert_eq!(ready_now.is_ok, commits == Commits::Accepted, "{what}");
                assert!(!ready(Some(&health), true).is_ok, "{what}");
                let live = live(Some(&health));
                assert_eq!(live.is_ok, !matches!(commits, Commits::Stopped { .. }), "{what}");
                let is_told = ready_now.body.to_string().contains(HERE);
                assert_eq!(is_told, !ready_now.is_ok || *state != HealthState::Ok, "{what}");
                for answer in [ready_now, live] {
                    let body = answer.public().body;
                    assert!(
                        body == json!({ "message": "ok" })
                            || body == json!({ "message": "unavailable" })
                    );
                }
            }
        }
        assert!(ready(None, false).is_ok && live(None).is_ok && !ready(None, true).is_ok);
        assert_eq!(details(&health(Commits::Accepted, HealthState::Ok))["lastError"], HERE);
    }
}

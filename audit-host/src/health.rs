//! Responses to liveness and readiness probes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit_core::{AuditSink, Commits, FollowerHealth, Health, HealthState, WitnessHealth};
use serde_json::{Value as Json, json};

use crate::OpenRoutes;

/// A host's answers to probes. Cheap to clone.
///
/// - [Live](Probe::live) until only a restart helps, for the supervisor that restarts the process.
/// - [Ready](Probe::ready) while calls can succeed, for the load balancer. With a journal this does
///   not depend on the bucket; trouble with delivery only appears in the body.
/// - Both also depend on a [further part](Probe::with_part) that calls need, such as a store.
///
/// A [public answer](Answer::public), for listeners that clients can reach, omits the reason.
/// Readiness does not depend on routes, since one tenant's bucket is not the others' trouble.
#[derive(Clone)]
pub struct Probe {
    sink: Option<Arc<dyn AuditSink>>,
    part: Option<Arc<Part>>,
    routes: OpenRoutes,
    stopping: Arc<AtomicBool>,
}

/// A part that calls need besides the sink.
struct Part {
    name: &'static str,
    commits: Box<dyn Fn() -> Commits + Send + Sync>,
}

/// An answer to a probe: an HTTP status and a JSON body.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Whether the status is 200 rather than 503.
    pub is_ok: bool,
    /// The details, which may name files and buckets, so they are only for operators.
    pub body: Json,
}

impl Probe {
    /// Creates the probe of a host with this sink, or without one.
    pub fn new(sink: Option<Arc<dyn AuditSink>>) -> Probe {
        Probe { sink, part: None, routes: OpenRoutes::default(), stopping: Arc::default() }
    }

    /// Creates a probe that also depends on another part. `name` is its name in answers; `commits`
    /// is called for each answer and returns whether the part accepts changes.
    pub fn with_part(
        sink: Option<Arc<dyn AuditSink>>,
        name: &'static str,
        commits: impl Fn() -> Commits + Send + Sync + 'static,
    ) -> Probe {
        let part = Some(Arc::new(Part { name, commits: Box::new(commits) }));
        Probe { part, ..Probe::new(sink) }
    }

    /// Adds routes. The details of those that are open, and of those that are leaving, are in
    /// verbose answers.
    #[must_use]
    pub fn with_routes(self, routes: OpenRoutes) -> Probe {
        Probe { routes, ..self }
    }

    /// Marks the host as stopping, and therefore not ready.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the process should keep running: 503 once only a restart helps.
    pub fn live(&self) -> Answer {
        live(self.health().as_ref(), self.part())
    }

    /// Whether calls can succeed: 503 if none can.
    pub fn ready(&self) -> Answer {
        self.ready_with(self.health().as_ref())
    }

    /// Like [`ready`](Self::ready), with all details of the sink.
    pub fn verbose(&self) -> Answer {
        let health = self.health();
        let mut answer = self.ready_with(health.as_ref());
        answer.body["sink"] = health.as_ref().map_or(Json::Null, details);
        let of_each =
            |(name, route): (String, Arc<dyn AuditSink>)| (name, details(&route.health()));
        for (member, routes) in
            [("routes", self.routes.sinks()), ("leavingRoutes", self.routes.leaving())]
        {
            if !routes.is_empty() {
                answer.body[member] = Json::Object(routes.into_iter().map(of_each).collect());
            }
        }
        if let Some((name, commits)) = self.part() {
            answer.body[name] = word(&commits).into();
        }
        answer
    }

    fn ready_with(&self, health: Option<&Health>) -> Answer {
        ready(health, self.part(), self.stopping.load(Ordering::Acquire))
    }

    fn part(&self) -> Option<(&'static str, Commits)> {
        self.part.as_ref().map(|part| (part.name, (part.commits)()))
    }

    fn health(&self) -> Option<Health> {
        self.sink.as_ref().map(|sink| sink.health())
    }
}

impl Answer {
    /// The HTTP status code.
    pub fn status(&self) -> u16 {
        if self.is_ok { 200 } else { 503 }
    }

    /// The answer without its reason.
    pub fn public(self) -> Answer {
        let message = if self.is_ok { "ok" } else { "unavailable" };
        Answer { is_ok: self.is_ok, body: json!({ "message": message }) }
    }
}

fn live(health: Option<&Health>, part: Option<(&str, Commits)>) -> Answer {
    let commits = health.map(|health| health.commits.clone());
    for commits in commits.into_iter().chain(part.map(|(_, commits)| commits)) {
        match commits {
            Commits::Stopped { reason } => {
                return Answer::of(false, format!("restart it: {reason}"));
            }
            Commits::Accepted | Commits::Refused { .. } => {}
        }
    }
    Answer::of(true, "ok")
}

fn ready(health: Option<&Health>, part: Option<(&str, Commits)>, is_stopping: bool) -> Answer {
    if is_stopping {
        return Answer::of(false, "the host is stopping");
    }
    let logs = health
        .map(|health| ("audit logs cannot be made durable".to_owned(), health.commits.clone()));
    let part = part.map(|(name, commits)| (format!("the {name} takes no changes"), commits));
    for (what, commits) in logs.into_iter().chain(part) {
        match commits {
            Commits::Accepted => {}
            Commits::Refused { reason } => return Answer::of(false, format!("{what}: {reason}")),
            Commits::Stopped { reason } => {
                return Answer::of(false, format!("{what}, restart it: {reason}"));
            }
        }
    }
    let Some(health) = health else { return Answer::of(true, "ok: no bucket") };
    let mut answer = Answer::of(true, "ok");
    answer.body["delivery"] = health.state.to_string().into();
    answer
}

impl Answer {
    fn of(is_ok: bool, message: impl Into<String>) -> Answer {
        Answer { is_ok, body: json!({ "message": message.into() }) }
    }
}

fn state(state: &HealthState) -> &'static str {
    match state {
        HealthState::Ok => "ok",
        HealthState::Retrying { .. } => "retrying",
        HealthState::Blocked { .. } => "blocked",
    }
}

fn follower(follower: &FollowerHealth) -> Json {
    json!({
        "name": follower.name,
        "delivery": state(&follower.state),
        "paused": follower.is_paused,
        "lagBytes": follower.lag_bytes,
        "oldestUndeliveredMs": follower.oldest_undelivered_ms,
        "recordsDelivered": follower.records_delivered,
        "retries": follower.retries,
        "panics": follower.panics,
        "missingRecords": follower.missing_records,
        "lastError": follower.last_error,
    })
}

fn witness(witness: &WitnessHealth) -> Json {
    json!({
        "name": witness.name,
        "submission": state(&witness.state),
        "lastCosignedMs": witness.last_cosigned_ms,
        "failures": witness.failures,
        "lastError": witness.last_error,
    })
}

fn details(health: &Health) -> Json {
    json!({
        "commits": word(&health.commits),
        "delivery": state(&health.state),
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
        "followers": health.followers.iter().map(follower).collect::<Vec<_>>(),
        "witnesses": health.witnesses.iter().map(witness).collect::<Vec<_>>(),
    })
}

fn word(commits: &Commits) -> &'static str {
    match commits {
        Commits::Accepted => "accepted",
        Commits::Refused { .. } => "refused",
        Commits::Stopped { .. } => "stopped",
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("sink", &self.sink).finish_non_exhaustive()
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
                let ready_now = ready(Some(&health), None, false);
                assert_eq!(ready_now.is_ok, commits == Commits::Accepted, "{what}");
                assert!(!ready(Some(&health), None, true).is_ok, "{what}");
                let live = live(Some(&health), None);
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
        assert!(ready(None, None, false).is_ok && live(None, None).is_ok);
        assert!(!ready(None, None, true).is_ok);
        assert_eq!(details(&health(Commits::Accepted, HealthState::Ok))["lastError"], HERE);
    }
    #[test]
    fn a_part_that_refuses_changes_makes_the_host_unready() {
        let of = |commits: Commits| Some(("store", commits));
        let fine = health(Commits::Accepted, HealthState::Ok);
        for health in [None, Some(&fine)] {
            assert!(ready(health, of(Commits::Accepted), false).is_ok);
            let refused = || of(Commits::Refused { reason: HERE.to_owned() });
            let answer = ready(health, refused(), false);
            let message = format!("the store takes no changes: {HERE}");
            assert_eq!((answer.is_ok, &answer.body["message"]), (false, &json!(message)));
            assert!(live(health, refused()).is_ok);
            let stopped = || of(Commits::Stopped { reason: HERE.to_owned() });
            assert!(!ready(health, stopped(), false).is_ok && !live(health, stopped()).is_ok);
        }
        let part = || Commits::Refused { reason: HERE.to_owned() };
        let answer = Probe::with_part(None, "store", part).verbose();
        assert_eq!((answer.is_ok, &answer.body["store"]), (false, &json!("refused")));
    }
}

//! Scheduled functions and crons, which are documents of the system tables `_scheduled_functions`
//! and `_cron_jobs`.
//!
//! A mutation and the record that it ran commit in one transaction, so it takes effect exactly once
//! despite crashes. An action is recorded as begun before it begins, so it runs at most once: its
//! external effects cannot be undone.

use audit_runtime::FunctionKind;
use functions_store::{StoreError, Tx};
use functions_value::{ComponentPath, Value, patch_from_json};
use serde_json::{Value as Json, json};

use super::reference::{Named, full_name};

/// The table of scheduled functions. Functions may read it.
pub(super) const SCHEDULED: &str = "_scheduled_functions";
/// The table of crons, with the time at which each is due next.
pub(super) const CRONS: &str = "_cron_jobs";

/// A scheduled call of a function.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) component: ComponentPath,
    pub(super) function: String,
    pub(super) args: Json,
    /// When it is due, in milliseconds since the Unix epoch.
    pub(super) at_ms: f64,
}

/// How far from now a function can be scheduled, in milliseconds: five years ahead or in the past,
/// as on Convex. A time in the past means immediately. One further back is a mistake, such as a
/// time in seconds.
const MAX_DISTANCE_MS: f64 = 5.0 * 365.0 * 24.0 * 3_600.0 * 1_000.0;

impl Job {
    /// Parses the arguments of `1.0/schedule`: `{ts, args}`, with `ts` in seconds since the Unix
    /// epoch.
    pub(super) fn from_json(
        (target, kind): (Named, Option<FunctionKind>),
        request: &Json,
        now_ms: i64,
    ) -> Result<Job, String> {
        match kind {
            Some(FunctionKind::Mutation | FunctionKind::Action) | None => {}
            Some(FunctionKind::Query) => {
                return Err(format!(
                    "{} is a query: only mutations and actions can be scheduled",
                    full_name(&target.component, &target.function)
                ));
            }
        }
        let seconds = request.get("ts").and_then(Json::as_f64).filter(|ts| ts.is_finite());
        let at_ms = seconds.ok_or("the time of a scheduled function must be a number")? * 1_000.0;
        let ahead_ms = at_ms - now_ms as f64;
        if ahead_ms.abs() > MAX_DISTANCE_MS {
            let direction = if ahead_ms > 0.0 { "ahead" } else { "in the past" };
            return Err(format!(
                "functions can be scheduled at most five years {direction}, in milliseconds since \
                 1970, but got {at_ms}"
            ));
        }
        let args = request.get("args").cloned().unwrap_or_else(|| json!({}));
        Value::from_json(args.clone())
            .map_err(|error| format!("the arguments are not a Convex value: {error}"))?;
        let Named { component, function } = target;
        Ok(Job { component, function, args, at_ms })
    }

    pub(super) fn args_bytes(&self) -> u64 {
        self.args.to_string().len() as u64
    }

    /// Parses a document of [`SCHEDULED`] in `component`.
    fn from_document(component: &ComponentPath, document: &Json) -> Option<Job> {
        let target = match document.get("component").and_then(Json::as_str) {
            Some(path) => ComponentPath::parse(path),
            None => component.clone(),
        };
        Some(Job {
            component: target,
            function: without_extension(document.get("name")?.as_str()?),
            args: document.get("args")?.get(0)?.clone(),
            at_ms: document.get("scheduledTime")?.as_f64()?,
        })
    }
}

/// A function's name as documents have it, `messages.js:send`. Apps compare it.
fn with_extension(function: &str) -> String {
    function.replacen(':', ".js:", 1)
}

/// The function's name without the extension. Documents of earlier versions have none.
fn without_extension(name: &str) -> String {
    name.replacen(".js:", ":", 1)
}

/// Schedules a job, which runs if the transaction commits. Returns the id of its document.
pub(super) fn schedule(tx: &mut Tx, from: &ComponentPath, job: &Job) -> Result<String, StoreError> {
    let Job { component, function, args, at_ms } = job;
    let mut document = json!({
        "name": with_extension(function),
        "args": [args],
        "scheduledTime": at_ms,
        "state": { "kind": "pending" },
    });
    if component != from {
        document["component"] = json!(component.to_string());
    }
    let document = Value::from_json(document)?;
    tx.as_system(|tx| tx.insert(from, SCHEDULED, document))
}

/// Cancels a job that has not ended.
pub(super) fn cancel(
    tx: &mut Tx,
    component: &ComponentPath,
    id: &str,
    now_ms: i64,
) -> Result<(), StoreError> {
    let found = match tx.is_id(component, SCHEDULED, id) {
        true => tx.as_system(|tx| tx.get(component, Some(SCHEDULED), id))?,
        false => None,
    };
    let found = found.map(|document| document.to_json());
    let state = found.as_ref().and_then(state_of);
    match state {
        Some("pending" | "inProgress") => {
            end(tx, component, id, json!({ "kind": "canceled" }), now_ms)
        }
        Some(_) => Ok(()),
        None => Err(StoreError::User(format!("there is no scheduled function with the id {id:?}"))),
    }
}

fn state_of(document: &Json) -> Option<&str> {
    document.get("state")?.get("kind")?.as_str()
}

/// Changes members of a document of a system table. Counts towards no limits of a function.
pub(super) fn patch(
    tx: &mut Tx,
    component: &ComponentPath,
    table: &str,
    id: &str,
    members: Json,
) -> Result<(), StoreError> {
    let members = patch_from_json(members)?;
    tx.as_host(|tx| tx.patch(component, Some(table), id, members))
}

/// Reads a document of a system table. Counts towards no limits of a function.
pub(super) fn get(
    tx: &mut Tx,
    component: &ComponentPath,
    table: &str,
    id: &str,
) -> Result<Option<Json>, StoreError> {
    let found = tx.as_host(|tx| tx.get(component, Some(table), id))?;
    Ok(found.map(|document| document.to_json()))
}

fn end(
    tx: &mut Tx,
    component: &ComponentPath,
    id: &str,
    state: Json,
    now_ms: i64,
) -> Result<(), StoreError> {
    patch(tx, component, SCHEDULED, id, json!({ "state": state, "completedTime": now_ms as f64 }))
}

/// The maximum size of a stored error, in bytes. The arguments beside it may be as large as a whole
/// document.
const MAX_ERROR_BYTES: usize = 8 << 10;

fn failure(error: &str) -> Json {
    json!({ "kind": "failed", "error": &error[..error.floor_char_boundary(MAX_ERROR_BYTES)] })
}

/// The document that makes the scheduler run a function.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Due {
    /// A document of [`SCHEDULED`].
    Scheduled { component: ComponentPath, id: String },
    /// A document of [`CRONS`], with the times at which it was due and is due next.
    Cron { component: ComponentPath, id: String, at_ms: f64, next_ms: f64 },
}

impl Due {
    /// The document's id, which the function may read.
    pub(super) fn scheduled_id(&self) -> Option<&str> {
        match self {
            Due::Scheduled { component: _, id } => Some(id),
            Due::Cron { .. } => None,
        }
    }

    /// Whether it is still due. Read in the function's transaction, so that a concurrent
    /// cancellation conflicts.
    pub(super) fn is_due(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        match self {
            Due::Scheduled { component, id } => {
                let found = get(tx, component, SCHEDULED, id)?;
                Ok(found.as_ref().and_then(state_of) == Some("pending"))
            }
            Due::Cron { component, id, at_ms, next_ms: _ } => {
                let found = get(tx, component, CRONS, id)?;
                Ok(found.and_then(|document| document.get("next")?.as_f64()) == Some(*at_ms))
            }
        }
    }

    /// Records in the function's transaction that it succeeded.
    ///
    /// If the process crashes before the transaction commits, the function has not run and will
    /// run. After the commit it has run and will not run again.
    pub(super) fn succeeded(&self, tx: &mut Tx, now_ms: i64) -> Result<(), StoreError> {
        match self {
            Due::Scheduled { component, id } => {
                end(tx, component, id, json!({ "kind": "success" }), now_ms)
            }
            Due::Cron { .. } => self.advance(tx),
        }
    }

    /// Records that it failed, in a separate transaction, since the function's was rolled back.
    pub(super) fn failed(&self, tx: &mut Tx, error: &str, now_ms: i64) -> Result<(), StoreError> {
        match self {
            Due::Scheduled { component, id } => end(tx, component, id, failure(error), now_ms),
            Due::Cron { .. } => self.advance(tx),
        }
    }

    /// Records that an action begins.
    ///
    /// If the process crashes after this, the next one finds an action that began and did not end,
    /// and records that it failed.
    pub(super) fn begins(&self, tx: &mut Tx) -> Result<(), StoreError> {
        match self {
            Due::Scheduled { component, id } => {
                patch(tx, component, SCHEDULED, id, json!({ "state": { "kind": "inProgress" } }))
            }
            Due::Cron { .. } => self.advance(tx),
        }
    }

    /// Records that an action has ended.
    pub(super) fn ended(
        &self,
        tx: &mut Tx,
        error: Option<&str>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let Due::Scheduled { component, id } = self else { return Ok(()) };
        let found = get(tx, component, SCHEDULED, id)?;
        if found.as_ref().and_then(state_of) != Some("inProgress") {
            // The action was cancelled while it ran.
            return Ok(());
        }
        let state = match error {
            None => json!({ "kind": "success" }),
            Some(error) => failure(error),
        };
        end(tx, component, id, state, now_ms)
    }

    /// Records when a cron is due next.
    pub(super) fn advance(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let Due::Cron { component, id, at_ms: _, next_ms } = self else { return Ok(()) };
        patch(tx, component, CRONS, id, json!({ "next": next_ms }))
    }
}

/// Scheduled functions of a component in this state, earliest first: at most `most` wanted ones, at
/// most [`MAX_ARGS_BYTES`] of arguments, and up to the first that is due after `until_ms`.
pub(super) fn in_state(
    tx: &mut Tx,
    component: &ComponentPath,
    state: &str,
    most: usize,
    until_ms: f64,
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<(String, Job)>, StoreError> {
    let query = json!({
        "source": {
            "type": "IndexRange",
            "indexName": format!("{SCHEDULED}.by_state_and_time"),
            "range": [{ "type": "Eq", "fieldPath": "state.kind", "value": state }],
            "order": "asc",
        },
        "operators": [],
    });
    let (mut jobs, mut bytes) = (Vec::new(), 0);
    each(tx, component, &query, |document| {
        let job = id_of(&document).filter(|id| is_wanted(id));
        let Some((id, job)) =
            job.and_then(|id| Some((id, Job::from_document(component, &document)?)))
        else {
            return true;
        };
        bytes += job.args_bytes();
        let is_due = job.at_ms <= until_ms;
        jobs.push((id, job));
        is_due && jobs.len() < most && bytes < MAX_ARGS_BYTES
    })?;
    Ok(jobs)
}

/// The maximum size of arguments that are read together, in bytes. A single job may exceed it.
const MAX_ARGS_BYTES: u64 = 16 << 20;

/// The ids of scheduled functions of a component that ended before `before_ms`, in milliseconds
/// since the Unix epoch: at most `most` of each final state.
pub(super) fn ended_before(
    tx: &mut Tx,
    component: &ComponentPath,
    before_ms: f64,
    most: usize,
) -> Result<Vec<String>, StoreError> {
    let mut ids = Vec::new();
    for state in ["success", "failed", "canceled"] {
        let query = json!({
            "source": {
                "type": "IndexRange",
                "indexName": format!("{SCHEDULED}.by_state_and_time"),
                "range": [
                    { "type": "Eq", "fieldPath": "state.kind", "value": state },
                    { "type": "Lt", "fieldPath": "scheduledTime", "value": before_ms },
                ],
                "order": "asc",
            },
            "operators": [
                { "filter": { "$lt": [{ "$field": "completedTime" }, { "$literal": before_ms }] } },
                { "limit": most },
            ],
        });
        each(tx, component, &query, |document| {
            ids.extend(id_of(&document));
            true
        })?;
    }
    Ok(ids)
}

#[derive(Debug)]
pub(super) struct CronState {
    pub(super) id: String,
    pub(super) name: String,
    /// The schedule, as JSON text.
    pub(super) schedule: String,
    pub(super) next_ms: f64,
}

pub(super) fn crons(tx: &mut Tx, component: &ComponentPath) -> Result<Vec<CronState>, StoreError> {
    let query = json!({ "source": { "type": "FullTableScan", "tableName": CRONS, "order": "asc" }, "operators": [] });
    let cron = |document: &Json| {
        let text = |name: &str| Some(document.get(name)?.as_str()?.to_owned());
        Some(CronState {
            id: id_of(document)?,
            name: text("name")?,
            schedule: text("schedule")?,
            next_ms: document.get("next")?.as_f64()?,
        })
    };
    let mut crons = Vec::new();
    each(tx, component, &query, |document| {
        crons.extend(cron(&document));
        true
    })?;
    Ok(crons)
}

fn id_of(document: &Json) -> Option<String> {
    Some(document.get("_id")?.as_str()?.to_owned())
}

/// Passes the documents of a query to `show` until it returns false. Counts towards no limits of a
/// function.
fn each(
    tx: &mut Tx,
    component: &ComponentPath,
    query: &Json,
    mut show: impl FnMut(Json) -> bool,
) -> Result<(), StoreError> {
    tx.as_host(|tx| {
        let stream = tx.query(component, query)?;
        while let Some(document) = tx.query_next(stream)? {
            if !show(document.to_json()) {
                break;
            }
        }
        tx.query_close(stream);
        Ok(())
    })
}

//! C6 under cancellation: whenever the caller's future is dropped, nothing is committed without its
//! records, and what the sink has begun to persist is not lost.

use std::collections::HashSet;
use std::sync::Arc;

use audit_core::testing::{MemoryFault, poll_at_most};
use audit_runtime::{Execution, Mutation, Var, body};
use serde_json::Value;
use tokio::task::yield_now;

use crate::database::DbError;
use crate::database::Step::*;
use crate::host::*;

#[tokio::test(start_paused = true)]
async fn dropping_a_stored_release_keeps_its_logs() {
    let host = Arc::new(Host::new());
    host.sink.script([MemoryFault::HangAfter]);
    let task = tokio::spawn({
        let host = Arc::clone(&host);
        async move { host.increment().await }
    });
    host.sink.hanging(1).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(host.members("requestId"), ["a"]);
    assert_eq!(host.database.history(), [(Began, 0), (Dropped, 1)]);
}

/// Asserts the invariant of a history: a commit has the records of its attempt and of all earlier
/// ones.
fn assert_logged_before_committed(host: &Host) {
    let history = host.database.history();
    for (n, (step, records)) in history.iter().enumerate() {
        let began = history[..n].iter().filter(|(step, _)| *step == Began).count();
        if [Committed, Conflicted].contains(step) {
            assert_eq!(*records, began, "{history:?}");
        }
    }
    let open = history.iter().filter(|(step, _)| *step == Began).count() * 2 - history.len();
    assert_eq!(open, 0, "each transaction ended: {history:?}");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_commit_anywhere_is_safe() {
    let mut ends = Vec::new();
    for polls in 0.. {
        let host = Host::new();
        let answer = poll_at_most(polls, host.increment()).await;
        assert_logged_before_committed(&host);
        ends.push((host.sink.lines().len(), host.database.value(), answer.is_some()));
        if let Some(value) = answer {
            assert_eq!(value.unwrap(), 1);
            break;
        }
    }
    ends.dedup();
    // In this order: nothing happened; the logs are durable and the transaction is rolled back; it
    // is committed, but the caller got no response; it is committed, and the caller got its
    // response.
    assert_eq!(ends, [(0, 0, false), (1, 0, false), (1, 1, false), (1, 1, true)]);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_retry_or_failure_anywhere_is_safe() {
    for conflicts in 0..3 {
        for polls in 0.. {
            let host = Host::new();
            let attempt = async |execution: Execution<Mutation>| {
                let mut tx = host.database.begin();
                execution.log().audit(&everyone())?;
                yield_now().await;
                tx.add(1);
                if host.database.attempts() <= conflicts {
                    host.database.interfere();
                    return Ok(execution.seal_transaction(tx, Ok(())));
                }
                Ok(execution.seal_transaction(tx, Err(DbError::Function)))
            };
            let request = alice();
            let answer =
                poll_at_most(polls, host.runtime.run_mutation("f", &request, attempt)).await;
            assert_logged_before_committed(&host);
            assert_eq!(host.database.value(), 0);
            if answer.is_some() {
                assert_eq!(host.sink.lines().len(), conflicts + 1);
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_release_anywhere_is_safe() {
    for polls in 0.. {
        let host = Host::with(|settings| settings.with_provenance(true));
        let result = host.view("page");
        let answer = poll_at_most(polls, result.release(&alice())).await;
        let stored = host.sink.lines().len();
        assert!(answer.is_none() || stored == 1);
        // The dropped release counts as the first one if it was polled at all.
        result.release(&bob()).await.unwrap();
        assert_eq!(host.members("$audit")[stored]["replay"], polls > 0);
        if answer.is_some() {
            break;
        }
    }
}

/// Several batches of a release are persisted at once, so after a drop any of them may be stored.
#[tokio::test(start_paused = true)]
async fn dropping_a_release_to_many_anywhere_is_safe() {
    let subscribers: Vec<_> = (0..24).map(|n| request(&n.to_string())).collect();
    let pad = "x".repeat(500_000);
    let mut ends = Vec::new();
    for polls in 0.. {
        let host = Host::with(|settings| settings.with_provenance(true));
        let query = host.runtime.query("view");
        query.log().audit(&body!({ "to": Var::REQUEST_ID, "pad": pad })).unwrap();
        let result = query.seal("page");
        let answer = poll_at_most(polls, result.release_all(&subscribers)).await;
        let answered = answer.is_some();
        let stored = host.logs();
        let to: HashSet<_> = stored.iter().map(|log| log["to"].to_string()).collect();
        assert_eq!(to.len(), stored.len(), "no record is stored twice");
        assert!(!answered || stored.len() == subscribers.len());
        assert!(host.runtime.usage().logs() <= stored.len() as u64);
        ends.push(stored.len());
        // The next release stores logs for all subscribers, whatever the dropped one stored. For
        // one of them it is the first release, unless the dropped one had begun.
        result.release_all(&subscribers).await.unwrap();
        let logs = host.logs().split_off(stored.len());
        assert_eq!(logs.len(), subscribers.len());
        let first = logs.iter().filter(|log| log["$audit"]["replay"] == false).count();
        assert_eq!(first, usize::from(polls == 0));
        if answered {
            break;
        }
    }
    assert!(ends.is_sorted(), "{ends:?}");
    assert!(ends.iter().any(|stored| (1..24).contains(stored)), "some batches: {ends:?}");
}

fn is_outcome(log: &Value) -> bool {
    log["$audit"]["outcome"].is_string()
}

async fn others_run() {
    for _ in 0..100 {
        yield_now().await;
    }
}

/// However far a drain has come when it is dropped, and however far the commit that it waits for:
/// each outcome is stored once, and outcomes of later commits wait for others again.
#[tokio::test(start_paused = true)]
async fn dropping_a_drain_anywhere_loses_nothing() {
    for fault in [MemoryFault::None, MemoryFault::FailBefore] {
        for commit_polls in 0.. {
            let mut is_committed = false;
            for drain_polls in 0.. {
                let host = Host::with(|settings| settings.with_outcomes(true));
                host.increment().await.unwrap();
                // Once it has begun to commit, the mutation continues without its caller.
                is_committed = poll_at_most(commit_polls, host.increment()).await.is_some();
                // Only outcomes are stored from here on.
                host.sink.script([fault]);
                let drained = poll_at_most(drain_polls, host.runtime.drain_outcomes()).await;
                let outcomes = || host.logs().iter().filter(|log| is_outcome(log)).count();
                assert!(drained.is_none() || outcomes() > usize::from(is_committed));
                others_run().await;
                // No drain waits any more, so the next outcome waits for others.
                let before = outcomes();
                // This mutation may be the one to meet the fault.
                let _ = host.increment().await;
                others_run().await;
                assert_eq!(outcomes(), before, "{fault:?}, {commit_polls}, {drain_polls}");
                host.runtime.drain_outcomes().await;
                let logs = host.logs();
                let of = |log: &Value| log["$audit"]["execution"].as_str().unwrap().to_owned();
                let ended: Vec<_> = logs.iter().filter(|log| is_outcome(log)).map(of).collect();
                let distinct: HashSet<_> = ended.iter().cloned().collect();
                assert_eq!(distinct.len(), ended.len(), "no outcome is stored twice");
                assert!(logs.iter().all(|log| distinct.contains(&of(log))), "none is lost");
                if drained.is_some() {
                    break;
                }
            }
            if is_committed {
                break;
            }
        }
    }
}

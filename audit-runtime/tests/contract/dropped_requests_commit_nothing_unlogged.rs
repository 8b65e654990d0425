//! C6 under cancellation: whenever the caller's future is dropped, nothing is committed without its
//! records, and what the sink has begun to persist is not lost.

use std::sync::Arc;

use audit_core::testing::{MemoryFault, poll_at_most};
use audit_runtime::{Execution, Mutation};

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
    // Nothing; durable and rolled back; durable and committed without a response; completed.
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
                tokio::task::yield_now().await;
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
        // Only a release that never ran does not count as the first.
        result.release(&bob()).await.unwrap();
        assert_eq!(host.members("$audit")[stored]["replay"], polls > 0);
        if answer.is_some() {
            break;
        }
    }
}

//! What comes before what. Every promise about effects and durable logs is kept in this file.
//!
//! Three things happen to a function that ran: its logs become durable, its effect is made (a value
//! handed out, a transaction committed), and it is undone if it may not have an effect. A crash may
//! come between any two of them.

use std::error::Error;

use audit_core::{Batch, Durability, SinkError, SinkErrorKind, Usage};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Attempt, AuditRuntime, Audited, FunctionName, MutationError, ReleaseError, RequestContext,
    Transaction,
};

/// Records that are ready for the sink, and what they are metered as.
pub(crate) struct Rendered {
    pub(crate) batch: Batch,
    pub(crate) usage: Usage,
}

/// How many batches of one release are with the sink at once. Bounds the memory of a release to
/// many requests.
pub(crate) const BATCHES_AT_ONCE: usize = 8;

/// Returns once all batches are durable. The caller has handed out nothing before that.
///
/// A crash in here: some batches may be durable and the others not. No effect has taken place, so
/// logs may speak of results that nobody got; never the other way round.
///
/// Dropped in here: the same, and what the sink has accepted it goes on to persist.
pub(crate) async fn make_durable(
    runtime: &AuditRuntime,
    mut batches: impl Iterator<Item = Rendered>,
) -> Result<(), ReleaseError> {
    let Some(first) = batches.next() else { return Ok(()) };
    let all = async {
        match batches.next() {
            None => persist(runtime, first).await,
            Some(second) => {
                let all = stream::iter([first, second].into_iter().chain(batches));
                all.map(|rendered| persist(runtime, rendered))
                    .buffer_unordered(BATCHES_AT_ONCE)
                    .try_for_each(|()| async { Ok(()) })
                    .await
            }
        }
    };
    let timeout = runtime.persist_timeout();
    let in_time = match tokio::time::timeout(timeout, all).await {
        Ok(result) => result,
        // The sink may be about to finish: nobody knows.
        Err(_elapsed) => Err(SinkError::indeterminate(
            SinkErrorKind::Unavailable,
            format!("the sink did not answer within {} ms", timeout.as_millis()),
        )),
    };
    in_time.map_err(ReleaseError::NotDurable)
}

async fn persist(
    runtime: &AuditRuntime,
    Rendered { batch, usage }: Rendered,
) -> Result<(), SinkError> {
    let receipt = runtime.sink().persist(batch).await?;
    match receipt.durability {
        // Nothing was emitted, so nothing is metered.
        Durability::Discarded => {}
        Durability::Journaled | Durability::Delivered => runtime.meter(usage),
    }
    Ok(())
}

/// Ends one attempt at a mutation: its logs become durable, and it commits if it may.
///
/// Dropped in here before the commit: the transaction is dropped with it, and so rolled back.
pub(crate) async fn settle<Tx: Transaction, T>(
    transaction: Tx,
    outcome: Audited<Result<T, Tx::Error>>,
    request: &RequestContext,
) -> Result<Attempt<T, Tx::Error>, MutationError<Tx::Error>> {
    let (outcome, logs) = outcome.into_parts();
    match outcome {
        Ok(Ok(value)) => {
            // A crash before this line returns: nothing is committed. The logs may be durable and
            // then tell of an attempt without a result. They must not become durable after the
            // commit: a crash in between would leave a change that nobody can be held to account
            // for.
            if let Err(error) = logs.make_durable(request).await {
                roll_back(transaction).await;
                return Err(MutationError::Release(error));
            }
            // A crash from here on: the logs are durable, and whether the change is there is the
            // database's to say.
            match transaction.commit().await {
                Ok(()) => Ok(Attempt::Committed(value)),
                Err(error) if Tx::is_conflict(&error) => Ok(Attempt::Conflict(error)),
                Err(error) => Err(MutationError::Commit(error)),
            }
        }
        Ok(Err(error)) => {
            // Rolling back first lets go of the database's locks while the sink works. A crash in
            // between: no effect, no answer to the caller, and no logs, as if the function had not
            // come this far.
            roll_back(transaction).await;
            settle_unsealed::<Tx, T>(error, Some(logs), request).await
        }
        Err(refusal) => {
            // The function may have caught the error of `audit` and succeeded; it fails all the
            // same, and what it had emitted before is durable before anyone hears of that.
            roll_back(transaction).await;
            logs.make_durable(request).await.map_err(MutationError::Release)?;
            Err(MutationError::Release(refusal.into()))
        }
    }
}

/// Ends one attempt at a mutation that failed and whose transaction is gone: its logs become
/// durable before anyone hears of the failure, since a failure is a result too.
pub(crate) async fn settle_unsealed<Tx: Transaction, T>(
    error: Tx::Error,
    logs: Option<Audited<()>>,
    request: &RequestContext,
) -> Result<Attempt<T, Tx::Error>, MutationError<Tx::Error>> {
    if let Some(logs) = logs {
        // Also says so if a log of the function was refused: that is then why it failed.
        logs.release(request).await.map_err(MutationError::Release)?;
    }
    if Tx::is_conflict(&error) {
        Ok(Attempt::Conflict(error))
    } else {
        Err(MutationError::Function(error))
    }
}

/// The same for one that panicked. The panic is the answer whatever happens to the logs, so a loss
/// is said aside.
pub(crate) async fn settle_panicked(
    function: &FunctionName,
    logs: Option<Audited<()>>,
    request: &RequestContext,
) {
    let Some(logs) = logs else { return };
    if let Err(error @ ReleaseError::NotDurable(_)) = logs.release(request).await {
        let source = error.source().map(ToString::to_string);
        tracing::error!(%function, %error, source, "the audit logs of a function that panicked may be lost");
    }
}

/// Undoes a transaction. If that fails there is nothing left to do: it was not committed, and the
/// database drops it with its connection.
async fn roll_back<Tx: Transaction>(transaction: Tx) {
    if let Err(error) = transaction.rollback().await {
        tracing::warn!(%error, "a rollback failed; the database drops the transaction with its connection");
    }
}

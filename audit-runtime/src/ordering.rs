//! The order of logs and effects. Every promise about effects and durable logs is kept in this
//! file.
//!
//! Three things can happen to a function that ran: its logs become durable, its effect takes place
//! (a value is handed out, a transaction commits), or it is rolled back. A crash may come between
//! any two.

use std::error::Error;
use std::sync::Arc;

use audit_core::{Durability, Place, SinkError, SinkErrorKind};
use futures::{StreamExt, TryStreamExt, stream};
use tracing::Instrument;
use tracing::field::Empty;

use crate::audited::Audited;
use crate::context::Context;
use crate::detached::Detached;
use crate::ending::Ending;
use crate::error::{MutationError, Refusal, ReleaseError};
use crate::function_logs::AttemptLogs;
use crate::outcomes::AttemptOutcome;
use crate::provenance::{FunctionName, Identity};
use crate::rendering::{BATCHES_AT_ONCE, Rendered, batches};
use crate::request::RequestContext;
use crate::sealed_logs::SealedLogs;
use crate::transaction::{
    Attempt, AuditedTransaction, FunctionError, LogReceipt, Transaction, is_conflict,
};

impl<T> Audited<T> {
    /// Makes the logs durable, resolved for this request, then hands out the value.
    ///
    /// In the first release `now` is the time when the function ran; each later one is a replay,
    /// with the time of the replay.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::NotDurable`]: nothing was handed out. Its source says whether the logs may
    /// have reached the sink anyway: a retry may then log this release twice.
    /// [`ReleaseError::Limit`] and [`ReleaseError::Body`]: the function itself failed; its logs are
    /// durable.
    ///
    /// # Cancellation
    ///
    /// Dropping the future hands out nothing. Logs that were being persisted may still become
    /// durable.
    ///
    /// # Panics
    ///
    /// If `request` carries a value for a variable that was registered with another runtime.
    pub async fn release(&self, request: &RequestContext) -> Result<&T, ReleaseError> {
        release(self.value(), self.logs(), std::slice::from_ref(request)).await
    }

    /// As [`release`](Self::release), by value.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    pub async fn release_into(self, request: &RequestContext) -> Result<T, ReleaseError> {
        let (value, logs) = self.into_parts();
        release(value, logs.as_deref(), std::slice::from_ref(request)).await
    }

    /// As [`release`](Self::release) for many requests at once, such as the subscribers of a query:
    /// one set of logs for each, made durable together. The value may then be handed to all of
    /// them. `None` if there are no requests.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release). After an error the logs of some requests may be durable; the
    /// value belongs to none of them.
    pub async fn release_all(
        &self,
        requests: &[RequestContext],
    ) -> Result<Option<&T>, ReleaseError> {
        if requests.is_empty() {
            return Ok(None);
        }
        release(self.value(), self.logs(), requests).await.map(Some)
    }
}

impl<Tx: Transaction, T, E: FunctionError<Tx::Error>> AuditedTransaction<Tx, T, E> {
    /// Makes the logs durable, then commits; or rolls back and makes the logs durable, if the
    /// function failed or one of its logs was refused.
    ///
    /// An attempt ends once: if it has already ended, the transaction is rolled back.
    ///
    /// # Errors
    ///
    /// [`MutationError::Function`], [`Release`](MutationError::Release),
    /// [`Commit`](MutationError::Commit) and
    /// [`ForeignExecution`](MutationError::ForeignExecution).
    ///
    /// # Cancellation
    ///
    /// Dropping the future before it commits rolls back; the logs may be durable or become so.
    /// Dropping it during the commit leaves the commit's outcome to the database; the logs are
    /// durable by then. With [outcomes](crate::AuditRuntimeBuilder::with_outcomes) the commit
    /// continues without its caller.
    ///
    /// # Panics
    ///
    /// If the database's adapter panics. With outcomes also outside of a Tokio executor.
    pub async fn settle(self) -> Result<Attempt<T, E>, MutationError<E>> {
        let (transaction, outcome, request) = self.into_parts();
        settle(transaction, outcome, &request).await
    }
}

/// Hands out a result to these requests: its logs first, then the value.
///
/// A crash here, or before the caller sends the value: the logs may be durable and report a result
/// that nobody received.
async fn release<V>(
    value: Result<V, Refusal>,
    logs: Option<&SealedLogs>,
    requests: &[RequestContext],
) -> Result<V, ReleaseError> {
    make_durable(logs, requests).await?;
    Ok(value?)
}

/// Makes the logs durable for these requests. Returns their place if they are one batch and the
/// sink keeps it. The caller hands out nothing before this returns.
///
/// A crash here: some batches may be durable and others not. No effect has taken place, so logs may
/// report results that nobody received, but never the reverse.
///
/// Dropped here: the same, and the sink still persists what it has accepted.
async fn make_durable(
    logs: Option<&SealedLogs>,
    requests: &[RequestContext],
) -> Result<Option<Place>, ReleaseError> {
    let Some(logs) = logs else { return Ok(None) };
    let context = logs.context();
    let mut batches = batches(logs, requests);
    let Some(first) = batches.next() else { return Ok(None) };
    let all = async {
        match batches.next() {
            None => persist(context, first).await,
            Some(second) => {
                let all = stream::iter([first, second].into_iter().chain(batches));
                all.map(|rendered| persist(context, rendered))
                    .buffer_unordered(BATCHES_AT_ONCE)
                    .try_for_each(|_place| async { Ok(()) })
                    .await
                    .map(|()| None)
            }
        }
    };
    let timeout = context.persist_timeout();
    let in_time = match tokio::time::timeout(timeout, all).await {
        Ok(result) => result,
        // The sink may be about to finish: the outcome is unknown.
        Err(_elapsed) => Err(SinkError::indeterminate(
            SinkErrorKind::Unavailable,
            format!("the sink did not answer within {} ms", timeout.as_millis()),
        )),
    };
    match in_time {
        Ok(place) => {
            logs.set_durable();
            Ok(place)
        }
        Err(error) => {
            context.metrics().not_durable(error.outcome());
            Err(ReleaseError::NotDurable(error))
        }
    }
}

async fn persist(
    context: &Context,
    Rendered { batch, usage }: Rendered,
) -> Result<Option<Place>, SinkError> {
    // A trace shows the size and place of a batch, but none of its contents.
    let span = tracing::info_span!(
        target: "audit::trace", "persist", records = batch.count(), bytes = batch.lines().len(),
        stream = Empty, first_sequence = Empty, otel.status_code = Empty,
    );
    let persisted = context.sink().persist(batch).instrument(span.clone()).await;
    let receipt = persisted.inspect_err(|_| {
        span.record("otel.status_code", "ERROR");
    })?;
    if let Some(Place { stream, first_sequence, .. }) = receipt.place {
        span.record("stream", tracing::field::display(stream));
        span.record("first_sequence", first_sequence);
    }
    match receipt.durability {
        // Nothing was emitted, so nothing is metered.
        Durability::Discarded => {}
        Durability::Journaled | Durability::Delivered => context.meter(usage),
    }
    Ok(receipt.place)
}

/// Ends one attempt at a mutation: its logs become durable, and it commits if it may.
///
/// Dropped here before the commit: the transaction is dropped too, and so rolled back.
async fn settle<Tx: Transaction, T, E: FunctionError<Tx::Error>>(
    mut transaction: Tx,
    result: Audited<Result<T, E>>,
    request: &RequestContext,
) -> Result<Attempt<T, E>, MutationError<E>> {
    let (result, logs) = result.into_parts();
    let (logs, requests) = (logs.as_ref(), std::slice::from_ref(request));
    let value = match result {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            // Rolling back first releases the database's locks before the sink is awaited. A crash
            // in between: no effect, no response to the caller and no logs, as if the function had
            // not got this far.
            let ending = Ending::new(logs, failure::<Tx, E>(&error));
            roll_back(transaction).await;
            end_without_effect(ending, logs, requests).await?;
            return failed::<Tx, T, E>(error);
        }
        Err(refusal) => {
            // The function may have caught the error of `audit` and returned a value; it fails
            // anyway. What it had emitted before becomes durable before the failure is reported.
            let ending = Ending::new(logs, AttemptOutcome::Failed);
            roll_back(transaction).await;
            end_without_effect(ending, logs, requests).await?;
            return Err(MutationError::Release(refusal.into()));
        }
    };
    let mut ending = Ending::new(logs, AttemptOutcome::RolledBack);
    if !ending.may_commit() {
        // Another `Ending` has claimed this attempt: its outcome, recorded or about to be, would
        // contradict a commit.
        roll_back(transaction).await;
        return Err(MutationError::ForeignExecution);
    }
    // A crash before this returns: nothing is committed. The logs may be durable and then report an
    // attempt without a result. They must not become durable after the commit: a crash in between
    // would leave an unlogged change.
    let place = match make_durable(logs.map(Arc::as_ref), requests).await {
        Ok(place) => place,
        Err(error) => {
            ending.note_undurable(&error);
            roll_back(transaction).await;
            return Err(MutationError::Release(error));
        }
    };
    if let (Some(logs), Some(place)) = (logs, place) {
        let Identity { execution, attempt } = logs.identity();
        let receipt = LogReceipt { execution, attempt, place };
        // A crash here: nothing is committed, so no receipt is stored.
        if let Err(error) = transaction.keep_receipt(&receipt).await {
            let is_conflict = Tx::is_conflict(&error);
            if is_conflict {
                ending.set(Some(AttemptOutcome::Conflict));
            }
            roll_back(transaction).await;
            return uncommitted(is_conflict, error);
        }
    }
    match commit(transaction, ending).await {
        Ok(()) => Ok(Attempt::Committed(value)),
        Err(error) => uncommitted(Tx::is_conflict(&error), error),
    }
}

/// Commits a transaction whose logs are durable, and records its outcome.
///
/// A crash here: the logs are durable, and only the database knows whether the change was
/// committed. An outcome that was not durable yet is lost, so a missing outcome never means that
/// nothing was committed.
async fn commit<Tx: Transaction>(transaction: Tx, mut ending: Ending) -> Result<(), Tx::Error> {
    let Some(outcomes) = ending.outcomes() else { return transaction.commit().await };
    let under_way = outcomes.commit_begins();
    let committing = async move {
        // From here on only the database's response determines the outcome.
        ending.set(None);
        let result = transaction.commit().await;
        ending.set(match &result {
            Ok(()) => Some(AttemptOutcome::Committed),
            Err(error) if Tx::is_conflict(error) => Some(AttemptOutcome::Conflict),
            Err(error) if Tx::is_rolled_back(error) => Some(AttemptOutcome::RolledBack),
            Err(_) => None,
        });
        // The outcome is queued before a drain sees that the commit has ended.
        drop(ending);
        drop(under_way);
        result
    };
    // If the caller is dropped, the outcome must still be recorded.
    Detached::new(committing.in_current_span()).await
}

/// The outcome of an attempt whose function failed with this error.
fn failure<Tx: Transaction, E: FunctionError<Tx::Error>>(error: &E) -> AttemptOutcome {
    if is_conflict::<Tx, E>(error) { AttemptOutcome::Conflict } else { AttemptOutcome::Failed }
}

/// Makes the logs of a rolled-back attempt durable.
async fn end_without_effect<E>(
    mut ending: Ending,
    logs: Option<&Arc<SealedLogs>>,
    requests: &[RequestContext],
) -> Result<(), MutationError<E>> {
    let durable = make_durable(logs.map(Arc::as_ref), requests).await;
    durable.map(drop).map_err(|error| {
        ending.note_undurable(&error);
        MutationError::Release(error)
    })
}

/// The result of an attempt that did not commit because of a database error.
fn uncommitted<T, D, E: From<D>>(
    is_conflict: bool,
    error: D,
) -> Result<Attempt<T, E>, MutationError<E>> {
    if is_conflict {
        Ok(Attempt::Conflict(error.into()))
    } else {
        Err(MutationError::Commit(error.into()))
    }
}

fn failed<Tx: Transaction, T, E: FunctionError<Tx::Error>>(
    error: E,
) -> Result<Attempt<T, E>, MutationError<E>> {
    if is_conflict::<Tx, E>(&error) {
        Ok(Attempt::Conflict(error))
    } else {
        Err(MutationError::Function(error))
    }
}

/// Ends one attempt at a mutation with what it returned.
pub(crate) async fn end_attempt<Tx: Transaction, T, E: FunctionError<Tx::Error>>(
    returned: Result<AuditedTransaction<Tx, T, E>, E>,
    attempt: &AttemptLogs,
    request: &RequestContext,
) -> Result<Attempt<T, E>, MutationError<E>> {
    // From here on an execution that the host kept accepts no more logs.
    let ended = attempt.end();
    match returned {
        Ok(sealed) if sealed.is_of(attempt) => sealed.settle().await,
        // The function may have logged to its own execution rather than the sealed one. Nothing
        // commits, and the logs of both become durable.
        Ok(foreign) => {
            let (transaction, logs, foreign_request) = foreign.abandon();
            let ending = Ending::new(logs.as_ref(), AttemptOutcome::RolledBack);
            roll_back(transaction).await;
            let released = salvage(ended, AttemptOutcome::RolledBack, request).await;
            end_without_effect(ending, logs.as_ref(), &[foreign_request]).await?;
            released.map_err(MutationError::Release)?;
            Err(MutationError::ForeignExecution)
        }
        // The execution was not sealed, or was sealed and dropped, and its transaction is gone. A
        // failure is a result too, so its logs become durable before it is reported.
        Err(error) => {
            let outcome = failure::<Tx, E>(&error);
            salvage(ended, outcome, request).await.map_err(MutationError::Release)?;
            failed::<Tx, T, E>(error)
        }
    }
}

/// Ends an attempt that panicked. The caller gets the panic even if the logs are lost, so their
/// loss is reported in the operator's log.
pub(crate) async fn end_panicked(
    function: &FunctionName,
    attempt: &AttemptLogs,
    request: &RequestContext,
) {
    let salvaged = salvage(attempt.end(), AttemptOutcome::Failed, request).await;
    if let Err(error @ ReleaseError::NotDurable(_)) = salvaged {
        let source = error.source().map(ToString::to_string);
        tracing::error!(%function, %error, source, "the audit logs of a function that panicked may be lost");
    }
}

/// Makes the logs of an attempt without effect durable, unless a release already did. Returns the
/// refusal if a log was refused, which is then why the attempt failed.
async fn salvage(
    (refused, logs): (Result<(), Refusal>, Option<Arc<SealedLogs>>),
    outcome: AttemptOutcome,
    request: &RequestContext,
) -> Result<(), ReleaseError> {
    let outcome = if refused.is_err() { AttemptOutcome::Failed } else { outcome };
    let mut ending = Ending::new(logs.as_ref(), outcome);
    let logs = logs.filter(|logs| !logs.are_durable());
    let durable = make_durable(logs.as_deref(), std::slice::from_ref(request)).await;
    durable.inspect_err(|error| ending.note_undurable(error))?;
    Ok(refused?)
}

/// Rolls a transaction back. If that fails nothing is left to do: it was not committed, and the
/// database discards it with its connection.
async fn roll_back<Tx: Transaction>(transaction: Tx) {
    if let Err(error) = transaction.rollback().await {
        tracing::warn!(%error, "a rollback failed; the database discards the transaction with its connection");
    }
}

//! What comes before what. Every promise about effects and durable logs is kept in this file.
//!
//! Three things happen to a function that ran: its logs become durable, its effect is made (a value
//! handed out, a transaction committed), and it is undone if it may not have an effect. A crash may
//! come between any two of them.

use std::error::Error;
use std::sync::Arc;

use audit_core::{Durability, SinkError, SinkErrorKind};
use futures::{StreamExt, TryStreamExt, stream};

use crate::audited::Audited;
use crate::context::Context;
use crate::error::{MutationError, Refusal, ReleaseError};
use crate::execution::AttemptLogs;
use crate::provenance::FunctionName;
use crate::request::RequestContext;
use crate::sealed_logs::{BATCHES_AT_ONCE, Rendered, SealedLogs};
use crate::transaction::{Attempt, AuditedTransaction, FunctionError, Transaction, is_conflict};

impl<T> Audited<T> {
    /// Makes the logs durable, resolved for this request, then hands out the value.
    ///
    /// The first release carries the moment when the function ran as `now`; each later one is a
    /// replay and carries the moment of the replay.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::NotDurable`]: nothing was handed out. Its source says whether the logs may
    /// have reached the sink nevertheless: releasing again may log this hand-out twice.
    /// [`ReleaseError::Limit`] and [`ReleaseError::Body`]: the function itself failed; its logs are
    /// durable.
    ///
    /// # Cancellation
    ///
    /// Dropping the future hands out nothing. Logs that were on their way to the sink stay on their
    /// way.
    ///
    /// # Panics
    ///
    /// If `request` carries a value for a variable that was registered with another runtime.
    pub async fn release(&self, request: &RequestContext) -> Result<&T, ReleaseError> {
        release(self.value(), self.logs(), std::slice::from_ref(request)).await
    }

    /// As [`release`](Self::release), for the one who owns it.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    pub async fn release_into(self, request: &RequestContext) -> Result<T, ReleaseError> {
        let (value, logs) = self.into_parts();
        release(value, logs.as_deref(), std::slice::from_ref(request)).await
    }

    /// As [`release`](Self::release) for many requests at once, say the subscribers of a query: one
    /// set of logs for each, made durable together. The value may then be handed to all of them;
    /// there is none to hand to nobody, so without requests this is `None`.
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
    /// # Errors
    ///
    /// [`MutationError::Function`], [`Release`](MutationError::Release) and
    /// [`Commit`](MutationError::Commit).
    ///
    /// # Cancellation
    ///
    /// Dropping the future before it commits rolls back; the logs may be durable or become so.
    /// Dropping it while it commits leaves the commit to the database; the logs are durable then.
    pub async fn settle(self) -> Result<Attempt<T, E>, MutationError<E>> {
        let (transaction, outcome, request) = self.into_parts();
        settle(transaction, outcome, &request).await
    }
}

/// Hands out a result to these requests: its logs first, then the value.
///
/// A crash in here, or before the caller sends what it was given: the logs may be durable and tell
/// of a result that nobody got.
async fn release<V>(
    value: Result<V, Refusal>,
    logs: Option<&SealedLogs>,
    requests: &[RequestContext],
) -> Result<V, ReleaseError> {
    make_durable(logs, requests).await?;
    Ok(value?)
}

/// Returns once the logs are durable, as those of these requests. The caller has handed out nothing
/// before that.
///
/// A crash in here: some batches may be durable and the others not. No effect has taken place, so
/// logs may speak of results that nobody got; never the other way round.
///
/// Dropped in here: the same, and what the sink has accepted it goes on to persist.
async fn make_durable(
    logs: Option<&SealedLogs>,
    requests: &[RequestContext],
) -> Result<(), ReleaseError> {
    let Some(logs) = logs else { return Ok(()) };
    let context = logs.context();
    let mut batches = logs.batches(requests);
    let Some(first) = batches.next() else { return Ok(()) };
    let all = async {
        match batches.next() {
            None => persist(context, first).await,
            Some(second) => {
                let all = stream::iter([first, second].into_iter().chain(batches));
                all.map(|rendered| persist(context, rendered))
                    .buffer_unordered(BATCHES_AT_ONCE)
                    .try_for_each(|()| async { Ok(()) })
                    .await
            }
        }
    };
    let timeout = context.persist_timeout();
    let in_time = match tokio::time::timeout(timeout, all).await {
        Ok(result) => result,
        // The sink may be about to finish: nobody knows.
        Err(_elapsed) => Err(SinkError::indeterminate(
            SinkErrorKind::Unavailable,
            format!("the sink did not answer within {} ms", timeout.as_millis()),
        )),
    };
    match in_time {
        Ok(()) => {
            logs.set_durable();
            Ok(())
        }
        Err(error) => {
            context.metrics().not_durable(error.outcome());
            Err(ReleaseError::NotDurable(error))
        }
    }
}

async fn persist(context: &Context, Rendered { batch, usage }: Rendered) -> Result<(), SinkError> {
    let receipt = context.sink().persist(batch).await?;
    match receipt.durability {
        // Nothing was emitted, so nothing is metered.
        Durability::Discarded => {}
        Durability::Journaled | Durability::Delivered => context.meter(usage),
    }
    Ok(())
}

/// Ends one attempt at a mutation: its logs become durable, and it commits if it may.
///
/// Dropped in here before the commit: the transaction is dropped with it, and so rolled back.
async fn settle<Tx: Transaction, T, E: FunctionError<Tx::Error>>(
    transaction: Tx,
    outcome: Audited<Result<T, E>>,
    request: &RequestContext,
) -> Result<Attempt<T, E>, MutationError<E>> {
    let (outcome, logs) = outcome.into_parts();
    let logs = logs.as_deref();
    let requests = std::slice::from_ref(request);
    match outcome {
        Ok(Ok(value)) => {
            // A crash before this line returns: nothing is committed. The logs may be durable and
            // then tell of an attempt without a result. They must not become durable after the
            // commit: a crash in between would leave a change that nobody can be held to account
            // for.
            if let Err(error) = make_durable(logs, requests).await {
                roll_back(transaction).await;
                return Err(MutationError::Release(error));
            }
            // A crash from here on: the logs are durable, and whether the change is there is the
            // database's to say.
            match transaction.commit().await {
                Ok(()) => Ok(Attempt::Committed(value)),
                Err(error) if Tx::is_conflict(&error) => Ok(Attempt::Conflict(error.into())),
                Err(error) => Err(MutationError::Commit(error.into())),
            }
        }
        Ok(Err(error)) => {
            // Rolling back first releases the database's locks while the sink works. A crash in
            // between: no effect, no answer to the caller, and no logs, as if the function had not
            // come this far.
            roll_back(transaction).await;
            make_durable(logs, requests).await.map_err(MutationError::Release)?;
            failed::<Tx, T, E>(error)
        }
        Err(refusal) => {
            // The function may have caught the error of `audit` and succeeded; it fails all the
            // same, and what it had emitted before is durable before anyone hears of that.
            roll_back(transaction).await;
            make_durable(logs, requests).await.map_err(MutationError::Release)?;
            Err(MutationError::Release(refusal.into()))
        }
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
    // From here on an execution that the host kept takes no more logs.
    let ended = attempt.end();
    match returned {
        Ok(sealed) if sealed.is_of(attempt) => sealed.settle().await,
        // The function may have logged to the execution that it was given and not to the one that
        // was sealed. It commits nothing, and whatever either of them logged becomes durable.
        Ok(foreign) => {
            let (transaction, logs, foreign_request) = foreign.give_up();
            roll_back(transaction).await;
            let released = salvage(ended, request).await;
            let foreign = make_durable(logs.as_deref(), std::slice::from_ref(&foreign_request));
            foreign.await.and(released).map_err(MutationError::Release)?;
            Err(MutationError::ForeignExecution)
        }
        // It was not sealed, or that came to nothing, and its transaction is gone. Its logs become
        // durable before anyone hears of the failure, since a failure is a result too.
        Err(error) => {
            salvage(ended, request).await.map_err(MutationError::Release)?;
            failed::<Tx, T, E>(error)
        }
    }
}

/// The same for one that panicked. The panic is the answer whatever happens to the logs, so a loss
/// is said aside.
pub(crate) async fn end_panicked(
    function: &FunctionName,
    attempt: &AttemptLogs,
    request: &RequestContext,
) {
    if let Err(error @ ReleaseError::NotDurable(_)) = salvage(attempt.end(), request).await {
        let source = error.source().map(ToString::to_string);
        tracing::error!(%function, %error, source, "the audit logs of a function that panicked may be lost");
    }
}

/// Makes the logs of an attempt durable that has no effect, unless it did so itself. Says so if a
/// log was refused: that is then why it failed.
async fn salvage(
    (outcome, logs): (Result<(), Refusal>, Option<Arc<SealedLogs>>),
    request: &RequestContext,
) -> Result<(), ReleaseError> {
    let logs = logs.filter(|logs| !logs.are_durable());
    release(outcome, logs.as_deref(), std::slice::from_ref(request)).await
}

/// Undoes a transaction. If that fails there is nothing left to do: it was not committed, and the
/// database drops it with its connection.
async fn roll_back<Tx: Transaction>(transaction: Tx) {
    if let Err(error) = transaction.rollback().await {
        tracing::warn!(%error, "a rollback failed; the database drops the transaction with its connection");
    }
}

//! The loop that retries a mutation on write conflicts.

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures::FutureExt;
use tracing::Instrument;
use tracing::field::Empty;

use crate::context::Context;
use crate::error::MutationError;
use crate::execution::Execution;
use crate::kinds::Mutation;
use crate::ordering;
use crate::provenance::FunctionName;
use crate::request::RequestContext;
use crate::transaction::{Attempt, AuditedTransaction, FunctionError, Transaction};

/// Runs attempts until one commits or fails, or the limit is reached.
pub(crate) async fn run<Tx, T, E, F, Fut>(
    context: &Context,
    function: FunctionName,
    request: &RequestContext,
    mut attempt: F,
) -> Result<T, MutationError<E>>
where
    Tx: Transaction,
    E: FunctionError<Tx::Error>,
    F: FnMut(Execution<Mutation>) -> Fut,
    Fut: Future<Output = Result<AuditedTransaction<Tx, T, E>, E>>,
{
    let span = tracing::info_span!(
        target: "audit::trace", "mutation", %function, request_id = %request.request_id().as_str(),
    );
    let attempts = async {
        let policy = context.retry_policy();
        let mut number = 1;
        let mut call = None;
        loop {
            let kind = Mutation::new(request.clone());
            let execution = Execution::begin(context.clone(), kind, function.clone());
            let execution = execution.with_attempt_of(call, number);
            let (execution, logs) = execution.attended();
            // What `attempt` does before it returns its future is part of the attempt.
            let attempt = async { attempt(execution).await };
            let settled = async {
                match AssertUnwindSafe(attempt).catch_unwind().await {
                    Ok(returned) => ordering::end_attempt(returned, &logs, request).await,
                    Err(panic) => {
                        ordering::end_panicked(&function, &logs, request).await;
                        resume_unwind(panic)
                    }
                }
            };
            let span =
                tracing::info_span!(target: "audit::trace", "attempt", number, outcome = Empty);
            let settled = settled.instrument(span.clone()).await;
            span.record(
                "outcome",
                match &settled {
                    Ok(Attempt::Committed(_)) => "committed",
                    Ok(Attempt::Conflict(_)) => "conflict",
                    Err(_) => "failed",
                },
            );
            let conflict = match settled? {
                Attempt::Committed(value) => return Ok(value),
                Attempt::Conflict(error) => error,
            };
            if number >= policy.max_attempts {
                return Err(MutationError::Conflict { attempts: number, source: conflict });
            }
            tokio::time::sleep(policy.backoff(number, context.random().next_u64())).await;
            (call, number) = (logs.call(), number + 1);
        }
    };
    attempts.instrument(span).await
}

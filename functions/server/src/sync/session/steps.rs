//! The steps of a session, which take all of the client's results from one time to a later one.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use audit_host::{Held, Holder};
use functions_calls::{Answered, CallError, Caller, Followed};
use functions_store::Snapshot;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{answer_of, error_answer};
use crate::Server;
use crate::calls::of_app;
use crate::sync::protocol::{self, Modification};
use crate::sync::query_set::{Asked, Change, Found, Has, Planned, Query, QuerySet, Ready, Step};

/// The maximum number of queries of one client that are computed at once.
const MAX_COMPUTED_AT_ONCE: usize = 16;

/// The first backoff before queries without a result are retried. It doubles each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest backoff.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The message when the logs of a result could not be made durable.
const NOT_DURABLE: &str = "The audit log could not be made durable, so the result is withheld. \
                           The query is retried.";

/// The client's result of a query.
type Live = Arc<Following>;
type FoundLive = Found<Live, Handed>;

/// What the host keeps of a client's result, and its share of the pool.
pub(super) struct Following {
    followed: Followed,
    _held: Held,
}

/// A released result on its way to the client.
pub(super) struct Handed {
    answered: Arc<Answered>,
    _held: Held,
}

pub(super) type Preparing = Pin<Box<dyn Future<Output = Prepared> + Send>>;

/// A step with its time and results.
pub(super) struct Prepared {
    step: Step<Live>,
    ts: u64,
    found: Vec<FoundLive>,
}

/// The queries of a session and the state of its steps. One step is prepared at a time.
pub(super) struct Steps {
    pub(super) queries: QuerySet<Live>,
    /// Notified when a result of the client is out of date.
    pub(super) outdated: Arc<Notify>,
    is_due: bool,
    /// The number of consecutive failed steps.
    retries: u32,
    pub(super) retry_at: Option<Instant>,
    pub(super) preparing: Option<Preparing>,
    /// One permit, which a step holds until it is written.
    pub(super) permits: Arc<Semaphore>,
    pub(super) next: Option<OwnedSemaphorePermit>,
    holder: Holder,
}

impl Steps {
    pub(super) fn new(holder: Holder) -> Steps {
        Steps {
            holder,
            queries: QuerySet::new(),
            outdated: Arc::new(Notify::new()),
            is_due: false,
            retries: 0,
            retry_at: None,
            preparing: None,
            permits: Arc::new(Semaphore::new(1)),
            next: None,
        }
    }

    pub(super) fn request(&mut self) {
        self.is_due = true;
    }

    /// Requests a step, since a mutation with this commit time was answered.
    pub(super) fn owe(&mut self, ts: u64) {
        self.queries.owe(ts);
        self.request();
    }

    /// Begins to prepare a step, if one was requested and the previous one is written. Each
    /// computed query gets its own caller.
    pub(super) fn begin(&mut self, server: &Server, caller: impl Fn() -> Caller) {
        if !self.is_due || self.preparing.is_some() || self.next.is_none() {
            return;
        }
        self.is_due = false;
        let step = self.queries.begin();
        let at = server.functions().latest();
        let holder = &self.holder;
        let finding = |planned: &Planned<Live>| finding(server, planned, &at, &caller, holder);
        let finding: Vec<_> = step.queries.iter().map(finding).collect();
        let ts = at.ts();
        self.preparing = Some(Box::pin(async move {
            let found = futures::stream::iter(finding).buffered(MAX_COMPUTED_AT_ONCE);
            let found = found.collect().await;
            Prepared { step, ts, found }
        }));
    }

    /// Ends a step. Returns the message for the client and the step's permit, if there is anything
    /// to send.
    pub(super) fn end(
        &mut self,
        server: &Server,
        Prepared { step, ts, found }: Prepared,
        clock_skew_ms: Option<i64>,
        now_ms: i64,
    ) -> Option<(String, Option<OwnedSemaphorePermit>)> {
        for found in &found {
            match found {
                Found::Same(result) | Found::Handed(result, _) => {
                    result.followed.watch().on_invalid(&self.outdated);
                }
                Found::Holds | Found::Error(_) => {}
            }
        }
        if found.iter().any(|found| matches!(found, Found::Error(_))) {
            let backoff = FIRST_RETRY.saturating_mul(1 << self.retries.min(10)).min(LAST_RETRY);
            self.retries = self.retries.saturating_add(1);
            self.retry_at = Some(Instant::now() + backoff);
        } else {
            (self.retries, self.retry_at) = (0, None);
        }
        let journals = journals(&step, &found);
        let Ready { start, end, changes } = self.queries.finish(step, ts, found)?;
        let bytes = changes.iter().map(|change| match change {
            Change::Handed { answer, .. } => answer.answered.bytes(),
            Change::Error { message, .. } => message.len(),
            Change::Removed { .. } => 0,
        });
        // Takes the memory for the text before it is built: queries may share one result, but the
        // text contains it once for each.
        let _held = server.budget().answers().try_hold(bytes.sum(), &self.holder)?;
        let modifications = changes.iter().map(|change| match change {
            Change::Handed { query_id, answer } => {
                let journal = journals
                    .iter()
                    .find(|(id, _)| id == query_id)
                    .and_then(|(_, journal)| journal.as_deref());
                let answer = answer_of(&answer.answered);
                Modification::Answered { query_id: *query_id, answer, journal }
            }
            Change::Error { query_id, message } => Modification::Answered {
                query_id: *query_id,
                answer: error_answer(message),
                journal: None,
            },
            Change::Removed { query_id } => Modification::Removed { query_id: *query_id },
        });
        let server_ts = u64::try_from(now_ms).unwrap_or(0).saturating_mul(1_000_000);
        let text = protocol::transition(start, end, modifications, clock_skew_ms, server_ts);
        metrics::counter!("functions_sync_transitions_total").increment(1);
        Some((text, self.next.take()))
    }
}

/// Computes a query at this time, unless the client's result still holds.
fn finding(
    server: &Server,
    planned: &Planned<Live>,
    at: &Snapshot,
    caller: impl Fn() -> Caller,
    holder: &Holder,
) -> BoxFuture<'static, FoundLive> {
    let before = match &planned.has {
        Some(Has::Result(result)) => Some(Arc::clone(result)),
        Some(Has::Error(_)) | None => None,
    };
    // A watch is invalid before any snapshot shows the commit or a later one.
    let holds =
        |result: &Live| result.followed.watch().invalid_since().is_none_or(|since| at.ts() < since);
    if before.as_ref().is_some_and(holds) {
        return std::future::ready(Found::Holds).boxed();
    }
    let asked = Arc::clone(&planned.asked);
    find(server.clone(), at.clone(), asked, before, caller(), holder.clone()).boxed()
}

/// Computes a query at this time. A result that the client does not have is released, so its audit
/// log says that this client received it.
async fn find(
    server: Server,
    at: Snapshot,
    asked: Arc<Asked>,
    before: Option<Live>,
    caller: Caller,
    holder: Holder,
) -> FoundLive {
    let found = async {
        let Query { path, component, args, journal } = &asked.query;
        let functions = server.functions();
        let key = functions.query_key(&of_app(path.clone(), component.clone())?, args, &caller)?;
        let journal = match &before {
            Some(before) => before.followed.journal().map(|journal| &**journal),
            None => journal.as_deref(),
        };
        let result = functions.sealed_at(&at, &key, journal).await;
        let budget = server.budget();
        let followed = result.followed().clone();
        let held = budget.followed().share(followed.watch(), followed.bytes(), &holder);
        let is_same = before.is_some_and(|before| before.followed.same_result(&followed));
        let following = Arc::new(Following { followed, _held: held });
        if is_same {
            return Ok(Found::Same(following));
        }
        let answered = result.release(&caller).await?;
        let held = budget.answers().share(&answered, answered.bytes(), &holder);
        metrics::counter!("functions_sync_results_total").increment(1);
        Ok(Found::Handed(following, Handed { answered, _held: held }))
    };
    found.await.unwrap_or_else(|error: CallError| {
        let is_durable = !matches!(error, CallError::NotDurable(_));
        Found::Error(if is_durable { error.to_string() } else { NOT_DURABLE.to_owned() })
    })
}

/// The journal of each released result, which tells where its pages ended.
fn journals(step: &Step<Live>, found: &[FoundLive]) -> Vec<(u32, Option<Arc<str>>)> {
    let handed = step.queries.iter().zip(found).filter_map(|(query, found)| match found {
        Found::Handed(result, _) => Some((query.query_id, result.followed.journal().cloned())),
        Found::Same(_) | Found::Holds | Found::Error(_) => None,
    });
    handed.collect()
}

//! A sink that persists to several other sinks.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use audit_core::{
    AuditSink, Batch, Commits, Health, HealthState, Mirror, Outcome, Receipt, SinkError,
    SinkErrorKind, async_trait,
};
use futures::FutureExt;
use futures::future::{join, join_all, select_all};

use crate::log_limit::LogLimit;

/// A sink that persists every batch to several other sinks, required or optional.
///
/// The receipt, with its durability and place, is that of the first sink. A batch is durable once
/// all *required* sinks have it. An *optional* sink does not affect durability; its failures and
/// panics are logged as warnings, once for each change.
///
/// ```
/// # use std::sync::Arc;
/// # use audit_core::testing::MemorySink;
/// use audit_runtime::{AuditRuntime, Tee};
///
/// # let (bucket, second_region, siem) = (MemorySink::new(), MemorySink::new(), MemorySink::new());
/// let tee = Tee::new(Arc::new(bucket)).with_required(Arc::new(second_region));
/// let runtime = AuditRuntime::new(Arc::new(tee.with_optional(Arc::new(siem))));
/// ```
///
/// A *mirror* is required too. It persists each batch after the other sinks, under the ids that the
/// first sink assigned, so that a record has the same id in the bucket and in a log stream. If the
/// first sink assigns none, every batch fails.
///
/// # Failures
///
/// If a required sink fails, the batch is *not persisted* only if every sink reports that;
/// otherwise it is indeterminate, since some sink has or may have it. A retry may then persist it
/// twice there.
#[derive(Debug)]
pub struct Tee {
    first: Arc<dyn AuditSink>,
    required: Vec<Arc<dyn AuditSink>>,
    mirrors: Vec<Arc<dyn Mirror>>,
    optional: Vec<Optional>,
    optional_timeout: Duration,
    is_closed: AtomicBool,
}

#[derive(Debug)]
struct Optional {
    sink: Arc<dyn AuditSink>,
    misses: LogLimit,
}

/// How long a batch that is durable in the required sinks waits for the optional ones: longer than
/// a bucket usually takes, but short enough for a caller.
const DEFAULT_OPTIONAL_TIMEOUT: Duration = Duration::from_secs(1);

impl Tee {
    /// A tee with one required sink, whose receipts it returns.
    pub fn new(first: Arc<dyn AuditSink>) -> Tee {
        Tee {
            first,
            required: Vec::new(),
            mirrors: Vec::new(),
            optional: Vec::new(),
            optional_timeout: DEFAULT_OPTIONAL_TIMEOUT,
            is_closed: AtomicBool::new(false),
        }
    }

    /// Adds a required sink.
    pub fn with_required(mut self, sink: Arc<dyn AuditSink>) -> Tee {
        self.required.push(sink);
        self
    }

    /// Adds a mirror: a required sink that keeps the ids of the first one. It gets a batch once all
    /// other required sinks have it, so its latency adds to theirs.
    pub fn with_mirror(mut self, mirror: Arc<dyn Mirror>) -> Tee {
        self.mirrors.push(mirror);
        self
    }

    /// Adds an optional sink. It misses batches that it does not persist in time, and those that
    /// arrive while it fails.
    pub fn with_optional(mut self, sink: Arc<dyn AuditSink>) -> Tee {
        self.optional.push(Optional { sink, misses: LogLimit::new() });
        self
    }

    /// How long a batch that is durable in all required sinks waits for the optional ones, counted
    /// from the beginning of `persist`. The default is 1 second.
    pub fn with_optional_timeout(self, timeout: Duration) -> Tee {
        Tee { optional_timeout: timeout, ..self }
    }

    /// The required sinks other than mirrors, which get a batch first.
    fn required(&self) -> impl Iterator<Item = &Arc<dyn AuditSink>> {
        std::iter::once(&self.first).chain(&self.required)
    }

    /// All required sinks, mirrors included.
    fn all_required(&self) -> impl Iterator<Item = Arc<dyn AuditSink>> {
        let mirrors = self.mirrors.iter().map(|mirror| Arc::clone(mirror) as Arc<dyn AuditSink>);
        self.required().cloned().chain(mirrors)
    }

    /// Persists to the mirrors a batch that the other required sinks have.
    async fn mirror(&self, batch: &Batch, receipt: Receipt) -> Result<Receipt, SinkError> {
        let Some(mirror) = self.mirrors.first() else { return Ok(receipt) };
        let Some(place) = receipt.place else {
            let message = format!(
                "{} gives records no ids, so {mirror} cannot keep them: make it the first sink",
                self.first
            );
            return Err(SinkError::not_persisted(SinkErrorKind::Blocked, message));
        };
        let mirrored =
            join_all(self.mirrors.iter().map(|mirror| mirror.persist_at(batch.clone(), place)));
        mirrored.await.into_iter().collect::<Result<(), _>>()?;
        Ok(receipt)
    }

    /// Waits for an optional sink, up to the time limit. A panic of the sink becomes an error.
    async fn optional<T>(
        &self,
        asked: impl Future<Output = Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        let failed = |why| Err(SinkError::indeterminate(SinkErrorKind::Unavailable, why));
        let asked = AssertUnwindSafe(asked).catch_unwind();
        match tokio::time::timeout(self.optional_timeout, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_panic)) => failed("it panicked"),
            Err(_elapsed) => failed("it timed out"),
        }
    }

    /// Calls every sink. Returns the first error of a required one.
    async fn of_each<F: Future<Output = Result<(), SinkError>>>(
        &self,
        ask: impl Fn(Arc<dyn AuditSink>) -> F,
    ) -> Result<(), SinkError> {
        let required = join_all(self.all_required().map(&ask));
        let optional = self.optional.iter().map(async |Optional { sink, .. }| {
            if let Err(problem) = self.optional(ask(Arc::clone(sink))).await {
                tracing::warn!(%sink, %problem, "an optional audit sink may miss records");
            }
        });
        let (required, _) = join(required, join_all(optional)).await;
        required.into_iter().collect()
    }
}

fn severity(commits: &Commits) -> u8 {
    match commits {
        Commits::Accepted => 0,
        Commits::Refused { .. } => 1,
        Commits::Stopped { .. } => 2,
    }
}

/// The state, with the sink's name in its reason.
fn named(sink: &Arc<dyn AuditSink>, state: HealthState) -> HealthState {
    match state {
        HealthState::Ok => HealthState::Ok,
        HealthState::Retrying { reason } => {
            HealthState::Retrying { reason: format!("{sink}: {reason}") }
        }
        HealthState::Blocked { reason } => {
            HealthState::Blocked { reason: format!("{sink}: {reason}") }
        }
    }
}

/// Adds another sink's health, except whether it accepts batches.
fn add(all: &mut Health, sink: &Arc<dyn AuditSink>, other: Health) {
    let Health {
        state,
        commits: _,
        pending_batches,
        pending_bytes,
        objects_delivered,
        records_delivered,
        retries,
        conflicts,
        panics,
        create_only,
        journal_bytes,
        oldest_undelivered_ms,
        verifier_key,
        last_error,
        followers,
        witnesses,
    } = other;
    all.state = match (std::mem::take(&mut all.state), named(sink, state)) {
        (blocked @ HealthState::Blocked { .. }, _) | (_, blocked @ HealthState::Blocked { .. }) => {
            blocked
        }
        (HealthState::Ok, other) => other,
        (retrying @ HealthState::Retrying { .. }, _) => retrying,
    };
    // Every sink that writes evidence has its own key; the first one is shown.
    all.verifier_key = all.verifier_key.take().or(verifier_key);
    all.pending_batches += pending_batches;
    all.pending_bytes += pending_bytes;
    all.objects_delivered += objects_delivered;
    all.records_delivered += records_delivered;
    all.retries += retries;
    all.conflicts += conflicts;
    all.panics += panics;
    all.create_only = match (all.create_only, create_only) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        (None, _) | (_, None) => None,
    };
    let sum = |a, b| a + b;
    all.journal_bytes = all.journal_bytes.into_iter().chain(journal_bytes).reduce(sum);
    let oldest = all.oldest_undelivered_ms.into_iter().chain(oldest_undelivered_ms);
    all.oldest_undelivered_ms = oldest.min();
    all.last_error = all.last_error.take().or(last_error);
    all.followers.extend(followers);
    all.witnesses.extend(witnesses);
}

#[async_trait]
impl AuditSink for Tee {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(SinkError::closed());
        }
        let required = join_all(self.required().map(|sink| sink.persist(batch.clone())));
        let optional = self.optional.iter().map(async |optional| {
            let persisted = self.optional(async { optional.sink.persist(batch.clone()).await });
            (optional, persisted.await)
        });
        let (required, optional) = join(required, join_all(optional)).await;
        let mut is_anywhere = false;
        for (Optional { sink, misses }, answer) in optional {
            match answer {
                Ok(_) => {
                    is_anywhere = true;
                    if let Some(others) = misses.works() {
                        tracing::warn!(%sink, others, "an optional audit sink takes records again");
                    }
                }
                Err(problem) => {
                    is_anywhere |= problem.outcome() == Outcome::Indeterminate;
                    if let Some(others) = misses.fails() {
                        tracing::warn!(
                            %sink,
                            %problem,
                            others,
                            "an optional audit sink misses records"
                        );
                    }
                }
            }
        }
        is_anywhere |= required.iter().any(|answer| match answer {
            Ok(_) => true,
            Err(error) => error.outcome() == Outcome::Indeterminate,
        });
        let mut answers = required.into_iter();
        let receipt = answers.next().expect("the first sink");
        let error = match receipt {
            Ok(receipt) => match answers.find_map(Result::err) {
                // A crash before the mirrors have it: the other sinks do, but the caller has no
                // receipt.
                None => match self.mirror(&batch, receipt).await {
                    Ok(receipt) => return Ok(receipt),
                    Err(error) => error,
                },
                Some(error) => error,
            },
            Err(error) => error,
        };
        if is_anywhere && error.outcome() == Outcome::NotPersisted {
            let kind = error.kind();
            let message = "one of several audit sinks failed; another may have the records";
            return Err(SinkError::indeterminate(kind, message).with_source(error));
        }
        Err(error)
    }

    async fn flush(&self) -> Result<(), SinkError> {
        self.of_each(|sink| async move { sink.flush().await }).await
    }

    /// Batches are accepted while all required sinks accept them. The state is the worst of all
    /// sinks, optional ones included; amounts are sums.
    fn health(&self) -> Health {
        let mut all = self.first.health();
        all.state = named(&self.first, all.state);
        for sink in &self.all_required().skip(1).collect::<Vec<_>>() {
            let health = sink.health();
            if severity(&health.commits) > severity(&all.commits) {
                all.commits = health.commits.clone();
            }
            add(&mut all, sink, health);
        }
        self.optional.iter().for_each(|Optional { sink, .. }| add(&mut all, sink, sink.health()));
        all
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
        let any = select_all(self.all_required().map(|sink| sink.stopped()));
        Box::pin(any.map(|(reason, _, _)| reason))
    }

    async fn close(&self) -> Result<(), SinkError> {
        // An optional sink that does not close in time would continue to accept batches.
        self.is_closed.store(true, Ordering::Relaxed);
        self.of_each(|sink| async move { sink.close().await }).await
    }
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tee({}", self.first)?;
        self.required.iter().try_for_each(|sink| write!(f, ", {sink}"))?;
        self.mirrors.iter().try_for_each(|sink| write!(f, ", then {sink}"))?;
        self.optional
            .iter()
            .try_for_each(|Optional { sink, .. }| write!(f, ", optional {sink}"))?;
        f.write_str(")")
    }
}

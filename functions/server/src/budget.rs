//! The memory of all requests together, from the first byte of a body until the response is
//! written.
//!
//! Each stage has its own budget, so that slow bodies never hold up complete ones. *Receiving* is
//! the bytes of incomplete bodies and messages. *Performing* is the memory of a parsed call,
//! estimated from its text before it is parsed; small calls have a separate share, so large ones
//! cannot hold them up. *Answering* is responses until the client has read them (see [`Pool`]).
//! Sessions also hold the arguments of the queries that they subscribe to.

use std::sync::Arc;
use std::time::Duration;

use audit_host::Pool;
use axum::http::StatusCode;
use functions_calls::Functions;
use functions_value::Scanned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::limits::NetworkLimits;
use super::problem::Problem;

/// The maximum size of a body or message, in bytes: the largest arguments (16 MiB) and their
/// envelope.
pub(super) const MAX_BODY_BYTES: usize = 17 << 20;

/// The number of bytes that each connection may receive uncounted. The number of connections is
/// limited.
pub(super) const FREE_BYTES: usize = 64 << 10;

/// How often a body that is not parsed counts, in addition to its share as received bytes.
///
/// A process took twice the length of a body of 16 MiB to receive it, as is counted there. It took
/// one time more for `arrayBuffer()`, and four times more for `text()`: the engine's bytes, and the
/// text while it is decoded. The rest is room for what the function makes of it.
const CARRIED_COPIES: usize = 5;

/// The maximum nesting of a body, in levels: more than that of arguments (64), and within the limit
/// of the parser.
const MAX_DEPTH: usize = 120;

/// The maximum estimated memory of a small call, in bytes.
const SMALL_BYTES: usize = 1 << 20;

/// How long a call waits for its share.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The number of bytes per permit. Permits are counted in 32 bits.
const UNIT_BYTES: usize = 1 << 10;

/// The budget of all requests together.
#[derive(Debug)]
pub(super) struct Budget {
    /// The functions whose kept engines are dropped when memory is short.
    functions: Option<Functions>,
    receiving: Arc<Semaphore>,
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    large_units: usize,
    max_nodes: usize,
    answers: Arc<Pool>,
    followed: Arc<Pool>,
}

/// A part of the budget. Dropping it frees it.
#[derive(Debug)]
pub(super) struct Share {
    permit: OwnedSemaphorePermit,
}

impl Share {
    /// Adds another share to this one.
    pub(super) fn merge(&mut self, mut other: Share) {
        // Nothing is left of `other`, so dropping it subtracts nothing.
        if let Some(permit) = other.permit.split(other.permit.num_permits()) {
            self.permit.merge(permit);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        in_flight().decrement((self.permit.num_permits() * UNIT_BYTES) as f64);
    }
}

fn in_flight() -> metrics::Gauge {
    metrics::gauge!("functions_requests_bytes")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The request exceeds the limit of one request.
    TooLarge,
    TooDeep,
    TooManyNodes,
    /// Other requests use up the budget.
    Busy,
    /// The body did not arrive in time.
    TooSlow,
    /// The body ended early.
    Broken,
}

impl Refused {
    pub(super) fn label(self) -> &'static str {
        match self {
            Refused::TooLarge => "too_large",
            Refused::TooDeep => "too_deep",
            Refused::TooManyNodes => "too_many_values",
            Refused::Busy => "memory",
            Refused::TooSlow => "too_slow",
            Refused::Broken => "broken",
        }
    }

    pub(super) fn message(self) -> String {
        match self {
            Refused::TooLarge => {
                format!(
                    "the body exceeds limit of {MAX_BODY_BYTES} bytes, or that of the memory of one call"
                )
            }
            Refused::TooDeep => {
                format!("the body is nested deeper than limit of {MAX_DEPTH} levels")
            }
            Refused::TooManyNodes => "the body has more values than a call may have".to_owned(),
            Refused::Busy => "too many requests are in progress: retry later".to_owned(),
            Refused::TooSlow => "the body did not arrive in time".to_owned(),
            Refused::Broken => "the body ended early".to_owned(),
        }
    }

    pub(super) fn counted(self) -> Refused {
        metrics::counter!("functions_requests_refused_total", "reason" => self.label())
            .increment(1);
        self
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        let (status, code) = match refused {
            Refused::TooLarge | Refused::TooManyNodes => {
                (StatusCode::PAYLOAD_TOO_LARGE, "TooLarge")
            }
            Refused::TooDeep | Refused::Broken => (StatusCode::BAD_REQUEST, "BadJsonBody"),
            Refused::Busy => (StatusCode::SERVICE_UNAVAILABLE, "TooManyConcurrentRequests"),
            Refused::TooSlow => (StatusCode::REQUEST_TIMEOUT, "RequestTimeout"),
        };
        Problem::new(status, code, refused.message())
    }
}

impl Budget {
    pub(super) fn new(limits: &NetworkLimits) -> Budget {
        let units = limits.request_memory_bytes / UNIT_BYTES;
        // A half is for large calls, an eighth each for incomplete bodies, for small calls and for
        // answers, and a sixteenth each for subscribed queries and for outcomes of mutations.
        let (receiving, small, large_units) = (units / 8, units / 8, units / 2);
        let bytes = limits.request_memory_bytes;
        Budget {
            functions: None,
            receiving: Arc::new(Semaphore::new(receiving)),
            small: Arc::new(Semaphore::new(small)),
            large: Arc::new(Semaphore::new(large_units)),
            large_units,
            max_nodes: limits.max_request_values,
            answers: Arc::new(Pool::new("answers", bytes / 8)),
            followed: Arc::new(Pool::new("followed", bytes / 16)),
        }
    }

    /// The same budget, which drops the kept engines of these functions when memory is short.
    pub(super) fn with_engines_of(self, functions: Functions) -> Budget {
        Budget { functions: Some(functions), ..self }
    }

    /// The limit of the outcomes of mutations that clients may ask for in retries, in bytes.
    pub(super) fn outcomes_bytes(limits: &NetworkLimits) -> usize {
        limits.request_memory_bytes / 16
    }

    /// The responses that clients have not read yet.
    pub(super) fn answers(&self) -> &Arc<Pool> {
        &self.answers
    }

    /// The arguments of subscribed queries.
    pub(super) fn followed(&self) -> &Arc<Pool> {
        &self.followed
    }

    /// Takes a share for received bytes, without waiting: clients that have each sent half of a
    /// body must not wait for each other.
    pub(super) fn receive(&self, bytes: usize) -> Result<Share, Refused> {
        let units = units(bytes);
        let permit = Arc::clone(&self.receiving).try_acquire_many_owned(units);
        permit.map(share).map_err(|_| Refused::Busy)
    }

    /// Waits for a share for a call with this text, to be held until the call has ended.
    pub(super) async fn perform(&self, text: &[u8]) -> Result<Share, Refused> {
        let scanned = Scanned::of(text);
        if scanned.depth > MAX_DEPTH {
            return Err(Refused::TooDeep.counted());
        }
        if scanned.values > self.max_nodes {
            return Err(Refused::TooManyNodes.counted());
        }
        self.take(call_bytes(&scanned, text.len())).await
    }

    /// As [`perform`](Self::perform), for the body of an HTTP action, which is not parsed.
    pub(super) async fn carry(&self, bytes: usize) -> Result<Share, Refused> {
        self.take(CARRIED_COPIES * bytes).await
    }

    async fn take(&self, bytes: usize) -> Result<Share, Refused> {
        let lane = if bytes <= SMALL_BYTES { &self.small } else { &self.large };
        if bytes / UNIT_BYTES >= self.large_units {
            return Err(Refused::TooLarge.counted());
        }
        let acquired = Arc::clone(lane).acquire_many_owned(units(bytes));
        match timeout(MAX_WAIT, acquired).await {
            Ok(Ok(permit)) => Ok(share(permit)),
            Ok(Err(_)) | Err(_) => {
                if let Some(functions) = &self.functions {
                    functions.drop_kept_engines();
                }
                Err(Refused::Busy.counted())
            }
        }
    }
}

/// The maximum memory of a call with these contents, in bytes.
///
/// The text is copied many times: escaped and unescaped on the way into the engine, by the
/// function, and on the way to the store and to the log. A single string of 12 MiB took 14 times
/// its length. Three trees exist at once: the parsed arguments, their copy, and the function's
/// value. A test compares the estimate with the memory of a process.
fn call_bytes(scanned: &Scanned, text_bytes: usize) -> usize {
    const TREES: usize = 3;
    const TEXTS: usize = 15;
    TEXTS * text_bytes + TREES * scanned.tree_bytes()
}

/// The memory of parsed arguments, in bytes.
pub(super) fn parsed_bytes(text: &str) -> usize {
    text.len() + Scanned::of(text.as_bytes()).tree_bytes()
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

fn share(permit: OwnedSemaphorePermit) -> Share {
    in_flight().increment((permit.num_permits() * UNIT_BYTES) as f64);
    Share { permit }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_kept_and_small_calls_have_a_share() {
        let limits = NetworkLimits {
            request_memory_bytes: 64 << 20,
            max_request_values: 1_000_000,
            ..NetworkLimits::default()
        };
        let budget = Budget::new(&limits);
        let large = format!("[{}0]", "{\"a\":1},".repeat(8_000));
        let mut held = Vec::new();
        while let Ok(share) = budget.perform(large.as_bytes()).await {
            held.push(share);
        }
        let bytes = call_bytes(&Scanned::of(large.as_bytes()), large.len());
        assert!(held.len() * bytes <= 32 << 20 && (held.len() + 1) * bytes > 32 << 20);
        // A small call does not wait for large ones.
        drop(budget.perform(b"{}").await.unwrap());
        held.pop();
        drop(budget.perform(large.as_bytes()).await.unwrap());

        let huge = format!("[{}0]", "{\"a\":1},".repeat(30_000));
        assert_eq!(budget.perform(huge.as_bytes()).await.unwrap_err(), Refused::TooLarge);
        let deep = "[".repeat(MAX_DEPTH + 1);
        assert_eq!(budget.perform(deep.as_bytes()).await.unwrap_err(), Refused::TooDeep);
        let wide = ",".repeat(1_000_001);
        assert_eq!(budget.perform(wide.as_bytes()).await.unwrap_err(), Refused::TooManyNodes);

        let arriving: Vec<_> = std::iter::from_fn(|| budget.receive(1 << 20).ok()).collect();
        assert_eq!(arriving.len(), 8);
    }

    #[test]
    fn the_gauge_is_zero_once_every_share_is_dropped() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = || {
            let rendered = recorder.handle().render();
            let line = rendered.lines().find(|line| line.starts_with("functions_requests_bytes "));
            line.and_then(|line| line.split_once(' ')?.1.parse::<usize>().ok()).unwrap_or(0)
        };
        metrics::with_local_recorder(&recorder, || {
            let budget = Budget::new(&NetworkLimits::default());
            let mut held = budget.receive(1 << 20).unwrap();
            for pieces in 2..=4 {
                held.merge(budget.receive(1 << 20).unwrap());
                assert_eq!(shown(), pieces << 20);
            }
            let other = budget.receive(1 << 20).unwrap();
            drop(held);
            assert_eq!(shown(), 1 << 20);
            drop(other);
            assert_eq!(shown(), 0);
        });
    }
}

//! Permits that clients take in turns.

use std::fmt;
use std::sync::Arc;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Lane, Turn, Turns};

/// Limits of a [`FairSemaphore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FairLimits {
    /// The number of permits, at least 1.
    pub permits: usize,
    /// Whether there is one more permit, for [prompt](Turns) requests while all others are taken.
    pub has_prompt_permit: bool,
    /// The most requests of one client that wait; further ones are refused.
    pub max_waiting_of_client: usize,
    /// The most requests that wait. Beyond it, a request of the client with the most is refused.
    pub max_waiting: usize,
}

/// Permits that clients take in [turns](Turns), by the time for which they have held them.
///
/// A request of a client that was idle waits for at most one request of each other client,
/// whatever they have queued. Every second permit goes to such a request, so that a client that
/// sends one at a time does not wait for all others each time. Cheap to clone.
///
/// # Metrics
///
/// By `of`, the kind: `audit_turns_waiting` is the number of waiting requests,
/// `audit_turns_wait_seconds` the time until a permit, and `audit_turns_refused_total` counts
/// refused requests by `reason`: `client` or `all`.
#[derive(Clone)]
pub struct FairSemaphore {
    shared: Arc<Shared>,
}

struct Shared {
    kind: &'static str,
    limits: FairLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    turns: Turns<Waiter>,
    /// The number of taken permits, without the one for prompt requests.
    taken: usize,
    /// Whether the last permit went to a client that was idle.
    was_idle: bool,
    is_prompt_taken: bool,
}

impl State {
    fn next(&mut self) -> Option<(Waiter, Turn)> {
        let idle = if self.was_idle { None } else { self.turns.pop_idle() };
        self.was_idle = idle.is_some();
        idle.or_else(|| self.turns.pop())
    }
}

struct Waiter {
    granted: oneshot::Sender<Granted>,
    since: Instant,
}

#[derive(Debug)]
struct Granted {
    turn: Turn,
    is_prompt: bool,
    began: Instant,
}

/// Too many requests are waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// This client has too many waiting requests.
    #[error(
        "the requests of this client that wait have reached the limit of {limit}: send fewer at once"
    )]
    Client {
        /// The limit.
        limit: usize,
    },
    /// All clients together have too many waiting requests, and this client has the most.
    #[error("the requests that wait have reached the limit of {limit}: retry later")]
    All {
        /// The limit.
        limit: usize,
    },
}

impl Busy {
    /// 429 or 503.
    pub fn http_status(self) -> u16 {
        match self {
            Busy::Client { .. } => 429,
            Busy::All { .. } => 503,
        }
    }

    fn counted(self, kind: &'static str) -> Busy {
        let reason = match self {
            Busy::Client { .. } => "client",
            Busy::All { .. } => "all",
        };
        metrics::counter!("audit_turns_refused_total", "of" => kind, "reason" => reason)
            .increment(1);
        self
    }
}

impl FairSemaphore {
    /// Creates permits for a kind of work, by which metrics name them.
    pub fn new(kind: &'static str, limits: FairLimits) -> FairSemaphore {
        // Without a permit, requests would wait forever.
        let limits = FairLimits { permits: limits.permits.max(1), ..limits };
        describe_gauge!("audit_turns_waiting", "Requests that wait for their client's turn");
        describe_histogram!(
            "audit_turns_wait_seconds",
            Unit::Seconds,
            "The time that a request waited for its client's turn"
        );
        describe_counter!(
            "audit_turns_refused_total",
            "Requests refused because too many were waiting, by reason"
        );
        FairSemaphore { shared: Arc::new(Shared { kind, limits, state: Mutex::default() }) }
    }

    /// Waits for this lane's turn. Dropping the permit frees it.
    ///
    /// # Errors
    ///
    /// If too many requests are waiting.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the request waits no more, and gets no permit.
    pub async fn acquire(&self, lane: Lane) -> Result<Permit, Busy> {
        let granted = self.shared.enter(lane)?;
        let shared = Arc::clone(&self.shared);
        let mut waiting = Waiting { shared, lane, granted, has_ended: false };
        let granted = (&mut waiting.granted).await;
        waiting.has_ended = true;
        match granted {
            Ok(granted) => Ok(Permit { shared: Arc::clone(&self.shared), granted }),
            // The request's place went to a client with fewer waiting requests.
            Err(_) => Err(self.shared.all_are_waiting()),
        }
    }

    /// The number of waiting requests.
    pub fn waiting(&self) -> usize {
        self.shared.state.lock().turns.waiting()
    }
}

impl fmt::Debug for FairSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { kind, limits, .. } = &*self.shared;
        f.debug_struct("FairSemaphore").field("kind", kind).field("limits", limits).finish()
    }
}

impl Shared {
    fn enter(&self, lane: Lane) -> Result<oneshot::Receiver<Granted>, Busy> {
        let FairLimits { max_waiting_of_client: limit, max_waiting, .. } = self.limits;
        let mut state = self.state.lock();
        let of_client = state.turns.waiting_of(lane);
        if of_client >= limit {
            return Err(Busy::Client { limit }.counted(self.kind));
        }
        let (granted, grant) = oneshot::channel();
        state.turns.push(lane, Waiter { granted, since: Instant::now() });
        self.grant(&mut state);
        if state.turns.waiting() > max_waiting {
            // Dropping the waiter wakes its request, which may be this one.
            drop(state.turns.remove_longest(lane));
        }
        self.show(&state);
        Ok(grant)
    }

    fn all_are_waiting(&self) -> Busy {
        Busy::All { limit: self.limits.max_waiting }.counted(self.kind)
    }

    /// Hands out free permits.
    fn grant(&self, state: &mut State) {
        loop {
            let is_prompt = state.taken >= self.limits.permits;
            let next = match is_prompt {
                false => state.next(),
                true if self.limits.has_prompt_permit && !state.is_prompt_taken => {
                    state.turns.pop_prompt()
                }
                true => None,
            };
            let Some((Waiter { granted, since }, turn)) = next else { return };
            let began = Instant::now();
            match granted.send(Granted { turn, is_prompt, began }) {
                Ok(()) => {
                    state.taken += usize::from(!is_prompt);
                    state.is_prompt_taken |= is_prompt;
                    metrics::histogram!("audit_turns_wait_seconds", "of" => self.kind)
                        .record(began - since);
                }
                // The request was just cancelled.
                Err(Granted { turn, .. }) => state.turns.end(turn, None),
            }
        }
    }

    /// Frees a permit. It was not held if the request was cancelled before it took the permit.
    fn free(&self, granted: &Granted, was_held: bool) {
        let Granted { turn, is_prompt, began } = *granted;
        let mut state = self.state.lock();
        state.turns.end(turn, was_held.then(|| began.elapsed()));
        state.taken -= usize::from(!is_prompt);
        state.is_prompt_taken &= !is_prompt;
        self.grant(&mut state);
        self.show(&state);
    }

    fn show(&self, state: &State) {
        let waiting = state.turns.waiting() as f64;
        metrics::gauge!("audit_turns_waiting", "of" => self.kind).set(waiting);
    }
}

/// A request that waits for its permit until this is dropped.
struct Waiting {
    shared: Arc<Shared>,
    lane: Lane,
    granted: oneshot::Receiver<Granted>,
    /// Whether the permit was granted or refused.
    has_ended: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        self.granted.close();
        match self.granted.try_recv() {
            Ok(granted) => self.shared.free(&granted, false),
            Err(_) => {
                let mut state = self.shared.state.lock();
                state.turns.retain(self.lane, |waiter| !waiter.granted.is_closed());
                self.shared.show(&state);
            }
        }
    }
}

/// A permit of a [`FairSemaphore`]. Dropping it frees it.
#[must_use = "dropping it frees it"]
pub struct Permit {
    shared: Arc<Shared>,
    granted: Granted,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.free(&self.granted, true);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("granted", &self.granted).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "semaphore_tests.rs"]
mod tests;

//! The mutations of clients, which run in the order in which they were sent, each once.
//!
//! A client that loses its connection retries unanswered mutations under their old numbers. So a
//! mutation belongs to the client and not to the connection: it continues when the connection is
//! lost, and a retry gets the earlier outcome. Outcomes are kept in memory, for a limited time and
//! up to a limited size. A mutation whose outcome was dropped does not run a second time; the retry
//! gets an error. Clients number their mutations upwards, so one number tells which of them have
//! run. A retry that reaches another process, or comes much later, does run.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use functions_calls::Lane;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// The id of a client, which the client chooses at random and keeps secret.
pub(super) type SessionId = u128;

/// The maximum number of remembered mutations of one client. A client whose connection breaks may
/// lack more responses than it has calls in flight: those that were written and never arrived.
const MAX_REMEMBERED: usize = 1_024;

/// The maximum size of the outcomes of one client, in bytes.
const MAX_CLIENT_BYTES: usize = 1 << 20;

/// The overhead of an outcome, in bytes.
const OVERHEAD_BYTES: usize = 512;

/// How long outcomes are kept after the client has disconnected. Clients retry within 16 seconds.
const KEPT_FOR: Duration = Duration::from_secs(120);

/// The maximum number of remembered clients that have disconnected.
const MAX_GONE: usize = 4_096;

/// The outcome of a mutation. Cheap to clone.
pub(crate) trait Outcome: Clone + Send + Sync + 'static {
    /// Its approximate memory, in bytes.
    fn bytes(&self) -> usize;
}

/// The reason that a mutation has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    Panicked,
    /// The mutation ended, and its outcome was dropped.
    Forgotten,
}

/// The connected clients, and those that may reconnect.
pub(crate) struct Mutations<T> {
    state: Mutex<State<T>>,
    kept: Arc<Kept<T>>,
}

struct State<T> {
    clients: HashMap<SessionId, Entry<T>>,
    /// The clients that have disconnected, earliest first.
    gone: VecDeque<Gone>,
}

struct Gone {
    session: SessionId,
    at: Instant,
    address: Lane,
}

struct Entry<T> {
    client: Arc<Client<T>>,
    connections: usize,
    gone_at: Option<Instant>,
}

impl<T: Outcome> Mutations<T> {
    /// `limit_bytes` limits the outcomes of all clients together.
    pub(crate) fn new(limit_bytes: usize) -> Mutations<T> {
        let state = State { clients: HashMap::new(), gone: VecDeque::new() };
        let kept = Kept { limit_bytes, outcomes: Mutex::default() };
        Mutations { state: Mutex::new(state), kept: Arc::new(kept) }
    }

    /// Connects a client from this address. It is forgotten some time after its last connection is
    /// dropped.
    pub(super) fn connect(self: &Arc<Self>, session: SessionId, address: Lane) -> Connection<T> {
        let mut state = self.state.lock();
        state.forget_the_old();
        let entry = state.clients.entry(session).or_insert_with(|| Entry {
            client: Client::start(Arc::clone(&self.kept)),
            connections: 0,
            gone_at: None,
        });
        entry.connections += 1;
        entry.gone_at = None;
        let client = Arc::clone(&entry.client);
        Connection { mutations: Arc::clone(self), session, address, client }
    }
}

impl<T: Outcome> State<T> {
    fn forget_the_old(&mut self) {
        while self.gone.front().is_some_and(|gone| gone.at.elapsed() >= KEPT_FOR) {
            self.forget(0);
        }
        while self.gone.len() > MAX_GONE {
            // The first client of the address that has the most: a flood of clients from one
            // address makes no others forgotten.
            let mut by_address = HashMap::<_, (usize, usize)>::new();
            for (n, gone) in self.gone.iter().enumerate() {
                by_address.entry(gone.address).or_insert((0, n)).0 += 1;
            }
            let first = by_address.into_values().max_by_key(|(count, first)| (*count, !first));
            self.forget(first.map_or(0, |(_, first)| first));
        }
    }

    fn forget(&mut self, n: usize) {
        let Some(Gone { session, at, .. }) = self.gone.remove(n) else { return };
        // The client may have reconnected since.
        if self.clients.get(&session).is_some_and(|entry| entry.gone_at == Some(at)) {
            self.clients.remove(&session);
        }
    }
}

pub(super) struct Connection<T: Outcome> {
    mutations: Arc<Mutations<T>>,
    session: SessionId,
    address: Lane,
    client: Arc<Client<T>>,
}

impl<T: Outcome> Drop for Connection<T> {
    fn drop(&mut self) {
        let mut state = self.mutations.state.lock();
        let Some(entry) = state.clients.get_mut(&self.session) else { return };
        entry.connections -= 1;
        if entry.connections == 0 && self.client.known.lock().are_none() {
            state.clients.remove(&self.session);
        } else if entry.connections == 0 {
            let at = Instant::now();
            entry.gone_at = Some(at);
            state.gone.push_back(Gone { session: self.session, at, address: self.address });
        }
        state.forget_the_old();
    }
}

struct Client<T> {
    queue: mpsc::UnboundedSender<Job<T>>,
    known: Mutex<Remembered<T>>,
}

/// The mutations of one client, by number.
struct Remembered<T> {
    calls: BTreeMap<u32, Known<T>>,
    /// The highest number that was removed from `calls`. All mutations up to it have ended.
    forgotten: Option<u32>,
}

struct Job<T> {
    request_id: u32,
    call: BoxFuture<'static, T>,
    answer: watch::Sender<Option<T>>,
}

struct Known<T> {
    /// The fingerprint of the call. Another call with the same number is an error.
    fingerprint: u64,
    progress: Progress<T>,
}

enum Progress<T> {
    Running(watch::Receiver<Option<T>>),
    Ended(T, KeptShare<T>),
    Lost(Lost),
}

impl<T: Outcome> Client<T> {
    /// Starts the task that runs the mutations of one client in order. It ends with the client.
    fn start(kept: Arc<Kept<T>>) -> Arc<Client<T>> {
        let (queue, mut jobs) = mpsc::unbounded_channel::<Job<T>>();
        let known = Remembered { calls: BTreeMap::new(), forgotten: None };
        let client = Arc::new(Client { queue, known: Mutex::new(known) });
        let of_client = Arc::downgrade(&client);
        tokio::spawn(async move {
            while let Some(Job { request_id, call, answer }) = jobs.recv().await {
                // A separate task, so that a panic does not end the others.
                let outcome = tokio::spawn(call).await.ok();
                if let Some(client) = of_client.upgrade() {
                    client.end(&kept, request_id, outcome.clone());
                }
                if outcome.is_some() {
                    answer.send_replace(outcome);
                }
            }
        });
        client
    }

    fn end(self: &Arc<Self>, kept: &Arc<Kept<T>>, request_id: u32, outcome: Option<T>) {
        let progress = match outcome {
            None => Progress::Lost(Lost::Panicked),
            Some(outcome) => {
                let bytes = OVERHEAD_BYTES + outcome.bytes();
                Progress::Ended(outcome, kept.keep(Arc::downgrade(self), request_id, bytes))
            }
        };
        let mut known = self.known.lock();
        if let Some(known) = known.calls.get_mut(&request_id) {
            known.progress = progress;
        }
        let mut bytes: usize = known.calls.values().map(Known::bytes).sum();
        for known in known.calls.values_mut() {
            if bytes <= MAX_CLIENT_BYTES {
                break;
            }
            bytes -= known.bytes();
            known.forget();
        }
        drop(known);
        kept.forget_the_first();
    }
}

impl<T: Outcome> Known<T> {
    fn bytes(&self) -> usize {
        match &self.progress {
            Progress::Ended(_, share) => share.bytes,
            Progress::Running(_) | Progress::Lost(_) => 0,
        }
    }

    fn forget(&mut self) {
        if matches!(self.progress, Progress::Ended(..)) {
            self.progress = Progress::Lost(Lost::Forgotten);
        }
    }
}

impl<T: Outcome> Connection<T> {
    /// Runs a mutation after all earlier ones of this client, unless this is a retry. The future
    /// returns the outcome; dropping it does not stop the mutation.
    ///
    /// # Errors
    ///
    /// The number belongs to a call with another fingerprint.
    pub(super) fn run(
        &self,
        request_id: u32,
        fingerprint: u64,
        call: impl FnOnce() -> BoxFuture<'static, T>,
    ) -> Result<BoxFuture<'static, Result<T, Lost>>, String> {
        let mut known = self.client.known.lock();
        let mut outcome = match known.calls.get(&request_id) {
            Some(before) if before.fingerprint != fingerprint => {
                return Err(format!("request {request_id} was already used for another call"));
            }
            Some(Known { progress: Progress::Running(outcome), .. }) => outcome.clone(),
            Some(Known { progress: Progress::Ended(outcome, _), .. }) => {
                let outcome = outcome.clone();
                return Ok(Box::pin(async move { Ok(outcome) }));
            }
            Some(Known { progress: Progress::Lost(lost), .. }) => {
                let lost = *lost;
                return Ok(Box::pin(async move { Err(lost) }));
            }
            None if known.forgotten.is_some_and(|forgotten| request_id <= forgotten) => {
                return Ok(Box::pin(async { Err(Lost::Forgotten) }));
            }
            None => {
                let (answer, outcome) = watch::channel(None);
                // The task lives as long as the client.
                drop(self.client.queue.send(Job { request_id, call: call(), answer }));
                let progress = Progress::Running(outcome.clone());
                known.calls.insert(request_id, Known { fingerprint, progress });
                known.forget_the_first();
                outcome
            }
        };
        drop(known);
        Ok(Box::pin(async move {
            let ended = outcome.wait_for(Option::is_some).await.ok();
            ended.and_then(|outcome| outcome.clone()).ok_or(Lost::Panicked)
        }))
    }
}

impl<T> Remembered<T> {
    fn are_none(&self) -> bool {
        self.calls.is_empty() && self.forgotten.is_none()
    }

    /// Forgets the mutations with the lowest numbers.
    fn forget_the_first(&mut self) {
        while self.calls.len() > MAX_REMEMBERED {
            let is_running = |known: &Known<T>| matches!(known.progress, Progress::Running(_));
            match self.calls.first_entry() {
                Some(first) if !is_running(first.get()) => {
                    self.forgotten = self.forgotten.max(Some(*first.key()));
                    first.remove();
                }
                Some(_) | None => return,
            }
        }
    }
}

/// The kept outcomes of all clients, with a limit on their bytes.
struct Kept<T> {
    limit_bytes: usize,
    outcomes: Mutex<Outcomes<T>>,
}

struct Outcomes<T> {
    bytes: usize,
    next: u64,
    /// In the order in which the mutations ended.
    ended: BTreeMap<u64, (Weak<Client<T>>, u32)>,
}

impl<T> Default for Outcomes<T> {
    fn default() -> Outcomes<T> {
        Outcomes { bytes: 0, next: 0, ended: BTreeMap::new() }
    }
}

/// The share of one outcome. Dropping it frees it.
struct KeptShare<T> {
    kept: Arc<Kept<T>>,
    number: u64,
    bytes: usize,
}

impl<T> Kept<T> {
    /// Must not be called while holding a client's lock, which
    /// [`forget_the_first`](Self::forget_the_first) takes.
    fn keep(
        self: &Arc<Self>,
        client: Weak<Client<T>>,
        request_id: u32,
        bytes: usize,
    ) -> KeptShare<T> {
        let mut outcomes = self.outcomes.lock();
        let number = outcomes.next;
        outcomes.next += 1;
        outcomes.bytes += bytes;
        outcomes.ended.insert(number, (client, request_id));
        KeptShare { kept: Arc::clone(self), number, bytes }
    }
}

impl<T: Outcome> Kept<T> {
    fn forget_the_first(&self) {
        loop {
            let mut outcomes = self.outcomes.lock();
            metrics::gauge!("functions_outcomes_bytes").set(outcomes.bytes as f64);
            if outcomes.bytes <= self.limit_bytes {
                return;
            }
            let Some((_, (client, request_id))) = outcomes.ended.pop_first() else { return };
            // The share takes the lock when it is dropped.
            drop(outcomes);
            let Some(client) = client.upgrade() else { continue };
            if let Some(known) = client.known.lock().calls.get_mut(&request_id) {
                known.forget();
            }
        }
    }
}

impl<T> Drop for KeptShare<T> {
    fn drop(&mut self) {
        let mut outcomes = self.kept.outcomes.lock();
        outcomes.bytes -= self.bytes;
        outcomes.ended.remove(&self.number);
    }
}

#[cfg(test)]
mod tests;

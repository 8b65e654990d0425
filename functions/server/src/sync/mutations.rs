//! Mutations of client sessions: in the order in which they were sent, and each once.
//!
//! A client that loses its connection sends again what was not answered, with the number that it
//! had. So what runs belongs to the client and not to the connection: a mutation goes on when its
//! connection is gone, and one that is sent again is answered with what it gave. This is kept in
//! memory, for a while and up to a bound; a mutation that is sent again to another process, or much
//! later, runs again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Who a client says that it is: chosen at random by itself, and known to nobody else.
pub(super) type SessionId = u128;

/// How many outcomes are kept for a client: more than it can have under way.
const MAX_KEPT: usize = 128;

/// How many bytes of them, for one client.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// How long they are kept once the client is gone: clients try again after 16 seconds at the
/// latest.
const KEPT_FOR: Duration = Duration::from_secs(120);

/// How many clients that are gone are remembered, and how many bytes of theirs.
const MAX_GONE: usize = 4_096;
const MAX_GONE_BYTES: usize = 64 << 20;

/// What a mutation gave. Cheap to clone.
pub(crate) trait Outcome: Clone + Send + Sync + 'static {
    /// How much memory it takes, more or less.
    fn bytes(&self) -> usize;
}

/// The clients that are connected, and those that may come back.
pub(crate) struct Mutations<T>(Mutex<State<T>>);

struct State<T> {
    clients: HashMap<SessionId, Entry<T>>,
    /// Who went away, the longest gone first.
    gone: VecDeque<Gone>,
    gone_bytes: usize,
}

struct Entry<T> {
    client: Arc<Client<T>>,
    connections: usize,
    gone_at: Option<Instant>,
}

struct Gone {
    session: SessionId,
    at: Instant,
    bytes: usize,
}

impl<T: Outcome> Default for Mutations<T> {
    fn default() -> Mutations<T> {
        Mutations(Mutex::new(State {
            clients: HashMap::new(),
            gone: VecDeque::new(),
            gone_bytes: 0,
        }))
    }
}

impl<T: Outcome> Mutations<T> {
    /// A connection of this client. It is forgotten some time after its last connection is dropped.
    pub(super) fn connect(self: &Arc<Self>, session: SessionId) -> Connection<T> {
        let mut state = self.state();
        state.forget_the_old();
        let entry = state.clients.entry(session).or_insert_with(|| Entry {
            client: Arc::new(Client::start()),
            connections: 0,
            gone_at: None,
        });
        entry.connections += 1;
        entry.gone_at = None;
        Connection { mutations: Arc::clone(self), session, client: Arc::clone(&entry.client) }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Outcome> State<T> {
    fn forget_the_old(&mut self) {
        while let Some(Gone { session, at, bytes }) = self.gone.front() {
            let is_over = at.elapsed() >= KEPT_FOR
                || self.gone.len() > MAX_GONE
                || self.gone_bytes > MAX_GONE_BYTES;
            if !is_over {
                return;
            }
            // It may have come back since.
            if self.clients.get(session).is_some_and(|entry| entry.gone_at == Some(*at)) {
                self.clients.remove(session);
            }
            self.gone_bytes -= bytes;
            self.gone.pop_front();
        }
    }
}

/// A connection of a client.
pub(super) struct Connection<T: Outcome> {
    mutations: Arc<Mutations<T>>,
    session: SessionId,
    client: Arc<Client<T>>,
}

impl<T: Outcome> Drop for Connection<T> {
    fn drop(&mut self) {
        let mut state = self.mutations.state();
        let Some(entry) = state.clients.get_mut(&self.session) else { return };
        entry.connections -= 1;
        if entry.connections == 0 {
            let (at, bytes) = (Instant::now(), entry.client.bytes());
            entry.gone_at = Some(at);
            state.gone.push_back(Gone { session: self.session, at, bytes });
            state.gone_bytes += bytes;
        }
        state.forget_the_old();
    }
}

struct Client<T> {
    queue: mpsc::UnboundedSender<Job<T>>,
    known: Mutex<BTreeMap<u32, Known<T>>>,
}

struct Job<T> {
    call: BoxFuture<'static, T>,
    answer: watch::Sender<Option<T>>,
}

struct Known<T> {
    /// Of what was asked: another question with the same number is a mistake.
    fingerprint: u64,
    outcome: watch::Receiver<Option<T>>,
}

impl<T: Outcome> Client<T> {
    /// Starts the task that runs the mutations of one client one after another. It ends with the
    /// client.
    fn start() -> Client<T> {
        let (queue, mut jobs) = mpsc::unbounded_channel::<Job<T>>();
        tokio::spawn(async move {
            while let Some(Job { call, answer }) = jobs.recv().await {
                // A task of its own, so that a panic in one is not the end of the others.
                if let Ok(outcome) = tokio::spawn(call).await {
                    answer.send_replace(Some(outcome));
                }
            }
        });
        Client { queue, known: Mutex::default() }
    }

    fn bytes(&self) -> usize {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().map(Known::bytes).sum()
    }
}

impl<T: Outcome> Known<T> {
    fn bytes(&self) -> usize {
        self.outcome.borrow().as_ref().map_or(0, Outcome::bytes)
    }

    fn is_under_way(&self) -> bool {
        self.outcome.borrow().is_none() && self.outcome.has_changed().is_ok()
    }
}

impl<T: Outcome> Connection<T> {
    /// Runs a mutation once all that this client sent before have ended. One that it sent before is
    /// not run again. The future gives its outcome, or `None` if it panicked; dropping it does not
    /// stop the mutation.
    ///
    /// # Errors
    ///
    /// If the number stands for something else, which had another fingerprint.
    pub(super) fn run(
        &self,
        request_id: u32,
        fingerprint: u64,
        call: impl FnOnce() -> BoxFuture<'static, T>,
    ) -> Result<BoxFuture<'static, Option<T>>, String> {
        let mut known = self.client.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcome = match known.get(&request_id) {
            Some(before) if before.fingerprint != fingerprint => {
                return Err(format!("request {request_id} was another one before"));
            }
            Some(before) => before.outcome.clone(),
            None => {
                let (answer, outcome) = watch::channel(None);
                // The task is there as long as the client is.
                drop(self.client.queue.send(Job { call: call(), answer }));
                known.insert(request_id, Known { fingerprint, outcome: outcome.clone() });
                forget_the_first(&mut known);
                outcome
            }
        };
        drop(known);
        Ok(Box::pin(async move {
            outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone())
        }))
    }
}

/// Clients count up: what has a low number was sent long ago.
fn forget_the_first<T: Outcome>(known: &mut BTreeMap<u32, Known<T>>) {
    let mut bytes: usize = known.values().map(Known::bytes).sum();
    while known.len() > MAX_KEPT || bytes > MAX_KEPT_BYTES {
        let Some(first) = known.first_entry().filter(|first| !first.get().is_under_way()) else {
            return;
        };
        bytes -= first.remove().bytes();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    impl Outcome for String {
        fn bytes(&self) -> usize {
            self.len()
        }
    }

    fn ready(text: &str) -> impl FnOnce() -> BoxFuture<'static, String> + use<> {
        let text = text.to_owned();
        move || async move { text }.boxed()
    }

    fn never() -> BoxFuture<'static, String> {
        unreachable!("it was run before")
    }

    #[tokio::test]
    async fn what_is_sent_again_on_another_connection_is_answered_and_not_run() {
        let mutations = Arc::new(Mutations::default());
        let connection = mutations.connect(1);
        let (release, held) = oneshot::channel();
        let call = move || held.map(|text: Result<String, _>| text.unwrap()).boxed();
        let answer = connection.run(7, 70, call).unwrap();
        let after = connection.run(8, 80, ready("after")).unwrap();
        drop((answer, after, connection));

        let again = mutations.connect(1);
        let answer = again.run(7, 70, never).unwrap();
        let after = again.run(8, 80, never).unwrap();
        release.send("done".to_owned()).unwrap();
        assert_eq!(
            (answer.await, after.await),
            (Some("done".to_owned()), Some("after".to_owned()))
        );
        assert_eq!(again.run(7, 70, never).unwrap().await, Some("done".to_owned()));
        assert!(again.run(7, 71, never).is_err());
        // Another client's requests have numbers of their own.
        assert_eq!(
            mutations.connect(2).run(7, 71, ready("other")).unwrap().await,
            Some("other".to_owned())
        );
    }

    #[tokio::test]
    async fn they_run_one_after_another_in_their_order() {
        let mutations = Arc::new(Mutations::default());
        let connection = mutations.connect(1);
        let running = Arc::new(AtomicUsize::new(0));
        let (ended, mut order) = mpsc::unbounded_channel();
        let answers: Vec<_> = (0..50)
            .map(|number: u32| {
                let (running, ended) = (Arc::clone(&running), ended.clone());
                let call = async move {
                    assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                    for _ in 0..number % 3 {
                        tokio::task::yield_now().await;
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                    ended.send(number).unwrap();
                    number.to_string()
                };
                connection.run(number, 0, move || call.boxed()).unwrap()
            })
            .collect();
        for (number, answer) in answers.into_iter().enumerate().rev() {
            assert_eq!(answer.await, Some(number.to_string()));
        }
        for number in 0..50 {
            assert_eq!(order.recv().await, Some(number));
        }
    }

    #[tokio::test]
    async fn one_that_panics_is_not_the_end_of_the_others() {
        let mutations = Arc::new(Mutations::default());
        let connection = mutations.connect(1);
        let lost = connection.run(1, 0, || async { panic!("as tests do") }.boxed()).unwrap();
        let next = connection.run(2, 0, ready("next")).unwrap();
        assert_eq!((lost.await, next.await), (None, Some("next".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_gone_is_forgotten_in_time() {
        let mutations = Arc::new(Mutations::default());
        let connection = mutations.connect(1);
        assert_eq!(connection.run(1, 0, ready("first")).unwrap().await.as_deref(), Some("first"));
        drop(connection);
        tokio::time::advance(KEPT_FOR - Duration::from_millis(1)).await;
        let back = mutations.connect(1);
        assert_eq!(back.run(1, 0, never).unwrap().await.as_deref(), Some("first"));
        drop(back);
        // The first absence is over; the second has just begun.
        tokio::time::advance(Duration::from_millis(1)).await;
        let back = mutations.connect(1);
        assert_eq!(back.run(1, 0, never).unwrap().await.as_deref(), Some("first"));
        drop(back);
        tokio::time::advance(KEPT_FOR).await;
        let late = mutations.connect(1);
        assert_eq!(late.run(1, 0, ready("again")).unwrap().await.as_deref(), Some("again"));
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let mutations = Arc::new(Mutations::default());
        let connection = mutations.connect(1);
        for number in 0..2 * MAX_KEPT as u32 {
            connection.run(number, 0, ready("x")).unwrap().await;
        }
        assert_eq!(connection.client.known.lock().unwrap().len(), MAX_KEPT);
        let long = "x".repeat(MAX_KEPT_BYTES / 4);
        for number in 1_000..1_010 {
            connection.run(number, 0, ready(&long)).unwrap().await;
        }
        assert!(connection.client.bytes() <= MAX_KEPT_BYTES + long.len());
        drop(connection);
        for session in 2..=MAX_GONE as u128 + 10 {
            drop(mutations.connect(session));
        }
        let state = mutations.state();
        assert_eq!((state.gone.len(), state.clients.len()), (MAX_GONE, MAX_GONE));
        assert_eq!(state.gone_bytes, state.gone.iter().map(|gone| gone.bytes).sum::<usize>());
    }
}

//! A channel of which receivers see only the latest value.
//!
//! Like `tokio::sync::watch`, which however wakes tasks in a random order, so that simulations
//! could not be repeated. This one wakes them in the order in which they began to wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Changes the value. Dropping it closes the channel.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// Reads the value, and waits for its changes.
#[derive(Debug, Clone)]
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The version of the value that was last seen.
    seen: u64,
}

/// The sender was dropped, so the value no longer changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    version: u64,
    is_closed: bool,
}

pub(crate) fn channel<T: Copy>(value: T) -> (Sender<T>, Receiver<T>) {
    let state = Mutex::new(State { value, version: 0, is_closed: false });
    let shared = Arc::new(Shared { state, changed: Notify::new() });
    (Sender(Arc::clone(&shared)), Receiver { shared, seen: 0 })
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Copy> Sender<T> {
    /// Replaces the value, and wakes the tasks that wait.
    pub(crate) fn send(&self, value: T) {
        {
            let mut state = self.0.lock();
            (state.value, state.version) = (value, state.version + 1);
        }
        self.0.changed.notify_waiters();
    }

    /// Replaces the value without waking the tasks that wait.
    pub(crate) fn set(&self, value: T) {
        self.0.lock().value = value;
    }

    /// A receiver that has seen the current value.
    pub(crate) fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.lock().version;
        Receiver { shared: Arc::clone(&self.0), seen }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_waiters();
    }
}

impl<T: Copy> Receiver<T> {
    /// The value, without marking it as seen.
    pub(crate) fn get(&self) -> T {
        self.shared.lock().value
    }

    /// The value, which is marked as seen.
    pub(crate) fn see(&mut self) -> T {
        let state = self.shared.lock();
        self.seen = state.version;
        state.value
    }

    /// Waits for an unseen value and marks it as seen. Fails once there will be none. Cancel safe.
    pub(crate) async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // The future receives notifications from here on, even before it is polled.
            let notified = self.shared.changed.notified();
            {
                let state = self.shared.lock();
                if state.version != self.seen {
                    self.seen = state.version;
                    return Ok(());
                }
                if state.is_closed {
                    return Err(Closed);
                }
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_end_always() {
        let (sender, mut receiver) = channel(1);
        assert_eq!((receiver.get(), receiver.see()), (1, 1));
        assert_eq!(receiver.changed().now_or_never(), None);
        sender.set(4);
        assert_eq!((receiver.changed().now_or_never(), receiver.get()), (None, 4));
        sender.send(2);
        sender.send(3);
        assert_eq!(sender.subscribe().changed().now_or_never(), None);
        assert_eq!(receiver.get(), 3);
        assert_eq!(receiver.changed().now_or_never(), Some(Ok(())));
        assert_eq!(receiver.changed().now_or_never(), None);
        sender.send(4);
        assert_eq!(receiver.see(), 4);
        assert_eq!(receiver.changed().now_or_never(), None);
        sender.send(5);
        drop(sender);
        assert_eq!(receiver.changed().now_or_never(), Some(Ok(())));
        for _ in 0..2 {
            assert_eq!(receiver.changed().now_or_never(), Some(Err(Closed)));
        }
    }

    #[tokio::test]
    async fn tasks_are_woken_in_the_order_of_their_waits() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..40 {
            let (mut receiver, woken) = (receiver.clone(), Arc::clone(&woken));
            tasks.spawn(async move {
                while receiver.changed().await.is_ok() {
                    woken.lock().unwrap().push(n);
                }
            });
        }
        for round in 1..4 {
            // In the first turn they begin to wait, in the second they handle their wake-up.
            tokio::task::yield_now().await;
            sender.send(round);
            tokio::task::yield_now().await;
        }
        drop(sender);
        tasks.join_all().await;
        let expected: Vec<_> = (0..3).flat_map(|_| 0..40).collect();
        assert_eq!(*woken.lock().unwrap(), expected);
    }
}

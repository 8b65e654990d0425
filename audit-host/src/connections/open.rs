//! The open connections of a listener.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Connection;

#[derive(Default)]
pub(super) struct Open {
    connections: Mutex<Numbered>,
    ended: Notify,
}

#[derive(Default)]
struct Numbered {
    next: u64,
    connections: HashMap<u64, Arc<Connection>>,
}

impl Open {
    pub(super) fn add(self: &Arc<Self>, connection: Arc<Connection>) -> Entry {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, connection);
        Entry { open: Arc::clone(self), number }
    }

    /// Aborts all connections and returns their number.
    pub(super) fn cut_off(&self) -> usize {
        let open = self.lock();
        open.connections.values().for_each(|connection| connection.cut_off());
        open.connections.len()
    }

    /// Aborts the oldest connection, and waits until one has ended.
    pub(super) async fn end_oldest(&self) {
        let mut ended = pin!(self.ended.notified());
        ended.as_mut().enable();
        let oldest = {
            let open = self.lock();
            let oldest = open.connections.iter().min_by_key(|(number, _)| **number);
            oldest.map(|(_, connection)| Arc::clone(connection))
        };
        if let Some(oldest) = oldest {
            oldest.cut_off();
            ended.await;
        }
    }

    pub(super) async fn all_ended(&self) {
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.lock().connections.is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct CutOnDrop(pub(super) Arc<Open>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut_off();
    }
}

/// Counts one open connection until it is dropped.
pub(super) struct Entry {
    open: Arc<Open>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.open.lock().connections.remove(&self.number);
        self.open.ended.notify_waiters();
    }
}

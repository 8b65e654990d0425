//! Memory that clients can hold for as long as they like: responses that they have not read yet,
//! and the arguments of their subscriptions.
//!
//! No client waits for this memory, since one that reads a byte at a time would make others wait.
//! Instead, above the limit the client that holds the most is cut off: the connection of its
//! largest entry, or of the oldest among equals.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_host::{Connection, client_of};
use axum::body::Bytes;

/// The holder of memory.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    client: Option<IpAddr>,
    connection: Arc<Connection>,
}

impl Holder {
    /// The client at this address, if known, on this connection.
    pub(super) fn new(address: Option<IpAddr>, connection: Arc<Connection>) -> Holder {
        Holder { client: address.map(client_of), connection }
    }
}

/// Memory of one kind, with a limit on the total.
#[derive(Debug)]
pub(super) struct Pool {
    kind: &'static str,
    limit_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// 0 once the connection is cut off.
    bytes: usize,
    holder: Holder,
}

/// A part of the pool. Dropping it frees it.
#[derive(Debug)]
pub(super) struct Held {
    pool: Arc<Pool>,
    number: u64,
}

impl Pool {
    pub(super) fn new(kind: &'static str, limit_bytes: usize) -> Pool {
        Pool { kind, limit_bytes, state: Mutex::default() }
    }

    /// Holds this many bytes for a holder.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize, holder: &Holder) -> Held {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.entries.insert(number, Entry { bytes: 0, holder: holder.clone() });
        self.resize(&mut state, number, bytes);
        drop(state);
        Held { pool: Arc::clone(self), number }
    }

    fn resize(&self, state: &mut State, number: u64, bytes: usize) {
        let Some(entry) = state.entries.get_mut(&number) else { return };
        state.bytes = state.bytes - entry.bytes + bytes;
        entry.bytes = bytes;
        while state.bytes > self.limit_bytes {
            let Some(victim) = state.victim() else { break };
            if victim == number && bytes == state.bytes {
                // Nothing else is held. An entry larger than the pool is allowed then.
                break;
            }
            state.cut_off(victim);
            metrics::counter!("functions_clients_cut_off_total", "held" => self.kind).increment(1);
        }
        metrics::gauge!("functions_held_bytes", "held" => self.kind).set(state.bytes as f64);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn cut_off(&mut self, victim: u64) {
        let Some(entry) = self.entries.get(&victim) else { return };
        let connection = Arc::clone(&entry.holder.connection);
        connection.cut_off();
        // Everything that the connection holds is freed with it.
        for entry in self.entries.values_mut() {
            if Arc::ptr_eq(&entry.holder.connection, &connection) {
                self.bytes -= std::mem::take(&mut entry.bytes);
            }
        }
    }

    /// The largest entry of the client that holds the most; the oldest among equals.
    fn victim(&self) -> Option<u64> {
        let mut by_client = HashMap::<_, usize>::new();
        for entry in self.entries.values() {
            *by_client.entry(entry.holder.client).or_default() += entry.bytes;
        }
        let (most, _) = by_client.into_iter().max_by_key(|(client, bytes)| (*bytes, *client))?;
        let entries = self.entries.iter().filter(|(_, entry)| entry.holder.client == most);
        // Reversed, since `max_by_key` returns the last among equals.
        entries.rev().max_by_key(|(_, entry)| entry.bytes).map(|(number, _)| *number)
    }
}

impl Held {
    /// Changes the number of held bytes.
    pub(super) fn resize(&self, bytes: usize) {
        self.pool.resize(&mut self.pool.state(), self.number, bytes);
    }

    /// Bytes that are held until they are written, or dropped with their connection.
    pub(super) fn of_bytes(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        self.resize(bytes.as_ref().len());
        Bytes::from_owner(HeldBytes { bytes, _held: self })
    }
}

struct HeldBytes<T> {
    bytes: T,
    _held: Held,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for HeldBytes<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        self.pool.resize(&mut state, self.number, 0);
        state.entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(address: &str) -> Holder {
        let address = address.parse().unwrap();
        Holder::new(Some(address), Arc::new(Connection::new((address, 1).into())))
    }

    #[test]
    fn the_client_that_holds_the_most_is_cut_off() {
        let pool = Arc::new(Pool::new("tests", 100));
        let (greedy, also_greedy) = (holder("192.0.2.1"), holder("192.0.2.1"));
        let (modest, newcomer) = (holder("192.0.2.2"), holder("192.0.2.3"));
        let _modest = pool.hold(40, &modest);
        let _first = pool.hold(30, &greedy);
        let _second = pool.hold(30, &also_greedy);
        let is_cut = |holder: &Holder| holder.connection.is_cut();
        assert_eq!([&modest, &greedy, &also_greedy].map(is_cut), [false; 3]);
        let grows = pool.hold(5, &newcomer);
        assert_eq!([&modest, &greedy, &also_greedy].map(is_cut), [false, true, false]);
        grows.resize(31);
        assert_eq!([&modest, &also_greedy, &newcomer].map(is_cut), [true, false, false]);
        assert_eq!(pool.state().bytes, 61);
        drop(grows);
        assert_eq!(pool.state().bytes, 30);
    }

    #[test]
    fn an_entry_larger_than_the_pool_is_allowed_alone() {
        let pool = Arc::new(Pool::new("tests", 100));
        let (small, large) = (holder("192.0.2.1"), holder("192.0.2.2"));
        let alone = pool.hold(101, &large);
        assert!(!large.connection.is_cut());
        let _small = pool.hold(1, &small);
        assert!(large.connection.is_cut() && !small.connection.is_cut());
        drop(alone);
        let state = pool.state();
        assert_eq!((state.bytes, state.entries.len()), (1, 1));
    }
}

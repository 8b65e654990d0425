//! Memory that clients can hold for as long as they like: unfinished bodies, responses that they
//! have not read yet, and their subscriptions.
//!
//! Memory that several connections hold together counts once, in equal parts for each of them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use parking_lot::Mutex;

use super::Connection;
use super::places::client_of;

/// The holder of memory.
#[derive(Debug, Clone)]
pub struct Holder {
    client: Option<IpAddr>,
    connection: Arc<Connection>,
}

impl Holder {
    /// The client at this address, if known, on this connection.
    pub fn new(address: Option<IpAddr>, connection: Arc<Connection>) -> Holder {
        Holder { client: address.map(client_of), connection }
    }
}

/// Memory that clients hold for as long as they like, with a limit on the total.
///
/// No client waits for this memory, since one that reads a byte at a time would make others wait.
/// Instead, above the limit the client that holds the most is cut off: the connection of its
/// largest entry, or of the oldest among equals.
///
/// # Metrics
///
/// By `held`, the kind: `audit_held_bytes` is what is held now; `audit_clients_cut_off_total`
/// counts connections that were cut off because of the limit.
#[derive(Debug)]
pub struct Pool {
    kind: &'static str,
    limit_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    next: u64,
    entries: BTreeMap<u64, Entry>,
    /// Memory that several entries hold together, by its address.
    shared: HashMap<usize, Shared>,
}

#[derive(Debug)]
struct Entry {
    /// The bytes of the entry without the shared memory. 0 once the connection is cut off.
    bytes: usize,
    /// The address of the shared memory that the entry holds. `None` once the connection is cut
    /// off.
    shared: Option<usize>,
    holder: Holder,
}

#[derive(Debug)]
struct Shared {
    bytes: usize,
    /// The number of entries that hold this memory.
    holders: usize,
}

/// A part of the pool. Dropping it frees it.
#[derive(Debug)]
pub struct Held {
    pool: Arc<Pool>,
    number: u64,
}

impl Pool {
    /// Creates a pool of this kind, limited to this many bytes, or to one entry if that is larger.
    pub fn new(kind: &'static str, limit_bytes: usize) -> Pool {
        use metrics::{Unit, describe_counter, describe_gauge};
        describe_gauge!(
            "audit_held_bytes",
            Unit::Bytes,
            "Memory that clients hold as long as they like: bodies, unread responses, subscriptions"
        );
        describe_counter!(
            "audit_clients_cut_off_total",
            "Connections cut off because their client held the most memory"
        );
        Pool { kind, limit_bytes, state: Mutex::default() }
    }

    /// Holds this many bytes for a holder.
    pub fn hold(self: &Arc<Self>, bytes: usize, holder: &Holder) -> Held {
        self.enter(holder, |state, number| state.resize(number, bytes))
    }

    /// As [`hold`](Self::hold), but cuts the holder off if that alone exceeds the limit. Returns
    /// `None` if the holder is cut off.
    pub fn try_hold(self: &Arc<Self>, bytes: usize, holder: &Holder) -> Option<Held> {
        if bytes > self.limit_bytes {
            holder.connection.cut_off();
            metrics::counter!("audit_clients_cut_off_total", "held" => self.kind).increment(1);
            return None;
        }
        let held = self.hold(bytes, holder);
        (!holder.connection.is_cut()).then_some(held)
    }

    /// Holds this value, of this many bytes, for a holder. If others hold the same value, it counts
    /// only once. The caller must keep the value for as long as it is held.
    pub fn share<T>(self: &Arc<Self>, value: &Arc<T>, bytes: usize, holder: &Holder) -> Held {
        self.enter(holder, |state, number| state.share(number, Arc::as_ptr(value).addr(), bytes))
    }

    fn enter(self: &Arc<Self>, holder: &Holder, hold: impl FnOnce(&mut State, u64)) -> Held {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let entry = Entry { bytes: 0, shared: None, holder: holder.clone() };
        state.entries.insert(number, entry);
        hold(&mut state, number);
        self.limit(&mut state, number);
        drop(state);
        Held { pool: Arc::clone(self), number }
    }

    /// Cuts clients off until the rest is within the limit. `number` is the entry that grew.
    fn limit(&self, state: &mut State, number: u64) {
        while state.bytes > self.limit_bytes {
            let Some(victim) = state.victim() else { break };
            let is_alone = || state.bytes_of(&state.entries[&number]) == state.bytes;
            if victim == number && is_alone() {
                // Nothing else is held. An entry larger than the pool is allowed then.
                break;
            }
            state.cut_off(victim);
            metrics::counter!("audit_clients_cut_off_total", "held" => self.kind).increment(1);
        }
        metrics::gauge!("audit_held_bytes", "held" => self.kind).set(state.bytes as f64);
    }
}

impl State {
    fn resize(&mut self, number: u64, bytes: usize) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        self.bytes = self.bytes - entry.bytes + bytes;
        entry.bytes = bytes;
    }

    fn share(&mut self, number: u64, address: usize, bytes: usize) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        entry.shared = Some(address);
        let shared = self.shared.entry(address).or_insert_with(|| {
            self.bytes += bytes;
            Shared { bytes, holders: 0 }
        });
        shared.holders += 1;
    }

    /// Frees what an entry holds.
    fn free(&mut self, number: u64) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        self.bytes -= std::mem::take(&mut entry.bytes);
        let Some(address) = entry.shared.take() else { return };
        let Some(shared) = self.shared.get_mut(&address) else { return };
        shared.holders -= 1;
        if shared.holders == 0 {
            self.bytes -= shared.bytes;
            self.shared.remove(&address);
        }
    }

    /// The bytes of an entry, and its part of the shared ones.
    fn bytes_of(&self, entry: &Entry) -> usize {
        let shared = entry.shared.and_then(|address| self.shared.get(&address));
        entry.bytes + shared.map_or(0, |shared| shared.bytes.div_ceil(shared.holders))
    }

    fn cut_off(&mut self, victim: u64) {
        let Some(entry) = self.entries.get(&victim) else { return };
        let connection = Arc::clone(&entry.holder.connection);
        connection.cut_off();
        // Everything that the connection holds is freed with it.
        let is_of = |entry: &Entry| Arc::ptr_eq(&entry.holder.connection, &connection);
        let held = self.entries.iter().filter(|(_, entry)| is_of(entry));
        for number in held.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.free(number);
        }
    }

    /// The largest entry of the client that holds the most; the oldest among equals.
    fn victim(&self) -> Option<u64> {
        let mut by_client = HashMap::<_, usize>::new();
        for entry in self.entries.values() {
            *by_client.entry(entry.holder.client).or_default() += self.bytes_of(entry);
        }
        let (most, _) = by_client.into_iter().max_by_key(|(client, bytes)| (*bytes, *client))?;
        let entries = self.entries.iter().filter(|(_, entry)| entry.holder.client == most);
        // Reversed, since `max_by_key` returns the last among equals.
        entries.rev().max_by_key(|(_, entry)| self.bytes_of(entry)).map(|(number, _)| *number)
    }
}

impl Held {
    /// Changes the number of held bytes.
    pub fn resize(&self, bytes: usize) {
        let mut state = self.pool.state.lock();
        state.resize(self.number, bytes);
        self.pool.limit(&mut state, self.number);
    }

    /// Bytes that are held until they are written, or dropped with their connection.
    pub fn of_bytes(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
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
        let mut state = self.pool.state.lock();
        state.free(self.number);
        state.entries.remove(&self.number);
        metrics::gauge!("audit_held_bytes", "held" => self.pool.kind).set(state.bytes as f64);
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
        assert_eq!(pool.state.lock().bytes, 61);
        drop(grows);
        assert_eq!(pool.state.lock().bytes, 30);
    }

    #[test]
    fn shared_memory_counts_once() {
        let pool = Arc::new(Pool::new("tests", 100));
        let is_cut = |holder: &Holder| holder.connection.is_cut();
        // A thousand clients may hold the same 90 bytes.
        let value = Arc::new(());
        let followers: Vec<Holder> =
            (0..1_000).map(|n| holder(&format!("10.0.{}.{}", n / 250, n % 250))).collect();
        let held: Vec<Held> =
            followers.iter().map(|holder| pool.share(&value, 90, holder)).collect();
        assert_eq!(pool.state.lock().bytes, 90);
        // A client that holds more than its part is cut off first, however much the others share.
        let (other, greedy) = (Arc::new(()), holder("192.0.2.1"));
        let _greedy = pool.share(&other, 11, &greedy);
        assert!(is_cut(&greedy) && !followers.iter().any(is_cut));
        // The last one to hold it is charged with all of it.
        drop(held.into_iter().skip(1).collect::<Vec<_>>());
        let _modest = pool.hold(11, &holder("192.0.2.2"));
        assert_eq!(followers.iter().filter(|holder| is_cut(holder)).count(), 0);
        drop(pool);
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
        let state = pool.state.lock();
        assert_eq!((state.bytes, state.entries.len()), (1, 1));
    }
}

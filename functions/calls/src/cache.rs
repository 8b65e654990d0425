//! The cache of sealed query results.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use audit_host::Lane;
use functions_store::Timestamp;
use functions_value::{ComponentPath, Value};
use quick_cache::unsync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use serde_json::Value as Json;
use tokio::sync::watch;

use super::audited::CachedQuery;
use super::call::{CallError, Caller, Identity};
use super::lock;
use super::reference::{Target, full_name};

/// The overhead of an entry, in bytes: its slots in maps and its allocations.
const ENTRY_BYTES: usize = 512;

/// The assumed size of an entry, in bytes. The cache sizes its memory of evicted keys by it.
const USUAL_BYTES: usize = 4 << 10;

/// The key of a result: a query, its arguments, and an identity.
#[derive(Debug, Clone)]
pub struct QueryKey {
    pub(super) component: ComponentPath,
    pub(super) name: Arc<str>,
    /// The arguments as JSON in Convex's encoding, with sorted members: equal arguments are equal
    /// text.
    pub(super) args: Arc<str>,
    pub(super) identity: Option<Arc<Identity>>,
    /// The ends of the client's pages.
    pub(super) journal: Option<Arc<str>>,
    /// The lane that waits for a thread if the result must be computed. It is not part of the slot.
    pub(super) lane: Lane,
}

impl QueryKey {
    pub(super) fn new(
        target: &Target<'_>,
        args: &Json,
        caller: &Caller,
    ) -> Result<QueryKey, CallError> {
        let args = Value::from_json(args.clone()).map_err(|error| {
            CallError::Invalid(format!("the arguments are not a Convex value: {error}"))
        })?;
        Ok(QueryKey {
            component: target.component.clone(),
            name: target.function.name.as_str().into(),
            // Written directly, without another tree: arguments may have 16 MiB.
            args: serde_json::to_string(&args).expect("values are JSON").into(),
            identity: caller.identity.clone(),
            journal: None,
            lane: caller.lane,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Slot {
    component: ComponentPath,
    name: Arc<str>,
    args: Arc<str>,
    journal: Option<Arc<str>>,
    identity: Whose,
}

/// The identity that a result is for. Results of queries that did not read the identity are for
/// everyone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Everyone,
    Anonymous,
    Identity(Arc<str>),
}

/// The required freshness of a result.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// Current as of now.
    Fresh,
    /// Current at this time.
    At(Timestamp),
}

#[derive(Debug)]
pub(super) struct QueryCache {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    entries: Entries,
    /// The functions that have read the identity.
    personal: HashSet<(ComponentPath, Arc<str>)>,
    /// Waiting and running computations, which callers with the same key share.
    flights: HashMap<Slot, Arc<Flight>>,
}

type Entries = Cache<Slot, Entry, Bytes, DefaultHashBuilder, Evicted>;

#[derive(Debug, Clone)]
struct Entry {
    result: Arc<CachedQuery>,
    /// The size of the entry with its slot, in bytes.
    weight: u64,
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Slot, Entry> for Bytes {
    fn weight(&self, _slot: &Slot, entry: &Entry) -> u64 {
        entry.weight
    }
}

/// Collects evicted entries, which are dropped after the lock is released.
#[derive(Debug, Clone)]
struct Evicted;

impl Lifecycle<Slot, Entry> for Evicted {
    type RequestState = Vec<(Slot, Entry)>;

    fn begin_request(&self) -> Self::RequestState {
        Vec::new()
    }

    fn on_evict(&self, evicted: &mut Self::RequestState, slot: Slot, entry: Entry) {
        evicted.push((slot, entry));
    }
}

impl Slot {
    fn bytes(&self) -> usize {
        let Slot { component, name, args, journal, identity } = self;
        let identity = match identity {
            Whose::Everyone | Whose::Anonymous => 0,
            Whose::Identity(key) => key.len(),
        };
        let journal = journal.as_ref().map_or(0, |journal| journal.len());
        component.to_string().len() + name.len() + args.len() + journal + identity
    }
}

impl QueryKey {
    fn slot(&self, identity: Whose) -> Slot {
        let QueryKey { component, name, args, identity: _, journal, lane: _ } = self;
        let (component, name) = (component.clone(), Arc::clone(name));
        Slot { component, name, args: Arc::clone(args), journal: journal.clone(), identity }
    }

    pub(super) fn full_name(&self) -> String {
        full_name(&self.component, &self.name)
    }

    fn function(&self) -> (ComponentPath, Arc<str>) {
        (self.component.clone(), Arc::clone(&self.name))
    }

    fn whose(&self) -> Whose {
        self.identity
            .as_ref()
            .map_or(Whose::Anonymous, |identity| Whose::Identity(identity.key().into()))
    }
}

/// A computation that callers with the same key share. Each waits for a thread in its own lane, and
/// the first to get one computes for all. So no caller waits for another caller's earlier jobs.
#[derive(Debug)]
pub(super) struct Flight {
    slot: Slot,
    lanes: Mutex<HashSet<Lane>>,
    is_claimed: AtomicBool,
    has_landed: watch::Sender<bool>,
}

/// The maximum number of lanes in which callers wait for a thread to compute the same result.
/// Further callers only wait for the result.
const MAX_LANES: usize = 64;

impl Flight {
    fn of(slot: Slot) -> Flight {
        Flight {
            slot,
            lanes: Mutex::default(),
            is_claimed: AtomicBool::new(false),
            has_landed: watch::Sender::new(false),
        }
    }

    /// Whether a caller in this lane should wait for a thread itself.
    pub(super) fn boards(&self, lane: Lane) -> bool {
        let mut lanes = lock(&self.lanes);
        !self.is_claimed.load(Ordering::Acquire) && lanes.len() < MAX_LANES && lanes.insert(lane)
    }

    /// Claims the computation. Returns false if another caller has claimed it.
    pub(super) fn claim(&self) -> bool {
        !self.is_claimed.swap(true, Ordering::AcqRel)
    }

    /// Returns once the computation has ended, whether or not the cache has a result.
    pub(super) async fn landed(&self) {
        // Cannot fail, since `self` holds the sender.
        drop(self.has_landed.subscribe().wait_for(|has_landed| *has_landed).await);
    }
}

impl QueryCache {
    /// A cache that holds at most `max_bytes` of results, including their keys, sealed logs and
    /// read sets.
    pub(super) fn new(max_bytes: usize) -> QueryCache {
        let options = OptionsBuilder::new()
            .weight_capacity(max_bytes as u64)
            .estimated_items_capacity(max_bytes / USUAL_BYTES)
            .build()
            .expect("both capacities are given");
        let entries = Entries::with_options(options, Bytes, DefaultHashBuilder::default(), Evicted);
        let (personal, flights) = (HashSet::new(), HashMap::new());
        QueryCache { state: Mutex::new(State { entries, personal, flights }) }
    }

    pub(super) fn get(&self, key: &QueryKey, wanted: Wanted) -> Option<Arc<CachedQuery>> {
        let mut outdated = Vec::new();
        let mut state = self.state();
        let found = [Whose::Everyone, key.whose()].into_iter().find_map(|whose| {
            let slot = key.slot(whose);
            let entry = state.entries.get(&slot)?;
            let serves = match wanted {
                Wanted::Fresh => entry.result.is_fresh(),
                Wanted::At(time) => entry.result.holds_at(time),
            };
            if serves {
                return Some(Arc::clone(&entry.result));
            }
            if !entry.result.is_fresh() {
                outdated.extend(state.entries.remove(&slot));
            }
            None
        });
        state.show();
        drop(state);
        drop(outdated);
        found
    }

    /// The pending computation of a key, or a new one.
    pub(super) fn join(&self, key: &QueryKey) -> Arc<Flight> {
        let mut state = self.state();
        let is_personal = state.personal.contains(&key.function());
        let slot = key.slot(if is_personal { key.whose() } else { Whose::Everyone });
        let flight = || Arc::new(Flight::of(slot.clone()));
        Arc::clone(state.flights.entry(slot.clone()).or_insert_with(flight))
    }

    /// Ends a computation, whatever its outcome. Callers then look in the cache, and begin another
    /// computation if they miss.
    pub(super) fn land(&self, flight: &Arc<Flight>) {
        let mut state = self.state();
        if state.flights.get(&flight.slot).is_some_and(|other| Arc::ptr_eq(other, flight)) {
            state.flights.remove(&flight.slot);
        }
        drop(state);
        flight.has_landed.send_replace(true);
    }

    pub(super) fn insert(&self, key: &QueryKey, result: &Arc<CachedQuery>) {
        let is_personal = result.is_personal();
        let mut state = self.state();
        if is_personal {
            state.personal.insert(key.function());
        }
        if !result.may_be_kept() {
            return;
        }
        let slot = key.slot(if is_personal { key.whose() } else { Whose::Everyone });
        // A query at an earlier time may end later; the newer entry stays.
        if state.entries.peek(&slot).is_some_and(|there| there.result.at() > result.at()) {
            return;
        }
        let weight = (ENTRY_BYTES + slot.bytes() + result.bytes()) as u64;
        let entry = Entry { result: Arc::clone(result), weight };
        let evicted = state.entries.insert_with_lifecycle(slot, entry);
        metrics::counter!("functions_query_cache_evictions_total").increment(evicted.len() as u64);
        state.show();
        drop(state);
        drop(evicted);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn show(&self) {
        metrics::gauge!("functions_query_cache_bytes").set(self.entries.weight() as f64);
        metrics::gauge!("functions_query_cache_entries").set(self.entries.len() as f64);
    }
}

#[cfg(test)]
mod tests;

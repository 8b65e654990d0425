//! Sealed results of queries by what was asked.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::cached::CachedQuery;
use super::call::Identity;
use super::reference::full_name;
use super::turns::Lane;
use crate::store::Timestamp;
use crate::value::ComponentPath;

/// When there are more results, or more bytes of them, all are let go: simple, and right.
const MAX_ENTRIES: usize = 10_000;
const MAX_BYTES: usize = 256 << 20;

/// What is asked: a query with its arguments, for an identity.
#[derive(Debug, Clone)]
pub struct QueryKey {
    pub(super) component: ComponentPath,
    pub(super) name: Arc<str>,
    /// As JSON in Convex's encoding, members in order: equal arguments are equal text.
    pub(super) args: Arc<str>,
    pub(super) identity: Option<Arc<Identity>>,
    /// Where pages end that a client has.
    pub(super) journal: Option<Arc<str>>,
    /// Who takes the turn if it has to be computed. Any caller may be handed the result.
    pub(super) lane: Lane,
}

/// Where a result is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Slot {
    component: ComponentPath,
    name: Arc<str>,
    args: Arc<str>,
    journal: Option<Arc<str>>,
    identity: Whose,
}

/// Whom a result is for. A query that did not ask who calls gives all the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Everyone,
    Anonymous,
    Identity(Arc<str>),
}

/// How new a result must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// As of now.
    Fresh,
    /// As of that time.
    At(Timestamp),
}

#[derive(Debug, Default)]
pub(super) struct QueryCache {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Slot, Arc<CachedQuery>>,
    bytes: usize,
    /// The functions that asked who calls.
    personal: HashSet<(ComponentPath, Arc<str>)>,
    /// Computations under way: who asks for the same waits and finds the result.
    turns: HashMap<Slot, Arc<AsyncMutex<()>>>,
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

/// The right to compute one result.
pub(super) struct Turn<'a> {
    cache: &'a QueryCache,
    slot: Slot,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        drop(self.guard.take());
        // Two are the map's and this one's: nobody waits.
        if state.turns.get(&self.slot).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            state.turns.remove(&self.slot);
        }
    }
}

impl QueryCache {
    pub(super) fn get(&self, key: &QueryKey, wanted: Wanted) -> Option<Arc<CachedQuery>> {
        let mut state = self.state();
        for whose in [Whose::Everyone, key.whose()] {
            let slot = key.slot(whose);
            let Some(entry) = state.entries.get(&slot) else { continue };
            let serves = match wanted {
                Wanted::Fresh => entry.is_fresh(),
                Wanted::At(time) => entry.holds_at(time),
            };
            if serves {
                return Some(Arc::clone(entry));
            }
            if !entry.is_fresh() {
                let bytes = entry.bytes();
                state.entries.remove(&slot);
                state.bytes -= bytes;
            }
        }
        None
    }

    /// Waits until nobody computes the same.
    pub(super) async fn turn(&self, key: &QueryKey) -> Turn<'_> {
        let (slot, turn) = {
            let mut state = self.state();
            let is_personal = state.personal.contains(&key.function());
            let slot = key.slot(if is_personal { key.whose() } else { Whose::Everyone });
            (slot.clone(), Arc::clone(state.turns.entry(slot).or_default()))
        };
        Turn { cache: self, slot, guard: Some(turn.lock_owned().await) }
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
        if state.entries.len() >= MAX_ENTRIES || state.bytes + result.bytes() > MAX_BYTES {
            state.entries.clear();
            state.bytes = 0;
        }
        let slot = key.slot(if is_personal { key.whose() } else { Whose::Everyone });
        state.bytes += result.bytes();
        if let Some(before) = state.entries.insert(slot, Arc::clone(result)) {
            state.bytes -= before.bytes();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

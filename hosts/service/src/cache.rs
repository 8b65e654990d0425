//! Results of the query `documents:view`, sealed: each hand-out is logged, hits like misses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_runtime::Audited;

use crate::documents::Document;

/// How many documents are kept. When there is no room all are let go: simple, and right.
const MAX_ENTRIES: usize = 10_000;

/// Sealed documents by id.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    entries: HashMap<String, Audited<Arc<Document>>>,
    /// Counts invalidations.
    generation: u64,
}

/// The state of the cache when a query began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Cache {
    /// The sealed document, or what a query has to show to put one in.
    pub(crate) fn get(&self, id: &str) -> Result<Audited<Arc<Document>>, Generation> {
        let state = self.state();
        state.entries.get(id).cloned().ok_or(Generation(state.generation))
    }

    /// Keeps the result of a query, unless something was changed since the query began: it may have
    /// read the state before.
    pub(crate) fn insert(&self, began: Generation, id: &str, document: Audited<Arc<Document>>) {
        let mut state = self.state();
        if state.generation != began.0 {
            return;
        }
        if state.entries.len() >= MAX_ENTRIES {
            state.entries.clear();
        }
        state.entries.insert(id.to_owned(), document);
    }

    /// Lets go of a document that was changed.
    pub(crate) fn invalidate(&self, id: &str) {
        let mut state = self.state();
        state.generation += 1;
        state.entries.remove(id);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

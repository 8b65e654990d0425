//! Results of the query `documents:view`, sealed: each hand-out is logged, hits like misses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_runtime::Audited;

use crate::documents::Document;

/// How many documents are kept. When there is no room all are released: simple, and right.
const MAX_ENTRIES: usize = 1_000;

/// Sealed documents by id.
///
/// Nothing invalidates them. Whoever wants one says which revision the database has **now**, and a
/// document at another revision is a miss. So no entry is ever stale, whoever changed the document:
/// a request that was cancelled before its end, another process, a person with a database client.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<HashMap<String, Sealed>>);

#[derive(Debug, Clone)]
struct Sealed {
    revision: i64,
    document: Audited<Arc<Document>>,
}

impl Cache {
    /// The sealed document, if it is kept at this revision.
    pub(crate) fn get(&self, id: &str, revision: i64) -> Option<Audited<Arc<Document>>> {
        let entries = self.entries();
        let sealed = entries.get(id).filter(|sealed| sealed.revision == revision)?;
        Some(sealed.document.clone())
    }

    /// Keeps the result of a query.
    pub(crate) fn insert(&self, id: &str, revision: i64, document: Audited<Arc<Document>>) {
        let mut entries = self.entries();
        if entries.len() >= MAX_ENTRIES {
            entries.clear();
        }
        entries.insert(id.to_owned(), Sealed { revision, document });
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Sealed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Sealed results of the query `documents:view`. Each release is logged, cache hits included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_runtime::Audited;

use crate::documents::Document;

/// The maximum number of documents. A full cache is emptied, which is simple and correct.
const MAX_ENTRIES: usize = 1_000;

/// Sealed documents by id.
///
/// Entries are never invalidated: a lookup names the revision that the database has **now**, and an
/// entry with another revision is a miss. So no view is stale, whoever changed the document: a
/// cancelled request, another process, or a person with a database client.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<HashMap<String, Sealed>>);

#[derive(Debug, Clone)]
struct Sealed {
    revision: i64,
    document: Audited<Arc<Document>>,
}

impl Cache {
    /// The sealed document, if it is cached at this revision.
    pub(crate) fn get(&self, id: &str, revision: i64) -> Option<Audited<Arc<Document>>> {
        let entries = self.entries();
        let sealed = entries.get(id).filter(|sealed| sealed.revision == revision)?;
        Some(sealed.document.clone())
    }

    /// Caches the result of a query.
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

//! Sealed results of the query `documents:view`. Each release is logged, cache hits included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_runtime::Audited;

use crate::documents::Document;

/// The maximum size of all entries, in bytes. A full cache is emptied, which is simple and correct.
const MAX_BYTES: usize = 16 << 20;

/// The assumed size of an entry beside its document's texts, in bytes: mostly its sealed logs.
const ENTRY_BYTES: usize = 2 << 10;

/// Sealed documents by id.
///
/// Entries are never invalidated: a hit is used only if the database has its revision **now**. So
/// no view is stale, whoever changed the document and counted its revision up: a cancelled request,
/// another process, or a person with a database client.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    bytes: usize,
    by_id: HashMap<String, Sealed>,
}

#[derive(Debug, Clone)]
struct Sealed {
    revision: i64,
    /// The opening of the tenant whose runtime releases the document.
    opening: u64,
    document: Audited<Arc<Document>>,
    bytes: usize,
}

impl Cache {
    /// The sealed document and its revision, if it was cached in this opening of its tenant.
    pub(crate) fn get(&self, id: &str, opening: u64) -> Option<(i64, Audited<Arc<Document>>)> {
        let entries = self.entries();
        let sealed = entries.by_id.get(id).filter(|sealed| sealed.opening == opening)?;
        Some((sealed.revision, sealed.document.clone()))
    }

    /// Caches the result of a query, of a document with this many bytes.
    pub(crate) fn insert(
        &self,
        id: &str,
        opening: u64,
        revision: i64,
        document_bytes: usize,
        document: Audited<Arc<Document>>,
    ) {
        let bytes = 2 * id.len() + document_bytes + ENTRY_BYTES;
        let mut entries = self.entries();
        if entries.bytes + bytes > MAX_BYTES {
            *entries = Entries::default();
        }
        entries.bytes += bytes;
        let sealed = Sealed { revision, opening, document, bytes };
        let replaced = entries.by_id.insert(id.to_owned(), sealed);
        entries.bytes -= replaced.map_or(0, |replaced| replaced.bytes);
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

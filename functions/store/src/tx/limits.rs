//! The limits of a transaction, and its usage.

use std::sync::Arc;

use functions_value::Object;

use super::{Access, Tx};
use crate::error::StoreError;

/// The maximum number of documents that a transaction may read.
pub const MAX_DOCUMENTS_READ: u64 = 32_000;
/// The maximum size of documents that a transaction may read, in bytes.
pub const MAX_BYTES_READ: u64 = 16 << 20;
/// The maximum number of documents that a transaction may write.
pub const MAX_DOCUMENTS_WRITTEN: u64 = 16_000;
/// The maximum size of documents that a transaction may write, in bytes.
pub const MAX_BYTES_WRITTEN: u64 = 16 << 20;
/// The maximum number of reads by id and queries.
pub const MAX_DATABASE_QUERIES: u64 = 4_096;
/// The maximum size of a document, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// The usage of a transaction so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxMetrics {
    /// The size of documents read, including filtered ones, in bytes.
    pub bytes_read: u64,
    /// The number of documents read, including filtered ones.
    pub documents_read: u64,
    /// The size of documents written, in bytes.
    pub bytes_written: u64,
    /// The number of documents written.
    pub documents_written: u64,
    /// The number of reads by id and queries.
    pub database_queries: u64,
}

impl TxMetrics {
    /// The most that a transaction may use.
    pub const MAX: TxMetrics = TxMetrics {
        bytes_read: MAX_BYTES_READ,
        documents_read: MAX_DOCUMENTS_READ,
        bytes_written: MAX_BYTES_WRITTEN,
        documents_written: MAX_DOCUMENTS_WRITTEN,
        database_queries: MAX_DATABASE_QUERIES,
    };
}

impl Tx {
    /// The most that the transaction may use, or that it may have used when the innermost nested
    /// transaction ends.
    pub fn limits(&self) -> TxMetrics {
        self.limits
    }

    /// Lowers the limits of the innermost nested transaction: it may use at most `most` of its own.
    pub fn limit_nested(&mut self, most: &TxMetrics) {
        let TxMetrics {
            bytes_read,
            documents_read,
            bytes_written,
            documents_written,
            database_queries,
        } = &mut self.limits;
        for (limit, used, most) in [
            (bytes_read, self.metrics.bytes_read, most.bytes_read),
            (documents_read, self.metrics.documents_read, most.documents_read),
            (bytes_written, self.metrics.bytes_written, most.bytes_written),
            (documents_written, self.metrics.documents_written, most.documents_written),
            (database_queries, self.metrics.database_queries, most.database_queries),
        ] {
            *limit = used.saturating_add(most).min(*limit);
        }
    }

    pub(crate) fn count_query(&mut self) -> Result<(), StoreError> {
        if self.access == Access::Host {
            return Ok(());
        }
        self.metrics.database_queries += 1;
        let limit = self.limits.database_queries;
        within(self.metrics.database_queries, limit, || {
            format!("Too many reads in a single function execution (limit: {limit}).")
        })
    }

    pub(crate) fn count_read(&mut self, document: &Arc<Object>) -> Result<(), StoreError> {
        const ADVICE: &str = "Consider using smaller limits in your queries, paginating your queries, or using \
                              indexed queries with a selective index range expressions.";
        if self.access == Access::Host {
            return Ok(());
        }
        self.metrics.documents_read += 1;
        self.metrics.bytes_read += size(document) as u64;
        let TxMetrics { documents_read, bytes_read, .. } = self.limits;
        within(self.metrics.documents_read, documents_read, || {
            format!(
                "Too many documents read in a single function execution (limit: {documents_read}). {ADVICE}"
            )
        })?;
        within(self.metrics.bytes_read, bytes_read, || {
            format!(
                "Too many bytes read in a single function execution (limit: {bytes_read} bytes). {ADVICE}"
            )
        })
    }

    pub(super) fn count_write(&mut self, document: &Arc<Object>) -> Result<(), StoreError> {
        if self.access == Access::Host {
            return Ok(());
        }
        let bytes = size(document);
        if bytes > MAX_DOCUMENT_BYTES {
            return Err(StoreError::User(format!(
                "Value is too large ({bytes} bytes > maximum size {MAX_DOCUMENT_BYTES} bytes)"
            )));
        }
        let TxMetrics { documents_written, bytes_written, .. } = self.metrics;
        let TxMetrics { documents_written: most, bytes_written: most_bytes, .. } = self.limits;
        within(documents_written + 1, most, || {
            format!("Too many writes in a single function execution (limit: {most})")
        })?;
        within(bytes_written + bytes as u64, most_bytes, || {
            format!(
                "Too many bytes written in a single function execution (limit: {most_bytes} bytes)"
            )
        })?;
        self.metrics.documents_written += 1;
        self.metrics.bytes_written += bytes as u64;
        Ok(())
    }
}

fn within(used: u64, limit: u64, message: impl FnOnce() -> String) -> Result<(), StoreError> {
    if used > limit { Err(StoreError::User(message())) } else { Ok(()) }
}

/// The size of a document for limits, in bytes: that of `getDocumentSize` in `convex/values`.
fn size(document: &Arc<Object>) -> usize {
    document.iter().map(|(name, value)| name.len() + 1 + value.size()).sum::<usize>() + 2
}

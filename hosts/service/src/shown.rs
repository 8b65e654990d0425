//! Shows records on standard output, once they are durable: in the journal, or in the bucket
//! itself.

use std::io::Write;

use audit_core::{Batch, Place};

/// Shows the records of a batch that is durable.
pub(crate) fn show(batch: &Batch, place: Place) {
    let mut out = std::io::stdout().lock();
    for (sequence, record) in (place.first_sequence..).zip(batch.records()) {
        if let Err(error) =
            writeln!(out, "durable #{sequence} {}", String::from_utf8_lossy(&record))
        {
            // A closed pipe: the record is durable all the same.
            tracing::debug!(%error, "standard output is gone");
            return;
        }
    }
}

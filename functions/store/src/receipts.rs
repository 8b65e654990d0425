//! Receipts: where the audit logs of a committed transaction are, stored with its changes.
//!
//! ```text
//! 6 0 execution             → attempt (4), stream (16), first sequence (8), count (4)
//! 6 1 stream, sequence      → execution
//! 6 2 document's encoded id → the execution of its last change
//! 6 3 execution, encoded id → nothing: a document that the execution changed
//! ```
//!
//! Numbers are big-endian; executions and streams are 16 bytes. A receipt is part of the commit's
//! batch, so it exists if and only if the changes do. It takes about 150 bytes for each commit with
//! logs, and 100 for each changed document, until an operator removes old receipts.

use audit_core::{Place, UniqueId};
use functions_value::encoding;

use super::{
    Store,
    commit::Request,
    error::StoreError,
    key::{self, Key},
};

/// The place of a committed transaction's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The id of the mutation's call.
    pub execution: UniqueId,
    /// The number of the attempt, counted from 1.
    pub attempt: u32,
    /// The place of its records.
    pub place: Place,
}

impl Receipt {
    /// The keys and values to store with a commit that changed these documents.
    pub(crate) fn puts<'a>(
        &self,
        documents: impl Iterator<Item = &'a Key>,
    ) -> Vec<(Key, Option<Key>)> {
        let Receipt { execution, attempt, place } = self;
        let Place { stream, first_sequence, count } = place;
        let id = id_bytes(*execution);
        let value = [
            &attempt.to_be_bytes()[..],
            &id_bytes(*stream),
            &first_sequence.to_be_bytes(),
            &count.to_be_bytes(),
        ];
        let mut puts = vec![
            (key::receipt(&id), Some(value.concat().into())),
            (key::receipt_of_record(&id_bytes(*stream), *first_sequence), Some(Key::from(id))),
        ];
        for document in documents {
            let encoded = key::encoded_id(document);
            puts.push((key::receipt_of_document(encoded), Some(Key::from(id))));
            puts.push((key::document_of_receipt(&id, encoded), Some(Key::from([]))));
        }
        puts
    }

    fn read(execution: UniqueId, value: &[u8]) -> Result<Receipt, StoreError> {
        let damaged = || StoreError::damaged("the store holds a malformed receipt");
        let (attempt, rest) = value.split_first_chunk().ok_or_else(damaged)?;
        let (stream, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (first_sequence, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let count = rest.try_into().map_err(|_| damaged())?;
        let place = Place {
            stream: UniqueId::from_bits(u128::from_be_bytes(*stream)),
            first_sequence: u64::from_be_bytes(*first_sequence),
            count: u32::from_be_bytes(count),
        };
        Ok(Receipt { execution, attempt: u32::from_be_bytes(*attempt), place })
    }
}

impl Store {
    /// The receipt of a mutation's call, if it committed and had logs.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn receipt(&self, execution: UniqueId) -> Result<Option<Receipt>, StoreError> {
        let value = self.get_at(&self.latest(), &key::receipt(&id_bytes(execution)))?;
        value.map(|value| Receipt::read(execution, &value)).transpose()
    }

    /// The receipt that covers a record, if the record's attempt committed.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn receipt_of_record(
        &self,
        stream: UniqueId,
        sequence: u64,
    ) -> Result<Option<Receipt>, StoreError> {
        let stream = id_bytes(stream);
        let first = key::receipt_of_record(&stream, 0);
        let end = key::after(&key::receipt_of_record(&stream, sequence));
        let Some(last) = self.range_at(&self.latest(), first..end).next_back() else {
            return Ok(None);
        };
        let (_, execution) = last.into_inner()?;
        let receipt = self.receipt(id_of(&execution)?)?;
        Ok(receipt.filter(|Receipt { place, .. }| {
            sequence - place.first_sequence < u64::from(place.count)
        }))
    }

    /// The receipt of a document's last change, if that change had logs.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn receipt_of_document(&self, id: &str) -> Result<Option<Receipt>, StoreError> {
        let mut encoded = Vec::new();
        encoding::encode_str(id, &mut encoded);
        match self.get_at(&self.latest(), &key::receipt_of_document(&encoded))? {
            Some(execution) => self.receipt(id_of(&execution)?),
            None => Ok(None),
        }
    }

    /// Removes the receipts of calls before `time_ms`, in milliseconds since the Unix epoch: at
    /// most `most`, oldest first. Returns how many were removed. A crash removes all or none.
    ///
    /// The entry that names a document's last call stays, since a concurrent commit may be writing
    /// it. It then leads to no receipt.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn remove_receipts_before(&self, time_ms: u64, most: usize) -> Result<usize, StoreError> {
        // An id begins with its creation time.
        let end = id_bytes(UniqueId::from_bits(u128::from(time_ms) << 80));
        let range = key::receipt(&[0; 16])..key::receipt(&end);
        let latest = self.latest();
        let (mut puts, mut removed) = (Vec::new(), 0);
        for entry in self.range_at(&latest, range).take(most) {
            let (key, value) = entry.into_inner()?;
            let execution = id_of(&key[key.len() - end.len()..])?;
            let Place { stream, first_sequence, .. } = Receipt::read(execution, &value)?.place;
            puts.push((Key::from(&*key), None));
            puts.push((key::receipt_of_record(&id_bytes(stream), first_sequence), None));
            let id = id_bytes(execution);
            let documents =
                key::document_of_receipt(&id, &[])..key::document_of_receipt(&id, &[0xff]);
            for entry in self.range_at(&latest, documents) {
                let (key, _) = entry.into_inner()?;
                puts.push((Key::from(&*key), None));
            }
            removed += 1;
        }
        if removed > 0 {
            self.commit(Request::of_puts(puts)).map_err(StoreError::failed)?;
        }
        Ok(removed)
    }

    /// The ids of the documents that a mutation's call changed, sorted.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn documents_of_receipt(&self, execution: UniqueId) -> Result<Vec<String>, StoreError> {
        let id = id_bytes(execution);
        // No encoding begins with this byte.
        let range = key::document_of_receipt(&id, &[])..key::document_of_receipt(&id, &[0xff]);
        let ids = self.range_at(&self.latest(), range.clone()).map(|entry| {
            let (key, _) = entry.into_inner()?;
            let encoded = &key[range.start.len()..];
            let id = encoding::decode(encoded)?;
            let damaged = || StoreError::damaged("the store holds an id that is not a string");
            id.as_str().map(ToOwned::to_owned).ok_or_else(damaged)
        });
        ids.collect()
    }
}

fn id_bytes(id: UniqueId) -> [u8; 16] {
    id.to_bits().to_be_bytes()
}

fn id_of(bytes: &[u8]) -> Result<UniqueId, StoreError> {
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| StoreError::damaged("the store holds a malformed id"))?;
    Ok(UniqueId::from_bits(u128::from_be_bytes(bytes)))
}

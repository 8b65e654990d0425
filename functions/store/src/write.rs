//! A transaction's write to one document.

use std::sync::Arc;

use functions_value::{Object, Value, encoding};

use super::{Timestamp, catalog::Table, error::StoreError, key::Key};

/// A document in the snapshot (`base`) and in the transaction (`current`).
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) table: Arc<Table>,
    pub(crate) base: Option<Arc<Object>>,
    pub(crate) current: Option<Arc<Object>>,
}

impl Write {
    pub(crate) fn is_change(&self) -> bool {
        self.base != self.current
    }

    pub(crate) fn has_commit_ts(&self) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|document| document.values().any(Value::has_commit_ts))
    }

    /// Replaces the document's commit times with `ts`.
    pub(crate) fn set_commit_ts(&mut self, ts: Timestamp) {
        let Some(document) = &mut self.current else { return };
        for value in Arc::make_mut(document).values_mut() {
            value.set_commit_ts(ts.cast_signed());
        }
    }

    /// Adds the keys to store or remove to `puts`, and those whose readers see a change to
    /// `written`.
    pub(crate) fn encode(
        &self,
        key: Key,
        written: &mut Vec<Key>,
        puts: &mut Vec<(Key, Option<Key>)>,
    ) -> Result<(), StoreError> {
        let value = self.current.as_ref().map(|document| {
            let mut bytes = Vec::new();
            encoding::encode_object(document, &mut bytes);
            Key::from(bytes)
        });
        written.push(key.clone());
        puts.push((key, value));
        // Readers of the index see a change even if the entry stays the same.
        for index in &self.table.indexes {
            let before = self.base.as_ref().map(|document| index.entry(document)).transpose()?;
            let after = self.current.as_ref().map(|document| index.entry(document)).transpose()?;
            if before == after {
                written.extend(before);
                continue;
            }
            if let Some(entry) = before {
                written.push(entry.clone());
                puts.push((entry, None));
            }
            if let Some(entry) = after {
                written.push(entry.clone());
                puts.push((entry, Some(Key::from([]))));
            }
        }
        Ok(())
    }

    pub(crate) fn count_change(&self) -> i64 {
        i64::from(self.current.is_some()) - i64::from(self.base.is_some())
    }
}

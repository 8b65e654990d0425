//! A running query: the rows of its range in order, merged with the transaction's writes.

use std::sync::Arc;

use super::plan::{Operator, Plan};
use functions_value::Object;

use crate::{
    error::StoreError,
    key::{self, Key},
    tx::{Tx, decode_document},
};

pub(crate) struct Stream {
    plan: Plan,
    /// The snapshot's rows in the range, and the next one once fetched.
    stored: Option<fjall::Iter>,
    next_stored: Option<(Key, Key)>,
    is_at_end: bool,
}

impl Stream {
    pub(super) fn new(plan: Plan) -> Self {
        let is_at_end = plan.table.is_none() || plan.start >= plan.end;
        Self { plan, stored: None, next_stored: None, is_at_end }
    }

    /// The next document that passes all filters and limits.
    pub(super) fn next(&mut self, tx: &mut Tx) -> Result<Option<Arc<Object>>, StoreError> {
        loop {
            // Nothing is read once a limit is reached, so the result does not depend on later rows.
            if self.plan.operators.iter().any(|operator| matches!(operator, Operator::Limit(0))) {
                return Ok(None);
            }
            let Some((_, document)) = self.next_row(tx)? else { return Ok(None) };
            if self.passes(tx, &document)? {
                return Ok(Some(document));
            }
        }
    }

    pub(super) fn passes(&mut self, tx: &mut Tx, document: &Object) -> Result<bool, StoreError> {
        for operator in &mut self.plan.operators {
            match operator {
                Operator::Filter(filter) if filter.accepts(document, &mut tx.filter_steps)? => {}
                Operator::Filter(_) | Operator::Limit(0) => return Ok(false),
                Operator::Limit(left) => *left -= 1,
            }
        }
        Ok(true)
    }

    /// The next row of the range and its document, before filtering. The range then begins after
    /// it.
    pub(super) fn next_row(
        &mut self,
        tx: &mut Tx,
    ) -> Result<Option<(Key, Arc<Object>)>, StoreError> {
        let Some(table) = self.plan.table.clone() else { return Ok(None) };
        if self.is_at_end {
            return Ok(None);
        }
        let Some((key, stored)) = self.next_key(tx)? else {
            tx.reads.add(self.plan.start.clone(), self.plan.end.clone());
            self.is_at_end = true;
            return Ok(None);
        };
        if self.plan.is_descending {
            tx.reads.add(key.clone(), self.plan.end.clone());
            self.plan.end = key.clone();
        } else {
            let next = key::after(&key);
            tx.reads.add(self.plan.start.clone(), next.clone());
            self.plan.start = next;
        }
        self.is_at_end = self.plan.start >= self.plan.end;
        let document = match (self.plan.is_by_id, stored) {
            (true, Some(bytes)) => {
                let document = decode_document(&bytes)?;
                tx.count_read(&document)?;
                Some(document)
            }
            (true, None) => tx.read_through_index(&key)?,
            (false, _) => tx.read_through_index(&key::entry_document(table.number, &key))?,
        };
        match document {
            Some(document) => Ok(Some((key, document))),
            None => Err(StoreError::damaged(format!(
                "an index of table {} has an entry without a document",
                table.name
            ))),
        }
    }

    /// The next visible key of the range, with its value in the snapshot unless the transaction
    /// wrote it.
    fn next_key(&mut self, tx: &Tx) -> Result<Option<(Key, Option<Key>)>, StoreError> {
        let is_descending = self.plan.is_descending;
        let mut range = self.plan.start.clone()..self.plan.end.clone();
        loop {
            self.look_at_stored(tx)?;
            let stored = self.next_stored.as_ref().map(|(key, _)| key);
            // The transaction's own write comes before the stored row, or replaces it.
            let own = if self.plan.is_by_id {
                nearest(tx.documents.range(range.clone()), is_descending)
                    .map(|(key, write)| (key, write.current.is_some()))
            } else {
                nearest(tx.entries.range(range.clone()), is_descending)
                    .map(|(key, is_there)| (key, *is_there))
            };
            let comes_first = |key: &Key| {
                stored
                    .is_none_or(|stored| if is_descending { key >= stored } else { key <= stored })
            };
            let Some((key, is_there)) = own.filter(|(key, _)| comes_first(key)) else {
                return Ok(self.next_stored.take().map(|(key, value)| (key, Some(value))));
            };
            if stored == Some(key) {
                self.next_stored = None;
            }
            if is_there {
                return Ok(Some((key.clone(), None)));
            }
            if is_descending {
                range.end = key.clone();
            } else {
                range.start = key::after(key);
            }
        }
    }

    /// Fetches the snapshot's next row, unless already fetched.
    fn look_at_stored(&mut self, tx: &Tx) -> Result<(), StoreError> {
        if self.next_stored.is_some() {
            return Ok(());
        }
        let Plan { start, end, is_descending, .. } = &self.plan;
        let stored = self.stored.get_or_insert_with(|| tx.stored_range(start.clone()..end.clone()));
        let next = if *is_descending { stored.next_back() } else { stored.next() };
        self.next_stored = next.map(fjall::Guard::into_inner).transpose()?;
        Ok(())
    }
}

fn nearest<T>(mut range: impl DoubleEndedIterator<Item = T>, is_descending: bool) -> Option<T> {
    if is_descending { range.next_back() } else { range.next() }
}

//! Tables that do not exist yet.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use functions_value::ComponentPath;

use crate::catalog::Table;
use crate::error::StoreError;
use crate::id;

/// The number of kept tables from which on those that no open transaction uses are dropped.
const MIN_KEPT: usize = 1_024;

/// The tables that transactions create, until one of them commits. Transactions that create the
/// same table share it; only one of them can commit.
///
/// Most are never committed: functions fail, and may use any names. The numbers of dropped tables
/// are used again, since only 2^24 exist. Nothing is stored under them: after a write whose outcome
/// is unknown, the store accepts no commits until it is opened again.
#[derive(Default)]
pub(crate) struct Proposed {
    /// By component and name: the table, its number and those of its indexes.
    tables: HashMap<(ComponentPath, String), (Weak<Table>, Vec<u32>)>,
    /// Numbers of dropped tables.
    free: Vec<u32>,
    /// The number of tables that the last `drop_unused` kept.
    kept: usize,
}

impl Proposed {
    /// The table of this name. `new_number` returns numbers that no table or index has had.
    ///
    /// # Errors
    ///
    /// All numbers are used up.
    pub(crate) fn table(
        &mut self,
        component: &ComponentPath,
        name: &str,
        mut new_number: impl FnMut() -> u32,
    ) -> Result<Arc<Table>, StoreError> {
        let key = (component.clone(), name.to_owned());
        if let Some(table) = self.tables.get(&key).and_then(|(table, _)| table.upgrade()) {
            return Ok(table);
        }
        if self.tables.len() >= MIN_KEPT.max(2 * self.kept) {
            self.drop_unused();
        }
        self.free.extend(self.tables.remove(&key).into_iter().flat_map(|(_, numbers)| numbers));
        let mut numbers = Vec::new();
        let mut next = || {
            let number = self.free.pop().unwrap_or_else(&mut new_number);
            numbers.push(number);
            number
        };
        let number = checked(next())?;
        let table = Arc::new(Table::new(key.0.clone(), name, number, next));
        self.tables.insert(key, (Arc::downgrade(&table), numbers));
        Ok(table)
    }

    /// A transaction that created the table has committed.
    pub(crate) fn committed(&mut self, table: &Table) {
        self.tables.remove(&(table.component.clone(), table.name.clone()));
    }

    fn drop_unused(&mut self) {
        let unused = self.tables.extract_if(|_, (table, _)| table.strong_count() == 0);
        self.free.extend(unused.flat_map(|(_, (_, numbers))| numbers));
        self.kept = self.tables.len();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.tables.len()
    }
}

/// The number of a table, if ids have room for it.
///
/// # Errors
///
/// All numbers are used up.
pub(crate) fn checked(number: u32) -> Result<u32, StoreError> {
    if number >= id::MAX_NUMBER {
        return Err(StoreError::user("There have been too many tables and indexes in this store"));
    }
    Ok(number)
}

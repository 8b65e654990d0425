//! A small database for the tests: one value, optimistic transactions, and a record of what happened in which order.

use std::fmt;
use std::sync::{Arc, Mutex};

use audit_runtime::Transaction;

/// What a transaction did, in order, with the number of records that were durable at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Began,
    Committed(i64),
    RolledBack,
    DroppedOpen,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Database {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    value: i64,
    version: u64,
    events: Vec<Event>,
    fail_commit: bool,
}

impl Database {
    pub(crate) fn begin(&self) -> Tx {
        let mut state = self.state.lock().unwrap();
        state.events.push(Event::Began);
        Tx { database: self.clone(), read_version: state.version, write: None, open: true }
    }

    pub(crate) fn value(&self) -> i64 {
        self.state.lock().unwrap().value
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.state.lock().unwrap().events.clone()
    }

    /// Changes the value from outside, so that transactions under way run into a conflict.
    pub(crate) fn interfere(&self) {
        self.state.lock().unwrap().version += 1;
    }

    pub(crate) fn fail_commits(&self) {
        self.state.lock().unwrap().fail_commit = true;
    }
}

#[derive(Debug)]
pub(crate) struct Tx {
    database: Database,
    read_version: u64,
    write: Option<i64>,
    open: bool,
}

impl Tx {
    pub(crate) fn read(&self) -> i64 {
        self.write.unwrap_or_else(|| self.database.value())
    }

    pub(crate) fn write(&mut self, value: i64) {
        self.write = Some(value);
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DbError {
    Conflict,
    Disk,
    Function(&'static str),
    Audit(String),
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for DbError {}

impl From<audit_runtime::AuditError> for DbError {
    fn from(error: audit_runtime::AuditError) -> DbError {
        DbError::Audit(error.to_string())
    }
}

impl Transaction for Tx {
    type Error = DbError;

    async fn commit(mut self) -> Result<(), DbError> {
        self.open = false;
        let mut state = self.database.state.lock().unwrap();
        if state.fail_commit {
            return Err(DbError::Disk);
        }
        if state.version != self.read_version {
            state.events.push(Event::RolledBack);
            return Err(DbError::Conflict);
        }
        if let Some(value) = self.write {
            state.value = value;
            state.version += 1;
        }
        let value = state.value;
        state.events.push(Event::Committed(value));
        Ok(())
    }

    async fn rollback(mut self) -> Result<(), DbError> {
        self.open = false;
        self.database.state.lock().unwrap().events.push(Event::RolledBack);
        Ok(())
    }

    fn is_conflict(error: &DbError) -> bool {
        *error == DbError::Conflict
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.open {
            self.database.state.lock().unwrap().events.push(Event::DroppedOpen);
        }
    }
}

//! A small database: one number, optimistic transactions, and a history that says for each step how
//! many records were durable at that very moment.

use std::fmt;
use std::sync::{Arc, Mutex};

use audit_core::testing::MemorySink;
use audit_runtime::{AuditError, Transaction};
use tokio::task::yield_now;

use Step::*;

/// What a transaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Began,
    Committed,
    /// The commit conflicts with another transaction's.
    Conflicted,
    /// The commit failed for another reason.
    CommitFailed,
    RolledBack,
    /// It was dropped before it was ended, which rolls it back.
    Dropped,
}

#[derive(Debug, Clone)]
pub(crate) struct Database {
    sink: Arc<MemorySink>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    value: i64,
    version: u64,
    history: Vec<(Step, usize)>,
    commits_fail: bool,
    rollbacks_fail: bool,
}

impl Database {
    /// A database whose number is 0 and whose history shows how many records this sink holds.
    pub(crate) fn watching(sink: &Arc<MemorySink>) -> Database {
        Database { sink: Arc::clone(sink), state: Arc::default() }
    }

    pub(crate) fn begin(&self) -> Tx {
        let tx = self.with(|state| Tx {
            database: self.clone(),
            read_version: state.version,
            value: state.value,
            open: true,
        });
        self.record(Began);
        tx
    }

    /// What is committed.
    pub(crate) fn value(&self) -> i64 {
        self.with(|state| state.value)
    }

    /// Each step, with the number of records that were in the sink when it was taken.
    pub(crate) fn history(&self) -> Vec<(Step, usize)> {
        self.with(|state| state.history.clone())
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.history().into_iter().map(|(step, _)| step).collect()
    }

    /// How many transactions began: the number of the attempt that runs.
    pub(crate) fn attempts(&self) -> usize {
        self.steps().into_iter().filter(|step| *step == Began).count()
    }

    /// Another transaction commits, so that those under way run into a conflict.
    pub(crate) fn interfere(&self) {
        self.with(|state| state.version += 1);
    }

    pub(crate) fn let_commits_fail(&self, fail: bool) {
        self.with(|state| state.commits_fail = fail);
    }

    pub(crate) fn let_rollbacks_fail(&self, fail: bool) {
        self.with(|state| state.rollbacks_fail = fail);
    }

    fn record(&self, step: Step) {
        let records = self.sink.records().len();
        self.with(|state| state.history.push((step, records)));
    }

    fn with<R>(&self, access: impl FnOnce(&mut State) -> R) -> R {
        access(&mut self.state.lock().unwrap())
    }
}

#[derive(Debug)]
pub(crate) struct Tx {
    database: Database,
    read_version: u64,
    value: i64,
    open: bool,
}

impl Tx {
    /// Adds to the number, and gives what it is now.
    pub(crate) fn add(&mut self, n: i64) -> i64 {
        self.value += n;
        self.value
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DbError {
    Conflict,
    Disk,
    /// What a function fails with by itself.
    Function,
    /// What a function fails with that does not catch an error of `audit`.
    Audit(String),
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for DbError {}

impl From<AuditError> for DbError {
    fn from(error: AuditError) -> DbError {
        DbError::Audit(error.to_string())
    }
}

/// `commit` and `rollback` wait before they act and before they answer: moments at which a caller
/// can go away.
impl Transaction for Tx {
    type Error = DbError;

    async fn commit(mut self) -> Result<(), DbError> {
        yield_now().await;
        self.open = false;
        let (step, result) = self.database.with(|state| {
            if state.commits_fail {
                return (CommitFailed, Err(DbError::Disk));
            }
            if state.version != self.read_version {
                return (Conflicted, Err(DbError::Conflict));
            }
            state.version += 1;
            state.value = self.value;
            (Committed, Ok(()))
        });
        self.database.record(step);
        yield_now().await;
        result
    }

    async fn rollback(mut self) -> Result<(), DbError> {
        yield_now().await;
        self.open = false;
        self.database.record(RolledBack);
        yield_now().await;
        if self.database.with(|state| state.rollbacks_fail) { Err(DbError::Disk) } else { Ok(()) }
    }

    fn is_conflict(error: &DbError) -> bool {
        *error == DbError::Conflict
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.open {
            self.database.record(Dropped);
        }
    }
}

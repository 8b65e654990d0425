//! A small database: one number, optimistic transactions, and a history that shows for each step
//! how many records were durable at that moment.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use audit_core::testing::MemorySink;
use audit_runtime::{AuditError, LogReceipt, Transaction};
use tokio::task::yield_now;

use Step::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Began,
    Committed,
    /// The commit conflicts with another transaction's.
    Conflicted,
    /// The commit failed for another reason.
    CommitFailed,
    RolledBack,
    /// The transaction was dropped before its end, which rolls it back.
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
    commits: Commits,
    receipts: Receipts,
    kept: Vec<LogReceipt>,
    rollbacks_fail: bool,
}

/// How a commit without a conflict ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Commits {
    #[default]
    Succeed,
    /// Nothing is committed, but the error does not say so.
    Fail,
    /// Everything is committed, but the error does not say so.
    FailAfterwards,
    /// Nothing is committed, and the error says so.
    Break,
    Panic,
    PanicAfterwards,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Receipts {
    #[default]
    Kept,
    Fail,
    Conflict,
    Panic,
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
            receipt: None,
            open: true,
        });
        self.record(Began);
        tx
    }

    /// The committed number.
    pub(crate) fn value(&self) -> i64 {
        self.with(|state| state.value)
    }

    /// Each step, with the number of records then in the sink.
    pub(crate) fn history(&self) -> Vec<(Step, usize)> {
        self.with(|state| state.history.clone())
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.history().into_iter().map(|(step, _)| step).collect()
    }

    /// How many transactions began, which is the number of the current attempt.
    pub(crate) fn attempts(&self) -> usize {
        self.steps().into_iter().filter(|step| *step == Began).count()
    }

    /// Commits another transaction, so that open ones meet a conflict.
    pub(crate) fn interfere(&self) {
        self.with(|state| state.version += 1);
    }

    pub(crate) fn let_commits(&self, commits: Commits) {
        self.with(|state| state.commits = commits);
    }

    pub(crate) fn let_receipts(&self, receipts: Receipts) {
        self.with(|state| state.receipts = receipts);
    }

    /// The receipts of committed transactions, in order.
    pub(crate) fn receipts(&self) -> Vec<LogReceipt> {
        self.with(|state| state.kept.clone())
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
    receipt: Option<LogReceipt>,
    open: bool,
}

impl Tx {
    /// Adds to the number and returns it.
    pub(crate) fn add(&mut self, n: i64) -> i64 {
        self.value += n;
        self.value
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DbError {
    Conflict,
    Disk,
    /// A commit violated a constraint and was rolled back.
    Broken,
    /// The function's own failure.
    Function,
    /// An error of `audit` that the function did not catch.
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

/// The methods yield before they act and before they return, so that callers can be dropped there.
impl Transaction for Tx {
    type Error = DbError;

    async fn keep_receipt(&mut self, receipt: &LogReceipt) -> Result<(), DbError> {
        yield_now().await;
        self.receipt = Some(*receipt);
        yield_now().await;
        match self.database.with(|state| state.receipts) {
            Receipts::Kept => Ok(()),
            Receipts::Fail => Err(DbError::Disk),
            Receipts::Conflict => Err(DbError::Conflict),
            Receipts::Panic => resume_unwind(Box::new("keep_receipt")),
        }
    }

    async fn commit(mut self) -> Result<(), DbError> {
        yield_now().await;
        self.open = false;
        let (step, commits) = self.database.with(|state| {
            if [Commits::Fail, Commits::Break, Commits::Panic].contains(&state.commits) {
                return (CommitFailed, state.commits);
            }
            if state.version != self.read_version {
                return (Conflicted, state.commits);
            }
            state.version += 1;
            state.value = self.value;
            state.kept.extend(self.receipt);
            (Committed, state.commits)
        });
        self.database.record(step);
        yield_now().await;
        match (step, commits) {
            (Conflicted, _) => Err(DbError::Conflict),
            (_, Commits::Succeed) => Ok(()),
            (_, Commits::Fail | Commits::FailAfterwards) => Err(DbError::Disk),
            (_, Commits::Break) => Err(DbError::Broken),
            (_, Commits::Panic | Commits::PanicAfterwards) => resume_unwind(Box::new("commit")),
        }
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

    fn is_rolled_back(error: &DbError) -> bool {
        matches!(error, DbError::Conflict | DbError::Broken)
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.open {
            self.database.record(Dropped);
        }
    }
}

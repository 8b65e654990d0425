//! A transaction fails with the database's error, a function with its own, which wraps the
//! database's: conflicts are recognized inside it.

use std::fmt;

use audit_runtime::{AuditError, Execution, FunctionError, Mutation, MutationError, body};

use crate::database::{Commits, DbError, Step, Tx};
use crate::host::{Host, alice};

#[derive(Debug)]
enum RenameError {
    NotFound,
    Audit(AuditError),
    Database(DbError),
}

impl FunctionError<DbError> for RenameError {
    fn database_error(&self) -> Option<&DbError> {
        match self {
            RenameError::Database(error) => Some(error),
            RenameError::NotFound | RenameError::Audit(_) => None,
        }
    }
}

impl From<DbError> for RenameError {
    fn from(error: DbError) -> RenameError {
        RenameError::Database(error)
    }
}

impl From<AuditError> for RenameError {
    fn from(error: AuditError) -> RenameError {
        RenameError::Audit(error)
    }
}

impl fmt::Display for RenameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RenameError::NotFound => f.write_str("not found"),
            RenameError::Audit(error) => error.fmt(f),
            RenameError::Database(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RenameError {}

/// Runs a mutation that calls `function` in each attempt.
async fn run(
    host: &Host,
    function: impl Fn(&mut Tx) -> Result<i64, RenameError>,
) -> Result<i64, MutationError<RenameError>> {
    let attempt = async |execution: Execution<Mutation>| {
        let mut tx = host.database.begin();
        execution.log().audit(&body!({}))?;
        let result = function(&mut tx);
        Ok(execution.seal_transaction(tx, result))
    };
    host.runtime.run_mutation("rename", &alice(), attempt).await
}

#[tokio::test(start_paused = true)]
async fn a_wrapped_conflict_is_retried() {
    let host = Host::new();
    let conflict_first = |tx: &mut Tx| match host.database.attempts() {
        1 => Err(DbError::Conflict.into()),
        _ => Ok(tx.add(1)),
    };
    assert_eq!(run(&host, conflict_first).await.unwrap(), 1);
    assert_eq!(host.logs().len(), 2, "both attempts are logged");
}

#[tokio::test(start_paused = true)]
async fn any_other_error_is_returned() {
    let host = Host::new();
    let error = run(&host, |_| Err(RenameError::NotFound)).await.unwrap_err();
    assert!(matches!(error, MutationError::Function(RenameError::NotFound)), "{error:?}");
    let error = run(&host, |_| Err(DbError::Disk.into())).await.unwrap_err();
    let disk = matches!(error, MutationError::Function(RenameError::Database(DbError::Disk)));
    assert!(disk, "{error:?}");
    assert_eq!(host.database.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_is_wrapped() {
    let host = Host::new();
    host.database.let_commits(Commits::Fail);
    let error = run(&host, |tx| Ok(tx.add(1))).await.unwrap_err();
    let disk = matches!(error, MutationError::Commit(RenameError::Database(DbError::Disk)));
    assert!(disk, "{error:?}");
    host.database.let_commits(Commits::Succeed);

    let interfered = |tx: &mut Tx| {
        host.database.interfere();
        Ok(tx.add(1))
    };
    let error = run(&host, interfered).await.unwrap_err();
    let MutationError::Conflict { attempts, source } = error else { panic!("{error:?}") };
    assert!(matches!(source, RenameError::Database(DbError::Conflict)), "{source:?}");
    let steps = host.database.steps();
    let conflicts = steps.iter().filter(|step| **step == Step::Conflicted).count();
    assert_eq!(conflicts, attempts as usize);
}

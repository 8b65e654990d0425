//! The database holds exactly what was reported as committed.

use std::sync::Arc;

use audit_core::testing::MemorySink;
use audit_runtime::MutationError;
use audit_sqlx::AuditedDatabase;
use sqlx::{AssertSqlSafe, Connection, Executor, Pool};

use crate::database::{Database, logged, runtime};

#[tokio::test]
async fn caught_statement_errors_commit_all_or_nothing() {
    let database = Database::new(1).await;
    let (sink, runtime, request) = runtime();
    let run = runtime.run_mutation("f", &request, async |execution| {
        logged(&execution.log(), "f");
        let mut tx = audit_sqlx::begin(&database.pool).await?;
        let insert = || sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('a', 1)"));
        insert().execute(&mut *tx).await?;
        // The second insert violates the key. The function ignores the error.
        assert!(insert().execute(&mut *tx).await.is_err());
        Ok(execution.seal_transaction(tx, Ok::<_, sqlx::Error>("done")))
    });
    let result = run.await;
    // SQLite undoes only the statement, PostgreSQL the whole transaction.
    match (&result, database.is_sqlite) {
        (Ok("done"), true) => assert_eq!(database.value("a").await, Some(1)),
        (Err(MutationError::Commit(_)), false) => assert_eq!(database.value("a").await, None),
        _ => panic!("{result:?}"),
    }
    assert_eq!(sink.lines().len(), 1, "the attempt is logged either way");
}

#[tokio::test]
async fn a_function_that_ends_its_transaction_has_not_committed() {
    let database = Database::new(1).await;
    for (n, end) in ["ROLLBACK", "COMMIT"].into_iter().enumerate() {
        let (sink, runtime, request) = runtime();
        let run = runtime.run_mutation("f", &request, async |execution| {
            logged(&execution.log(), "f");
            let mut tx = audit_sqlx::begin(&database.pool).await?;
            tx.execute(database.sql("INSERT INTO $TABLE VALUES ('a', 1)")).await?;
            tx.execute(end).await?;
            Ok(execution.seal_transaction(tx, Ok::<_, sqlx::Error>(())))
        });
        let result = run.await;
        assert!(matches!(result, Err(MutationError::Commit(_))), "{end}: {result:?}");
        assert_eq!(sink.lines().len(), 1, "{end}");
        let run = runtime.run_mutation("g", &request, async |execution| {
            let mut tx = audit_sqlx::begin(&database.pool).await?;
            let insert = format!("INSERT INTO $TABLE VALUES ('next {n}', 1)");
            tx.execute(database.sql(&insert)).await?;
            Ok(execution.seal_transaction(tx, Ok::<_, sqlx::Error>(())))
        });
        run.await.unwrap();
        assert_eq!(database.value(&format!("next {n}")).await, Some(1), "{end}");
    }
}

#[tokio::test]
async fn a_failed_function_commits_nothing_and_is_logged() {
    let database = Database::new(1).await;
    let (sink, runtime, request) = runtime();
    let run = runtime.run_mutation("f", &request, async |execution| {
        logged(&execution.log(), "f");
        let mut tx = audit_sqlx::begin(&database.pool).await?;
        let insert = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('a', 1)"));
        insert.execute(&mut *tx).await?;
        Ok(execution.seal_transaction(tx, Err::<(), _>(sqlx::Error::RowNotFound)))
    });
    assert!(matches!(run.await, Err(MutationError::Function(sqlx::Error::RowNotFound))));
    assert_eq!((database.value("a").await, sink.lines().len()), (None, 1));
}

#[tokio::test]
async fn rolled_back_savepoints_keep_their_logs() {
    let database = Database::new(1).await;
    let (sink, runtime, request) = runtime();
    let run = runtime.run_mutation("f", &request, async |execution| {
        let mut tx = audit_sqlx::begin(&database.pool).await?;
        let insert = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('outer', 1)"));
        insert.execute(&mut *tx).await?;
        let mut inner = tx.begin().await?;
        logged(&execution.log().nested_mutation("g"), "g");
        let insert = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('inner', 1)"));
        insert.execute(&mut *inner).await?;
        inner.rollback().await?;
        Ok(execution.seal_transaction(tx, Ok::<_, sqlx::Error>(())))
    });
    run.await.unwrap();
    assert_eq!((database.value("outer").await, database.value("inner").await), (Some(1), None));
    assert!(sink.lines()[0].contains("\"g\""));
}

/// Inserts on a typed pool, without `Any`.
async fn insert_on<DB: AuditedDatabase>(
    pool: Pool<DB>,
    sql: impl Fn() -> AssertSqlSafe<String>,
) -> Arc<MemorySink>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let (sink, runtime, request) = runtime();
    let run = runtime.run_mutation("f", &request, async |execution| {
        logged(&execution.log(), "f");
        let mut tx = audit_sqlx::begin(&pool).await?;
        tx.execute(sql()).await?;
        Ok(execution.seal_transaction(tx, Ok::<_, sqlx::Error>(())))
    });
    run.await.unwrap();
    sink
}

#[tokio::test]
async fn typed_pools_commit_too() {
    let database = Database::new(1).await;
    let (url, sql) = (database.url(), || database.sql("INSERT INTO $TABLE VALUES ('a', 1)"));
    let sink = if database.is_sqlite {
        insert_on(sqlx::SqlitePool::connect(&url).await.unwrap(), sql).await
    } else {
        insert_on(sqlx::PgPool::connect(&url).await.unwrap(), sql).await
    };
    assert_eq!((database.value("a").await, sink.lines().len()), (Some(1), 1));
}

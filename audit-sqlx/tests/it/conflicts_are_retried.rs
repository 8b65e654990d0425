//! A mutation that meets a conflict is retried, and each attempt is logged.

use std::cell::Cell;
use std::sync::Arc;

use audit_runtime::{AuditRuntime, MutationError, RequestContext, RetryPolicy};
use tokio::sync::Barrier;

use crate::database::{Database, logged, runtime};

/// Adds 1 to a counter. The first attempt writes only once all others have read. Returns the number
/// of attempts.
async fn add_one(
    database: &Database,
    (runtime, request): (&AuditRuntime, &RequestContext),
    all_have_read: &Barrier,
) -> Result<u32, MutationError<sqlx::Error>> {
    let attempts = Cell::new(0);
    let run = runtime.run_mutation("add", request, async |execution| {
        attempts.set(attempts.get() + 1);
        logged(&execution.log(), "add");
        let mut tx = audit_sqlx::begin(&database.pool).await?;
        let result = async {
            let read = sqlx::query_scalar(database.sql("SELECT value FROM $TABLE"));
            let value: i64 = read.fetch_one(&mut *tx).await?;
            if attempts.get() == 1 {
                all_have_read.wait().await;
            }
            let write = sqlx::query(database.sql("UPDATE $TABLE SET value = $1"));
            write.bind(value + 1).execute(&mut *tx).await?;
            Ok(attempts.get())
        };
        let result = result.await;
        Ok(execution.seal_transaction(tx, result))
    });
    run.await
}

#[tokio::test]
async fn no_update_is_lost_and_each_attempt_is_logged() {
    const WRITERS: usize = 4;
    let database = Arc::new(Database::new(WRITERS as u32).await);
    let (sink, runtime, request) = runtime();
    let insert = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('counter', 0)"));
    insert.execute(&database.pool).await.unwrap();
    let barrier = Barrier::new(WRITERS);
    let writers = (0..WRITERS).map(|_| add_one(&database, (&runtime, &request), &barrier));
    let attempts = futures::future::try_join_all(writers).await.unwrap();
    assert_eq!(database.value("counter").await, Some(WRITERS as i64));
    // All read before any wrote, so only one of the first attempts can have committed.
    assert_eq!(attempts.iter().filter(|attempts| **attempts == 1).count(), 1, "{attempts:?}");
    assert_eq!(sink.lines().len(), attempts.iter().sum::<u32>() as usize);
}

/// Write skew: two transactions read the same rows and write different ones, which together
/// violates what each checked.
#[tokio::test]
async fn transactions_are_serializable() {
    let database = Database::new(2).await;
    let (_, runtime, request) = runtime();
    let insert = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('ada', 1), ('bob', 1)"));
    insert.execute(&database.pool).await.unwrap();
    let barrier = Barrier::new(2);
    let leave = async |name: &str| {
        let first = Cell::new(true);
        let run = runtime.run_mutation("leave", &request, async |execution| {
            let mut tx = audit_sqlx::begin(&database.pool).await?;
            let result = async {
                let read =
                    sqlx::query_scalar(database.sql("SELECT name FROM $TABLE WHERE value = 1"));
                let on_call: Vec<String> = read.fetch_all(&mut *tx).await?;
                if first.replace(false) {
                    barrier.wait().await;
                }
                if on_call.len() < 2 {
                    return Ok(false);
                }
                let write =
                    sqlx::query(database.sql("UPDATE $TABLE SET value = 0 WHERE name = $1"));
                write.bind(name).execute(&mut *tx).await?;
                Ok::<_, sqlx::Error>(true)
            };
            let result = result.await;
            Ok(execution.seal_transaction(tx, result))
        });
        run.await.unwrap()
    };
    let (ada, bob) = futures::future::join(leave("ada"), leave("bob")).await;
    assert!(ada != bob, "one left, and the other saw it: {ada} {bob}");
}

#[tokio::test]
async fn inserts_that_ignore_duplicates_report_concurrent_ones() {
    let database = Database::new(2).await;
    let (_, runtime, request) = runtime();
    let barrier = Barrier::new(2);
    let add = async || {
        let first = Cell::new(true);
        let run = runtime.run_mutation("add", &request, async |execution| {
            let mut tx = audit_sqlx::begin(&database.pool).await?;
            let result = async {
                let read = sqlx::query_scalar(database.sql("SELECT value FROM $TABLE"));
                let found: Option<i64> = read.fetch_optional(&mut *tx).await?;
                if first.replace(false) {
                    barrier.wait().await;
                }
                let write = match found {
                    None => "INSERT INTO $TABLE VALUES ('a', 1) ON CONFLICT DO NOTHING",
                    Some(_) => "UPDATE $TABLE SET value = value + 1",
                };
                sqlx::query(database.sql(write)).execute(&mut *tx).await.map(drop)
            };
            let result = result.await;
            Ok(execution.seal_transaction(tx, result))
        });
        run.await
    };
    let (one, other) = futures::future::join(add(), add()).await;
    one.unwrap();
    other.unwrap();
    assert_eq!(database.value("a").await, Some(2));
}

#[tokio::test]
async fn duplicate_keys_are_not_conflicts() {
    let database = Database::new(1).await;
    let (sink, runtime, request) = runtime();
    let runtime = AuditRuntime::builder(Arc::clone(runtime.sink()))
        .with_retry_policy(RetryPolicy { max_attempts: 9, ..RetryPolicy::default() })
        .build();
    let insert = || sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('a', 1)"));
    insert().execute(&database.pool).await.unwrap();
    let run = runtime.run_mutation("f", &request, async |execution| {
        logged(&execution.log(), "f");
        let mut tx = audit_sqlx::begin(&database.pool).await?;
        let result = insert().execute(&mut *tx).await.map(drop);
        Ok(execution.seal_transaction(tx, result))
    });
    assert!(matches!(run.await, Err(MutationError::Function(_))));
    assert_eq!(sink.lines().len(), 1, "one attempt");
}

//! Receipts match committed changes with records in both directions, and a record without a receipt
//! belongs to an uncommitted attempt.

use std::cell::Cell;
use std::sync::Arc;

use audit_core::testing::MemorySink;
use audit_runtime::{AuditRuntime, MutationError, RequestContext, RetryPolicy, UniqueId, body};
use audit_sqlx::{create_receipts, receipt_of_execution, receipt_of_record};
use serde_json::Value;
use sqlx::Row;
use tokio::sync::Barrier;

use crate::database::Database;

/// A database with a table of receipts, and a runtime with outcomes.
async fn host(connections: u32) -> (Database, Arc<MemorySink>, AuditRuntime, RequestContext) {
    let database = Database::new(connections).await;
    create_receipts(&database.pool).await.unwrap();
    // Twice, as by a second host.
    create_receipts(&database.pool).await.unwrap();
    let sink = Arc::new(MemorySink::new());
    let policy = RetryPolicy { max_attempts: 50, base_backoff_ms: 1, max_backoff_ms: 20 };
    let builder = AuditRuntime::builder(Arc::clone(&sink) as _).with_outcomes(true);
    let runtime = builder.with_retry_policy(policy).build();
    let request = runtime.new_request();
    (database, sink, runtime, request)
}

/// Each log in the sink, with its attempt's outcome and whether it has a receipt.
async fn examined(database: &Database, sink: &MemorySink) -> Vec<(Value, Option<String>, bool)> {
    let records = sink.records();
    let parsed: Vec<Value> =
        records.iter().map(|record| serde_json::from_slice(&record.line).unwrap()).collect();
    let outcome_of = |audit: &Value| {
        let of = |other: &&Value| {
            let other = &other["$audit"];
            other["outcome"].is_string()
                && (&other["execution"], &other["attempt"])
                    == (&audit["execution"], &audit["attempt"])
        };
        let mut found = parsed.iter().filter(of);
        let outcome = found.next().map(|found| found["$audit"]["outcome"].as_str().unwrap().into());
        assert!(found.next().is_none(), "one outcome per attempt");
        outcome
    };
    let mut examined = Vec::new();
    for (record, log) in records.iter().zip(&parsed) {
        let receipt = receipt_of_record(&database.pool, record.stream, record.sequence);
        let receipt = receipt.await.unwrap();
        if log["$audit"]["outcome"].is_string() {
            assert_eq!(receipt, None, "outcomes have no receipts");
            continue;
        }
        if let Some(receipt) = receipt {
            assert_eq!(log["$audit"]["execution"], receipt.execution.to_string());
            assert_eq!(log["$audit"]["attempt"], receipt.attempt);
            let by_execution = receipt_of_execution(&database.pool, receipt.execution);
            assert_eq!(by_execution.await.unwrap(), Some(receipt));
        }
        examined.push((log.clone(), outcome_of(&log["$audit"]), receipt.is_some()));
    }
    examined
}

#[tokio::test]
async fn rows_and_records_find_each_other() {
    let (database, sink, runtime, request) = host(1).await;
    for logs in [3, 1, 2] {
        let run = runtime.run_mutation("add", &request, async |execution| {
            let mut tx = audit_sqlx::begin(&database.pool).await?.with_receipts();
            let id = execution.execution_id();
            for n in 0..logs {
                execution.log().audit(&body!({ "n": n })).unwrap();
            }
            let insert = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ($1, $2)"));
            let insert = insert.bind(id.to_string()).bind(logs).execute(&mut *tx).await;
            Ok(execution.seal_transaction(tx, insert.map(|_| id)))
        });
        let id = run.await.unwrap();
        let receipt = receipt_of_execution(&database.pool, id).await.unwrap().unwrap();
        let place = receipt.place;
        assert_eq!((receipt.execution, receipt.attempt, place.count), (id, 1, logs as u32));
        for n in 0..u64::from(place.count) {
            let of_record =
                receipt_of_record(&database.pool, place.stream, place.first_sequence + n);
            assert_eq!(of_record.await.unwrap(), Some(receipt));
        }
        runtime.drain_outcomes().await;
    }
    let examined = examined(&database, &sink).await;
    assert_eq!(examined.len(), 6);
    assert!(
        examined.iter().all(|(_, outcome, has)| *has && outcome.as_deref() == Some("committed"))
    );
    let other = UniqueId::from_bits(7);
    assert_eq!(receipt_of_execution(&database.pool, other).await.unwrap(), None);
    assert_eq!(receipt_of_record(&database.pool, other, 0).await.unwrap(), None);
    assert_eq!(receipt_of_record(&database.pool, other, u64::MAX).await.unwrap(), None);
}

#[tokio::test]
async fn uncommitted_attempts_have_no_receipt() {
    let (database, sink, runtime, request) = host(1).await;
    let run = runtime.run_mutation("fail", &request, async |execution| {
        let tx = audit_sqlx::begin(&database.pool).await?.with_receipts();
        execution.log().audit(&body!({ "way": "fails" })).unwrap();
        Ok(execution.seal_transaction(tx, Err::<(), _>(sqlx::Error::RowNotFound)))
    });
    run.await.unwrap_err();
    // The function catches a statement's error, after which PostgreSQL can no longer commit.
    let run = runtime.run_mutation("catch", &request, async |execution| {
        let mut tx = audit_sqlx::begin(&database.pool).await?.with_receipts();
        execution.log().audit(&body!({ "way": "catches" })).unwrap();
        let broken = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('a', NULL)"));
        broken.execute(&mut *tx).await.unwrap_err();
        Ok(execution.seal_transaction(tx, Ok::<_, sqlx::Error>(())))
    });
    let caught = run.await;
    assert_eq!(caught.is_ok(), database.is_sqlite, "{caught:?}");
    runtime.drain_outcomes().await;
    let examined = examined(&database, &sink).await;
    let found: Vec<_> = examined
        .iter()
        .map(|(log, outcome, has)| (log["way"].as_str().unwrap(), outcome.as_deref(), *has))
        .collect();
    let catches = if database.is_sqlite { "committed" } else { "rolled back" };
    let expected =
        [("fails", Some("failed"), false), ("catches", Some(catches), database.is_sqlite)];
    assert_eq!(found, expected);
}

/// A deferred constraint fails the commit, which certainly commits nothing.
#[tokio::test]
async fn commits_that_violate_constraints_roll_back() {
    let (database, sink, runtime, request) = host(1).await;
    let create = "CREATE TABLE $TABLE_of (parent TEXT REFERENCES $TABLE (name) DEFERRABLE INITIALLY DEFERRED)";
    sqlx::query(database.sql(create)).execute(&database.pool).await.unwrap();
    let run = runtime.run_mutation("orphan", &request, async |execution| {
        let mut tx = audit_sqlx::begin(&database.pool).await?.with_receipts();
        execution.log().audit(&body!({})).unwrap();
        let orphan = sqlx::query(database.sql("INSERT INTO $TABLE_of VALUES ('nobody')"));
        let result = orphan.execute(&mut *tx).await.map(drop);
        Ok(execution.seal_transaction(tx, result))
    });
    assert!(matches!(run.await, Err(MutationError::Commit(_))));
    runtime.drain_outcomes().await;
    let [(_, outcome, has_receipt)] = &examined(&database, &sink).await[..] else { panic!() };
    assert_eq!((outcome.as_deref(), *has_receipt), (Some("rolled back"), false));
}

#[tokio::test]
async fn outcomes_and_receipts_agree_under_conflicts() {
    const WRITERS: usize = 4;
    let (database, sink, runtime, request) = host(WRITERS as u32).await;
    let insert = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('counter', 0)"));
    insert.execute(&database.pool).await.unwrap();
    let barrier = Barrier::new(WRITERS);
    let add = async || {
        let first = Cell::new(true);
        let run = runtime.run_mutation("add", &request, async |execution| {
            let mut tx = audit_sqlx::begin(&database.pool).await?.with_receipts();
            execution.log().audit(&body!({ "action": "add" })).unwrap();
            let result = async {
                let read = sqlx::query(database.sql("SELECT value FROM $TABLE"));
                let value: i64 = read.fetch_one(&mut *tx).await?.try_get(0)?;
                if first.replace(false) {
                    barrier.wait().await;
                }
                let write = sqlx::query(database.sql("UPDATE $TABLE SET value = $1"));
                write.bind(value + 1).execute(&mut *tx).await.map(drop)
            };
            let result = result.await;
            Ok(execution.seal_transaction(tx, result))
        });
        run.await
    };
    let writers = (0..WRITERS).map(|_| add());
    futures::future::try_join_all(writers).await.unwrap();
    runtime.drain_outcomes().await;
    let examined = examined(&database, &sink).await;
    assert!(examined.len() > WRITERS, "all but one met a conflict");
    for (log, outcome, has_receipt) in &examined {
        let expected = if *has_receipt { "committed" } else { "conflict" };
        assert_eq!(outcome.as_deref(), Some(expected), "{log}");
    }
    let committed = examined.iter().filter(|(_, _, has_receipt)| *has_receipt).count();
    assert_eq!((committed, database.value("counter").await), (WRITERS, Some(WRITERS as i64)));
}

/// Each lookup is one index search without sorting.
#[tokio::test]
async fn lookups_use_an_index() {
    let (database, ..) = host(1).await;
    if !database.is_sqlite {
        return;
    }
    for find in [
        "SELECT * FROM audit_receipts WHERE execution = '' ORDER BY attempt DESC LIMIT 1",
        "SELECT * FROM audit_receipts WHERE stream = '' AND sequence <= 7 ORDER BY sequence DESC LIMIT 1",
    ] {
        let plan = sqlx::query(database.sql(&format!("EXPLAIN QUERY PLAN {find}")));
        let plan = plan.fetch_all(&database.pool).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        assert!(matches!(&steps[..], [one] if one.starts_with("SEARCH")), "{steps:?}");
    }
}

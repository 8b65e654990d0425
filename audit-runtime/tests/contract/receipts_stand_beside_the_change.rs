//! A transaction gets the place of its logs before it commits. If it cannot store the place, it
//! does not commit.

use audit_core::testing::MemorySink;
use audit_runtime::{
    AuditRuntime, Execution, LogReceipt, Mutation, MutationError, RetryPolicy, body,
};
use audit_sink_null::NullSink;
use std::sync::Arc;

use crate::database::Step::*;
use crate::database::{Database, DbError, Receipts};
use crate::host::*;

/// A mutation that logs this many times and adds 1.
async fn add(
    (runtime, database): (&AuditRuntime, &Database),
    logs: usize,
) -> Result<(), MutationError<DbError>> {
    let attempt = async |execution: Execution<Mutation>| {
        let mut tx = database.begin();
        for n in 0..logs {
            execution.log().audit(&body!({ "n": n }))?;
        }
        tx.add(1);
        Ok(execution.seal_transaction(tx, Ok(())))
    };
    runtime.run_mutation("f", &alice(), attempt).await
}

fn records_at(sink: &MemorySink, receipt: &LogReceipt) -> Vec<serde_json::Value> {
    let LogReceipt { place, .. } = receipt;
    let numbers = place.first_sequence..place.first_sequence + u64::from(place.count);
    let records = sink.records().into_iter();
    let at = records.filter(|r| r.stream == place.stream && numbers.contains(&r.sequence));
    at.map(|record| serde_json::from_slice(&record.line).unwrap()).collect()
}

#[tokio::test]
async fn a_receipt_names_the_records_of_its_attempt() {
    let host = Host::with(|settings| settings.with_provenance(true));
    for logs in [1, 3, 2] {
        add((&host.runtime, &host.database), logs).await.unwrap();
        host.view(()).release(&bob()).await.unwrap();
    }
    let receipts = host.database.receipts();
    let counts: Vec<u32> = receipts.iter().map(|receipt| receipt.place.count).collect();
    assert_eq!(counts, [1, 3, 2]);
    for receipt in &receipts {
        let records = records_at(&host.sink, receipt);
        assert_eq!(records.len(), receipt.place.count as usize);
        for (n, record) in records.iter().enumerate() {
            assert_eq!(record["n"], n);
            assert_eq!(record["$audit"]["execution"], receipt.execution.to_string());
            assert_eq!(record["$audit"]["attempt"], receipt.attempt);
        }
    }
}

#[tokio::test]
async fn discarded_records_have_no_receipt() {
    let host = Host::new();
    add((&host.runtime, &host.database), 0).await.unwrap();
    let discarding = AuditRuntime::new(Arc::new(NullSink::new()));
    add((&discarding, &host.database), 1).await.unwrap();
    assert_eq!((host.database.value(), host.database.receipts()), (2, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_failed_receipt_stops_the_commit() {
    for outcomes in [false, true] {
        let policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::default() };
        let with =
            || Host::with(|settings| settings.with_outcomes(outcomes).with_retry_policy(policy));
        let host = with();
        host.database.let_receipts(Receipts::Fail);
        let error = add((&host.runtime, &host.database), 1).await.unwrap_err();
        assert!(matches!(error, MutationError::Commit(DbError::Disk)), "{error:?}");
        assert_eq!(host.database.history(), [(Began, 0), (RolledBack, 1)]);

        let host = with();
        host.database.let_receipts(Receipts::Conflict);
        let error = add((&host.runtime, &host.database), 1).await.unwrap_err();
        assert!(matches!(error, MutationError::Conflict { attempts: 3, .. }), "{error:?}");
        assert_eq!((host.database.value(), host.database.receipts()), (0, vec![]));
    }
}

/// A retried mutation has one id, and its receipt names the attempt that committed.
#[tokio::test(start_paused = true)]
async fn the_receipt_is_of_the_attempt_that_committed() {
    let host = Host::with(|settings| settings.with_provenance(true));
    let attempt = async |execution: Execution<Mutation>| {
        let tx = host.database.begin();
        let id = execution.log().execution_id();
        assert_eq!(id, execution.execution_id());
        execution.log().audit(&body!({ "id": id.to_string() }))?;
        if host.database.attempts() < 3 {
            host.database.interfere();
        }
        Ok(execution.seal_transaction(tx, Ok::<_, DbError>(id)))
    };
    let id = host.runtime.run_mutation("f", &alice(), attempt).await.unwrap();
    let [receipt] = host.database.receipts()[..] else { panic!() };
    assert_eq!((receipt.execution, receipt.attempt), (id, 3));
    assert_eq!(host.members("id"), [id.to_string(), id.to_string(), id.to_string()]);
    assert_eq!(records_at(&host.sink, &receipt)[0]["$audit"]["attempt"], 3);
}

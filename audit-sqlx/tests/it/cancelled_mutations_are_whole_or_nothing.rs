//! Wherever a mutation is cancelled, its change is there with its records and its receipt, or not
//! at all, and its connection is free.

use std::cell::RefCell;
use std::sync::Arc;

use audit_core::testing::{MemorySink, poll_at_most};
use audit_runtime::{AuditRuntime, UniqueId, body};
use audit_sqlx::{create_receipts, receipt_of_execution};

use crate::database::Database;

/// More polls than a mutation takes.
const MOST_POLLS: usize = 40;

#[tokio::test]
async fn a_mutation_that_is_dropped_anywhere_is_whole_or_nothing() {
    for with_outcomes in [false, true] {
        let database = Database::new(1).await;
        create_receipts(&database.pool).await.unwrap();
        let sink = Arc::new(MemorySink::new());
        let builder = AuditRuntime::builder(Arc::clone(&sink) as _).with_outcomes(with_outcomes);
        let runtime = builder.with_provenance(true).build();
        let request = runtime.new_request();
        let (mut whole, mut nothing, mut answered) = (0, 0, 0);
        // How far a number of polls leads varies, so each number is tried several times.
        for (round, polls) in (0..=MOST_POLLS).cycle().take(4 * MOST_POLLS).enumerate() {
            let begun: RefCell<Option<UniqueId>> = RefCell::default();
            let mutation = runtime.run_mutation("add", &request, async |execution| {
                let id = execution.execution_id();
                begun.replace(Some(id));
                let mut tx = audit_sqlx::begin(&database.pool).await?.with_receipts();
                execution.log().audit(&body!({ "action": "add" })).unwrap();
                let insert = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ($1, 1)"));
                let insert = insert.bind(id.to_string()).execute(&mut *tx).await;
                Ok(execution.seal_transaction(tx, insert.map(drop)))
            });
            let answer = poll_at_most(polls, mutation).await;
            answered += usize::from(answer.is_some());
            // Waits for commits that continue without their caller.
            runtime.drain_outcomes().await;
            // The pool has one connection. If a transaction were open there, this statement would
            // run in it, and another connection would not see the row.
            let name = format!("row {round}");
            let inserted = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ($1, 1)"));
            inserted.bind(&name).execute(&database.pool).await.unwrap();
            assert_eq!(database.value(&name).await, Some(1), "{polls} polls");

            let Some(id) = begun.into_inner() else { continue };
            let is_there = database.value(&id.to_string()).await.is_some();
            let receipt = receipt_of_execution(&database.pool, id).await.unwrap();
            assert_eq!(receipt.is_some(), is_there, "{polls} polls");
            let is_of_it = |line: &String| line.contains(&id.to_string());
            let records = sink.lines().into_iter().filter(is_of_it);
            let records = records.filter(|line| line.contains("\"action\"")).count();
            assert!(records == 1 || (records == 0 && !is_there), "{polls} polls: {records}");
            if let Some(answer) = answer {
                answer.unwrap();
                assert!(is_there);
            }
            *if is_there { &mut whole } else { &mut nothing } += 1;
        }
        assert!(whole >= answered && answered > 0 && nothing > 0, "{whole} {nothing} {answered}");
    }
}

//! Transactions by example, and by comparison with a model.

mod commit_times;
mod commits;
mod costs;
mod crashes;
mod cursors;
mod examples;
mod histories;
mod model;
mod receipts;
mod tables_never_committed;
mod threads;

use std::collections::BTreeMap;

use functions_value::{Value, patch_from_json};
use serde_json::json;

use super::*;

fn root() -> ComponentPath {
    ComponentPath::root()
}

/// A new store in a temporary directory.
fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

fn value(json: serde_json::Value) -> Value {
    Value::from_json(json).unwrap()
}

#[test]
fn only_later_transactions_read_a_commit() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let before = store.latest();
    let mut tx = store.begin(&before, 1);
    let id = tx.insert(&root(), "messages", value(json!({ "body": "hi" }))).unwrap();
    assert_eq!(id.len(), 32);
    let own = tx.get(&root(), None, &id).unwrap().unwrap();
    assert_eq!(own.at(&["body"]), Some(&Value::from("hi")));
    let ts = tx.commit().unwrap();
    assert_eq!(store.latest().ts(), ts);
    let mut early = store.begin(&before, 2);
    assert_eq!(early.get(&root(), None, &id).unwrap(), None);
    let mut late = store.begin(&store.latest(), 3);
    assert_eq!(late.get(&root(), Some("messages"), &id).unwrap(), Some(own.clone()));
    late.patch(
        &root(),
        None,
        &id,
        patch_from_json(json!({ "body": { "$undefined": null }, "n": 1 })).unwrap(),
    )
    .unwrap();
    assert_eq!(late.get(&root(), None, &id).unwrap().unwrap().at(&["body"]), None);
    late.commit().unwrap();
    drop((before, early));
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    let mut tx = store.begin(&store.latest(), 4);
    assert_eq!(tx.get(&root(), None, &id).unwrap().unwrap().at(&["n"]), Some(&Value::from(1.0)));
    assert_eq!(tx.count(&root(), "messages").unwrap(), 1);
}

#[test]
fn commits_conflict_only_on_written_reads() {
    let (_directory, store) = open();
    let mut tx = store.begin(&store.latest(), 1);
    let a = tx.insert(&root(), "t", value(json!({ "n": 1 }))).unwrap();
    let b = tx.insert(&root(), "t", value(json!({ "n": 2 }))).unwrap();
    tx.commit().unwrap();
    let snapshot = store.latest();
    let mut one = store.begin(&snapshot, 2);
    let mut two = store.begin(&snapshot, 3);
    let mut three = store.begin(&snapshot, 4);
    one.patch(&root(), None, &a, patch_from_json(json!({ "n": 10 })).unwrap()).unwrap();
    two.get(&root(), None, &a).unwrap();
    two.insert(&root(), "t", value(json!({ "n": 3 }))).unwrap();
    three.get(&root(), None, &b).unwrap();
    three.insert(&root(), "t", value(json!({ "n": 4 }))).unwrap();
    one.commit().unwrap();
    let conflict = two.commit().unwrap_err();
    assert!(
        matches!(&conflict, CommitError::Conflict { table, document: Some(id) } if table == "t" && *id == a)
    );
    three.commit().unwrap();
}

#[test]
fn an_index_is_read_in_order() {
    let (_directory, store) = open();
    let schema = json!({ "schemaValidation": true, "tables": [{
        "tableName": "t", "indexes": [{ "indexDescriptor": "by_n", "fields": ["n"] }], "documentType": { "type": "any" },
    }]});
    store.set_schema(&BTreeMap::from([(root(), Some(schema))])).unwrap();
    let mut tx = store.begin(&store.latest(), 1);
    for n in [3, 1, 2] {
        tx.insert(&root(), "t", value(json!({ "n": n }))).unwrap();
    }
    tx.commit().unwrap();
    let mut tx = store.begin(&store.latest(), 1);
    let query = json!({ "source": { "type": "IndexRange", "indexName": "t.by_n",
        "range": [{ "type": "Gte", "fieldPath": "n", "value": 2 }], "order": "desc" }, "operators": [] });
    let stream = tx.query(&root(), &query).unwrap();
    let mut seen = Vec::new();
    while let Some(document) = tx.query_next(stream).unwrap() {
        seen.push(document.at(&["n"]).cloned().unwrap());
    }
    assert_eq!(seen, [Value::from(3.0), Value::from(2.0)]);
}

#[test]
fn public_types_can_move_between_threads() {
    fn is_send<T: Send + 'static>() {}
    fn is_sync<T: Send + Sync + 'static>() {}
    is_send::<Tx>();
    is_sync::<(Store, Snapshot, ReadSet, Watch, StoreError, CommitError, SchemaError)>();
}

#[test]
fn creation_times_increase_within_one_millisecond() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(audit_core::testing::ManualClock::at(1_700_000_000_000));
    let mut seen = Vec::new();
    for seed in 0..3 {
        let store = Store::open_with_clock(directory.path(), clock.clone()).unwrap();
        for seed in [seed * 2, seed * 2 + 1] {
            let mut tx = store.begin(&store.latest(), seed);
            for _ in 0..2 {
                let id = tx.insert(&root(), "t", value(json!({}))).unwrap();
                let document = tx.get(&root(), None, &id).unwrap().unwrap();
                seen.push(document.at(&["_creationTime"]).unwrap().clone());
            }
            tx.commit().unwrap();
        }
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
}

#[test]
fn commits_outlive_wrong_clocks() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(audit_core::testing::ManualClock::default());
    let (mut last, mut created) = (0, f64::MIN);
    let (now, now_us) = (1_795_729_549_445, 1_795_729_549_445_000);
    for at_ms in [0, i64::MIN, now, now_us, now, i64::MAX, i64::MAX - 1, -1, now] {
        clock.advance(at_ms.wrapping_sub(audit_core::Clock::now_ms(&*clock)));
        let store = Store::open_with_clock(directory.path(), clock.clone()).unwrap();
        for seed in 0..3 {
            let mut tx = store.begin(&store.latest(), seed);
            let id = tx.insert(&root(), "t", value(json!({}))).unwrap();
            let document = tx.get(&root(), None, &id).unwrap().unwrap();
            let Some(&Value::Float64(at)) = document.at(&["_creationTime"]) else { panic!() };
            let ts = tx.commit().unwrap();
            assert!(ts > last && at > created, "{at_ms}: {ts} after {last}, {at} after {created}");
            assert!(i64::try_from(ts).is_ok_and(|ts| ts < i64::MAX / 5 * 4), "{at_ms}: {ts}");
            (last, created) = (ts, at);
        }
    }
}

#[test]
fn commits_that_share_a_sync_conflict() {
    let (_directory, store) = open();
    let mut tx = store.begin(&store.latest(), 1);
    let id = tx.insert(&root(), "t", value(json!({ "n": 0 }))).unwrap();
    tx.commit().unwrap();
    let snapshot = store.latest();
    let request = |seed, reads: bool| {
        let mut tx = store.begin(&snapshot, seed);
        if reads {
            let patch = patch_from_json(json!({ "n": seed })).unwrap();
            tx.patch(&root(), None, &id, patch).unwrap();
        }
        tx.insert(&root(), "t", value(json!({}))).unwrap();
        tx.into_request(snapshot.ts()).unwrap()
    };
    let outcomes = store.commit_group(vec![
        request(2, false),
        request(3, true),
        request(4, true),
        request(5, false),
    ]);
    let [Ok(first), Ok(second), Err(conflict), Ok(last)] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert!(snapshot.ts() < *first && first < second && second < last);
    assert!(
        matches!(conflict, CommitError::Conflict { table, document: Some(of) } if table == "t" && *of == id)
    );
    let mut tx = store.begin(&store.latest(), 6);
    assert_eq!(tx.snapshot().ts(), *last);
    assert_eq!(tx.count(&root(), "t").unwrap(), 4);
    assert_eq!(tx.get(&root(), None, &id).unwrap().unwrap().at(&["n"]), Some(&Value::from(3.0)));
}

#[test]
fn a_transaction_too_old_to_be_checked_is_not_committed() {
    let (_directory, store) = open();
    let snapshot = store.latest();
    let mut old = store.begin(&snapshot, 1);
    old.insert(&root(), "t", value(json!({}))).unwrap();
    for commit in 1..=watch::MAX_RECENT_COMMITS as u64 + 1 {
        let written = Arc::new(watch::Written { ts: snapshot.ts() + commit, keys: Vec::new() });
        store.0.recent.lock().push(written);
    }
    assert!(matches!(old.commit(), Err(CommitError::Expired)));
    // A watch that cannot be checked is invalid.
    assert!(store.watch(Arc::default(), snapshot.ts()).invalid_since().is_some());
    assert!(store.watch(Arc::default(), snapshot.ts() + 1).invalid_since().is_none());
}

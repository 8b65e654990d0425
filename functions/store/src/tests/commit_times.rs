//! `db.vars.commitTs`, which the commit replaces with its time.

use super::examples::{collect, range, schema};
use super::*;

/// A store with an index on `t` of the table `m`.
fn indexed() -> (tempfile::TempDir, Store) {
    let (directory, store) = open();
    let any = json!({ "type": "any" });
    store.set_schema(&schema("m", &json!({ "by_t": ["t"] }), &any, true)).unwrap();
    (directory, store)
}

fn timed(n: i64) -> Value {
    Value::from_json_of_mutation(json!({ "t": { "$commitTs": null }, "n": n })).unwrap()
}

fn begin(store: &Store) -> Tx {
    store.begin(&store.latest(), 7)
}

fn times(tx: &mut Tx, expressions: serde_json::Value) -> Vec<Value> {
    let documents = collect(tx, &range("m.by_t", expressions)).unwrap();
    documents.iter().map(|document| document.at(&["t"]).unwrap().clone()).collect()
}

fn int(number: u64) -> Value {
    Value::Int64(number.cast_signed())
}

#[test]
fn the_commit_sets_its_time_in_documents_and_indexes() {
    let (_directory, store) = indexed();
    let before = store.latest().ts();
    let mut tx = begin(&store);
    let id = tx.insert(&root(), "m", timed(1)).unwrap();
    tx.insert(&root(), "m", value(json!({ "t": { "$integer": "AAAAAAAAAAA=" } }))).unwrap();
    let nested = json!({ "t": 1, "deep": [{ "at": { "$commitTs": null } }] });
    let nested = tx.insert(&root(), "m", Value::from_json_of_mutation(nested).unwrap()).unwrap();
    // Within the transaction it sorts after all int64s and equals only itself.
    let own = tx.get(&root(), None, &id).unwrap().unwrap();
    assert_eq!(own.at(&["t"]), Some(&Value::CommitTs));
    assert_eq!(times(&mut tx, json!([])), [Value::Int64(0), Value::CommitTs, Value::Float64(1.0)]);
    let first = tx.commit().unwrap();
    assert!(first > before);

    let mut tx = begin(&store);
    let document = tx.get(&root(), None, &id).unwrap().unwrap();
    assert_eq!(document.at(&["t"]), Some(&int(first)));
    let nested = tx.get(&root(), None, &nested).unwrap().unwrap().to_json();
    assert_eq!(nested["deep"][0]["at"], int(first).to_json());
    let eq = |ts: u64| json!([{ "type": "Eq", "fieldPath": "t", "value": int(ts).to_json() }]);
    assert_eq!(times(&mut tx, eq(first)), [int(first)]);

    // Patching and replacing move the index entry.
    let patch = patch_from_json(json!({ "t": { "$commitTs": null } })).unwrap();
    tx.patch(&root(), None, &id, patch).unwrap();
    let second = tx.commit().unwrap();
    let mut tx = begin(&store);
    assert_eq!(times(&mut tx, eq(first)), []);
    assert_eq!(times(&mut tx, eq(second)), [int(second)]);
    tx.replace(&root(), None, &id, timed(2)).unwrap();
    let third = tx.commit().unwrap();
    assert_eq!(times(&mut begin(&store), eq(third)), [int(third)]);

    // Removed and rolled back documents leave no entry.
    let mut tx = begin(&store);
    let gone = tx.insert(&root(), "m", timed(3)).unwrap();
    tx.remove(&root(), None, &gone).unwrap();
    tx.begin_nested();
    tx.insert(&root(), "m", timed(4)).unwrap();
    tx.rollback_nested();
    tx.insert(&root(), "m", timed(5)).unwrap();
    let fourth = tx.commit().unwrap();
    let mut tx = begin(&store);
    assert_eq!(times(&mut tx, eq(fourth)), [int(fourth)]);
    assert_eq!(tx.count(&root(), "m").unwrap(), 4);
}

/// A range bounded by the snapshot's time does not change with later commits.
#[test]
fn later_commits_never_write_an_earlier_time() {
    let (_directory, store) = indexed();
    let mut tx = begin(&store);
    tx.insert(&root(), "m", timed(0)).unwrap();
    tx.insert(&root(), "other", value(json!({}))).unwrap();
    tx.commit().unwrap();
    let bounded = |snapshot: u64| json!([{ "type": "Lte", "fieldPath": "t", "value": int(snapshot).to_json() }]);
    let snapshot = store.latest();
    let (mut bounds, mut whole) = (store.begin(&snapshot, 1), store.begin(&snapshot, 2));
    assert_eq!(times(&mut bounds, bounded(snapshot.ts())).len(), 1);
    assert_eq!(times(&mut whole, json!([])).len(), 1);
    for (seed, tx) in [(3, &mut bounds), (4, &mut whole)] {
        tx.insert(&root(), "other", value(json!({ "seed": seed }))).unwrap();
    }
    let mut tx = begin(&store);
    tx.insert(&root(), "m", timed(1)).unwrap();
    tx.commit().unwrap();
    assert!(matches!(whole.commit(), Err(CommitError::Conflict { .. })));
    bounds.commit().unwrap();
}

/// Commits that share a sync have distinct times, in their order.
#[test]
fn each_commit_of_a_group_has_its_own_time() {
    let (_directory, store) = indexed();
    let snapshot = store.latest();
    let requests = (0..8).map(|n| {
        let mut tx = store.begin(&snapshot, 100 + n);
        tx.insert(&root(), "m", timed(i64::try_from(n).unwrap())).unwrap();
        tx.into_request(snapshot.ts()).unwrap()
    });
    let outcomes = store.commit_group(requests.collect());
    let expected: Vec<Value> = outcomes.into_iter().map(|outcome| int(outcome.unwrap())).collect();
    assert_eq!(times(&mut begin(&store), json!([])), expected);
}

//! A receipt exists if and only if its commit does, and leads to the documents and back.

use audit_core::{Place, UniqueId};
use functions_value::patch_from_json;
use serde_json::json;

use super::{open, root, value};
use crate::{CommitError, Receipt, Store};

fn receipt(n: u128, first_sequence: u64, count: u32) -> Receipt {
    let place = Place { stream: UniqueId::from_bits(77), first_sequence, count };
    Receipt { execution: UniqueId::from_bits(n), attempt: 2, place }
}

#[test]
fn receipts_lead_to_documents_and_back_across_openings() {
    let (directory, store) = open();
    let mut tx = store.begin(&store.latest(), 1);
    let a = tx.insert(&root(), "t", value(json!({ "n": 1 }))).unwrap();
    let b = tx.insert(&root(), "u", value(json!({ "n": 2 }))).unwrap();
    tx.keep_receipt(receipt(1, 0, 3));
    tx.commit().unwrap();
    let mut tx = store.begin(&store.latest(), 2);
    tx.patch(&root(), None, &a, patch_from_json(json!({ "n": 3 })).unwrap()).unwrap();
    tx.keep_receipt(receipt(2, 7, 1));
    tx.commit().unwrap();
    // A mutation that wrote nothing has a receipt too.
    let mut tx = store.begin(&store.latest(), 3);
    tx.get(&root(), None, &a).unwrap();
    tx.keep_receipt(receipt(3, 8, 1));
    tx.commit().unwrap();
    drop(store);

    let store = Store::open(directory.path()).unwrap();
    for (execution, changed) in [(1, vec![&a, &b]), (2, vec![&a]), (3, vec![])] {
        let execution = UniqueId::from_bits(execution);
        let mut found = store.documents_of_receipt(execution).unwrap();
        let mut changed: Vec<String> = changed.into_iter().cloned().collect();
        found.sort();
        changed.sort();
        assert_eq!(found, changed);
    }
    assert_eq!(store.receipt_of_document(&a).unwrap(), Some(receipt(2, 7, 1)));
    assert_eq!(store.receipt_of_document(&b).unwrap(), Some(receipt(1, 0, 3)));
    assert_eq!(store.receipt_of_document("nothing").unwrap(), None);
    let stream = UniqueId::from_bits(77);
    let covered: Vec<_> = (0..10)
        .map(|n| store.receipt_of_record(stream, n).unwrap())
        .map(|receipt| receipt.map_or(0, |receipt| receipt.execution.to_bits()))
        .collect();
    assert_eq!(covered, [1, 1, 1, 0, 0, 0, 0, 2, 3, 0]);
    assert_eq!(store.receipt_of_record(UniqueId::from_bits(78), 7).unwrap(), None);
    assert_eq!(store.receipt_of_record(stream, u64::MAX).unwrap(), None);
    assert_eq!(store.receipt(UniqueId::from_bits(4)).unwrap(), None);
}

#[test]
fn old_receipts_are_removed_with_their_index_entries() {
    let (directory, store) = open();
    let at = |ms: u128| ms << 80 | 5;
    let mut ids = Vec::new();
    for (n, ms) in (0..).zip([10, 20, 20, 30]) {
        let mut tx = store.begin(&store.latest(), n);
        ids.push(tx.insert(&root(), "t", value(json!({ "n": n }))).unwrap());
        tx.keep_receipt(receipt(at(ms) + u128::from(n), n, 1));
        tx.commit().unwrap();
    }
    let left = |store: &Store| {
        let stream = UniqueId::from_bits(77);
        let of_record = (0..4).map(|n| store.receipt_of_record(stream, n).unwrap().is_some());
        let of_document = ids.iter().map(|id| store.receipt_of_document(id).unwrap().is_some());
        assert!(of_record.clone().eq(of_document));
        of_record.filter(|is_there| *is_there).count()
    };
    // The bound is exclusive, and at most `most` are removed.
    for (before, most, removed, remain) in
        [(10, 9, 0, 4), (20, 9, 1, 3), (31, 1, 1, 2), (30, 9, 1, 1), (30, 9, 0, 1)]
    {
        assert_eq!(store.remove_receipts_before(before, most).unwrap(), removed);
        assert_eq!(left(&store), remain, "before {before}");
    }
    assert_eq!(store.documents_of_receipt(UniqueId::from_bits(at(20) + 1)).unwrap().len(), 0);
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(left(&store), 1);
    assert_eq!(store.receipt_of_document(&ids[3]).unwrap().unwrap().place.first_sequence, 3);
}

#[test]
fn a_mutation_without_a_commit_has_no_receipt() {
    let (_directory, store) = open();
    let mut tx = store.begin(&store.latest(), 1);
    let id = tx.insert(&root(), "t", value(json!({ "n": 1 }))).unwrap();
    tx.commit().unwrap();
    assert_eq!(store.receipt_of_document(&id).unwrap(), None, "it has no logs");
    let patch = || patch_from_json(json!({ "n": 2 })).unwrap();
    let snapshot = store.latest();
    let [mut one, mut two, mut dropped] = [2, 3, 4].map(|seed| store.begin(&snapshot, seed));
    for (n, tx) in [(1, &mut one), (2, &mut two), (3, &mut dropped)] {
        tx.patch(&root(), None, &id, patch()).unwrap();
        tx.keep_receipt(receipt(n, n as u64, 1));
    }
    // Reads the document that `one` changes, as of before the change.
    let mut reads = store.begin(&snapshot, 5);
    reads.get(&root(), None, &id).unwrap();
    reads.keep_receipt(receipt(4, 4, 1));
    one.commit().unwrap();
    assert!(matches!(two.commit(), Err(CommitError::Conflict { .. })));
    drop(dropped);
    assert_eq!(reads.commit().unwrap(), snapshot.ts());
    let has = [1, 2, 3, 4].map(|n| store.receipt(UniqueId::from_bits(n)).unwrap().is_some());
    assert_eq!(has, [true, false, false, true]);
}

//! Tables that functions create: most by functions that fail, under any names.

use std::collections::BTreeSet;

use audit_core::Random;
use audit_core::testing::SeededRandom;

use super::*;

/// Inserts a document into each of these tables.
fn insert(tx: &mut Tx, tables: impl Iterator<Item = String>) -> Vec<String> {
    tables.map(|table| tx.insert(&root(), &table, value(json!({}))).unwrap()).collect()
}

#[test]
fn failed_transactions_leave_neither_names_nor_numbers() {
    let (_directory, store) = open();
    for n in 0..40 {
        let mut tx = store.begin(&store.latest(), n);
        if n % 2 == 0 {
            tx.begin_nested();
        }
        insert(&mut tx, (0..500).map(|table| format!("t{n}_{table}")));
        if n % 2 == 0 {
            tx.rollback_nested();
            tx.commit().unwrap();
        }
    }
    assert!(store.0.proposed.lock().len() <= 1_024);
    // Each table took two numbers.
    let next = store.new_number();
    assert!(next < 5_000, "{next}");
}

/// Numbers are used again while other transactions create tables, commit and conflict, and schemas
/// replace tables that a commit created.
#[test]
fn no_two_tables_have_a_number() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let random = SeededRandom::new(7);
    let pick = |below: u64| random.next_u64() % below;
    let mut open: Vec<(Tx, Vec<String>)> = Vec::new();
    let mut stored: Vec<String> = Vec::new();
    let (mut committed, mut conflicts) = (0, 0);
    for seed in 0..120 {
        let mut tx = store.begin(&store.latest(), seed);
        // Most names are new; some are those of other open transactions.
        let names: BTreeSet<_> = (0..100).map(|_| format!("t{}", pick(100_000))).collect();
        let ids = insert(&mut tx, names.into_iter().chain([format!("shared{}", pick(3))]));
        open.push((tx, ids));
        if open.len() == 8 {
            let (tx, ids) = open.swap_remove(usize::try_from(pick(8)).unwrap());
            match pick(3) {
                0 => match tx.commit() {
                    Ok(_) => {
                        stored.extend(ids);
                        committed += 1;
                    }
                    Err(_) => conflicts += 1,
                },
                _ => drop(tx),
            }
        }
        if seed % 40 == 39 {
            store.set_schema(&BTreeMap::from([(root(), Some(by_n("shared0")))])).unwrap();
            store.set_schema(&BTreeMap::from([(root(), None)])).unwrap();
        }
        if seed == 80 {
            open.clear();
            drop(store);
            store = Store::open(directory.path()).unwrap();
        }
    }
    assert!(committed > 10 && conflicts > 0, "{committed} {conflicts}");
    let latest = store.latest();
    let numbers: Vec<u32> = latest
        .catalog()
        .tables()
        .flat_map(|table| table.indexes.iter().map(|index| index.number).chain([table.number]))
        .collect();
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
    for ids in stored.chunks(1_000) {
        let mut tx = store.begin(&latest, 1);
        assert!(ids.iter().all(|id| tx.get(&root(), None, id).unwrap().is_some()));
    }
}

/// A schema with an index on one table.
fn by_n(table: &str) -> serde_json::Value {
    json!({ "tables": [{
        "tableName": table,
        "indexes": [{ "indexDescriptor": "by_n", "fields": ["n"] }],
        "documentType": { "type": "any" },
    }]})
}

#[test]
fn one_transaction_creates_thousands_of_tables() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut tx = store.begin(&store.latest(), 1);
    let count = usize::try_from(MAX_DOCUMENTS_WRITTEN).unwrap();
    let name = |n: usize| format!("t{n}");
    let ids = insert(&mut tx, (0..count).map(name));
    let refused = tx.insert(&root(), "more", value(json!({}))).unwrap_err();
    assert!(refused.to_string().contains("Too many writes"), "{refused}");
    // The transaction finds its own writes, also the last ones.
    for id in ids.iter().rev().take(1_000) {
        assert!(tx.get(&root(), None, id).unwrap().is_some());
    }
    tx.commit().unwrap();
    assert_eq!(store.0.proposed.lock().len(), 1, "the one that was refused");
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    let mut tx = store.begin(&store.latest(), 2);
    for n in (0..count).step_by(100) {
        assert!(tx.get(&root(), Some(&name(n)), &ids[n]).unwrap().is_some());
        assert_eq!(tx.count(&root(), &name(n)).unwrap(), 1);
    }
}

//! Concurrent commits.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use functions_value::{Value, patch_from_json};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::json;

use super::{
    model::{self, Ids, Log, State},
    open, root, value,
};
use crate::{CommitError, Snapshot};

#[test]
fn concurrent_transactions_are_serializable() {
    const THREADS: u8 = 6;
    const TRANSACTIONS: u64 = 40;
    let (_directory, store) = open();
    store.set_schema(&BTreeMap::from([(root(), Some(model::schema()))])).unwrap();
    let ids = Mutex::new(Ids { component: root(), made: Vec::new() });
    let history: Mutex<Vec<(u64, bool, Log)>> = Mutex::default();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (store, ids, history) = (&store, &ids, &history);
            scope.spawn(move || {
                let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[number; 32]);
                let mut runner = TestRunner::new_with_rng(Config::default(), random);
                for transaction in 0..TRANSACTIONS {
                    let steps = model::steps().new_tree(&mut runner).unwrap().current();
                    let seed = u64::from(number) * TRANSACTIONS + transaction;
                    let mut known = ids.lock().unwrap().clone();
                    loop {
                        let mut tx = store.begin(&store.latest(), seed);
                        let mut depth = 0;
                        let mut log = Log::new();
                        for step in &steps {
                            let before = known.clone();
                            let outcome = model::run(&mut tx, step, &mut known, &mut depth);
                            log.push((step.clone(), before, outcome));
                        }
                        let has_writes = tx.has_writes();
                        match tx.commit() {
                            Ok(ts) => {
                                history.lock().unwrap().push((ts, has_writes, log));
                                break;
                            }
                            Err(error) => assert!(error.is_retryable(), "{error}"),
                        }
                    }
                    let mut ids = ids.lock().unwrap();
                    let new: Vec<_> =
                        known.made.into_iter().filter(|made| !ids.made.contains(made)).collect();
                    ids.made.extend(new);
                }
            });
        }
    });
    let mut history = history.into_inner().unwrap();
    // A read-only transaction sees all commits up to its timestamp.
    history.sort_by_key(|(ts, has_writes, _)| (*ts, !has_writes));
    let times: Vec<_> =
        history.iter().filter(|(_, has_writes, _)| *has_writes).map(|(ts, ..)| *ts).collect();
    assert!(times.is_sorted_by(|a, b| a < b));
    let mut state = State::new();
    for (_, _, log) in &history {
        state.replay(log);
    }
}

#[test]
fn conflicting_threads_all_commit_in_the_end() {
    const THREADS: usize = 32;
    let (_directory, store) = open();
    let barrier = Barrier::new(THREADS);
    let mut tx = store.begin(&store.latest(), 0);
    let id = tx.insert(&root(), "t", value(json!({ "n": 0 }))).unwrap();
    tx.commit().unwrap();
    let times: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (1..=THREADS as u64)
            .map(|seed| {
                let (store, barrier, id) = (&store, &barrier, &id);
                scope.spawn(move || {
                    let mut tx = store.begin(&store.latest(), seed);
                    tx.insert(&root(), "t", value(json!({ "n": seed }))).unwrap();
                    barrier.wait();
                    let mut times = vec![tx.commit().unwrap()];
                    // All threads conflict with each other until each has committed.
                    loop {
                        let mut tx = store.begin(&store.latest(), seed);
                        let document = tx.get(&root(), None, id).unwrap().unwrap();
                        let Some(Value::Float64(n)) = document.at(&["n"]) else {
                            panic!("{document:?}")
                        };
                        tx.patch(
                            &root(),
                            None,
                            id,
                            patch_from_json(json!({ "n": n + 1.0 })).unwrap(),
                        )
                        .unwrap();
                        match tx.commit() {
                            Ok(ts) => break times.push(ts),
                            Err(error) => assert!(matches!(error, CommitError::Conflict { .. })),
                        }
                    }
                    times
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(times.iter().collect::<HashSet<_>>().len(), 2 * THREADS);
    let mut tx = store.begin(&store.latest(), 0);
    assert_eq!(tx.snapshot().ts(), *times.iter().max().unwrap());
    assert_eq!(tx.count(&root(), "t").unwrap(), THREADS as u64 + 1);
    let document = tx.get(&root(), None, &id).unwrap().unwrap();
    assert_eq!(document.at(&["n"]), Some(&Value::from(THREADS as f64)));
}

#[test]
fn watches_are_invalid_before_snapshots_show_the_write() {
    let (_directory, store) = open();
    let mut tx = store.begin(&store.latest(), 0);
    let id = tx.insert(&root(), "t", value(json!({ "n": 0 }))).unwrap();
    tx.commit().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=200 {
                let mut tx = store.begin(&store.latest(), 0);
                tx.patch(&root(), None, &id, patch_from_json(json!({ "n": n })).unwrap()).unwrap();
                let ts = tx.commit().unwrap();
                assert!(store.latest().ts() >= ts);
            }
            is_over.store(true, Ordering::Release);
        });
        let read = |snapshot: &Snapshot| {
            let mut tx = store.begin(snapshot, 0);
            let document = tx.get(&root(), None, &id).unwrap();
            (document, Arc::new(tx.take_reads()))
        };
        while !is_over.load(Ordering::Acquire) {
            let first = store.latest();
            let (before, reads) = read(&first);
            let watch = store.watch(reads, first.ts());
            loop {
                let second = store.latest();
                let invalid_since = watch.invalid_since();
                let (after, _) = read(&second);
                if after != before {
                    assert!(
                        invalid_since
                            .is_some_and(|since| first.ts() < since && since <= second.ts())
                    );
                    break;
                }
                if is_over.load(Ordering::Acquire) {
                    break;
                }
            }
        }
    });
}

use audit_core::testing::MemorySink;
use audit_runtime::AuditRuntime;
use proptest::prelude::*;
use serde_json::json;

use super::super::call::Answered;
use super::*;
use crate::audited::Facts;
use functions_store::{ReadSet, Snapshot, Store, Tx};
use functions_value::Value;

struct Host {
    store: Store,
    runtime: AuditRuntime,
    id: String,
    _directory: tempfile::TempDir,
}

impl Host {
    /// A store of one document, which is a number.
    fn new() -> Host {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let runtime = AuditRuntime::new(Arc::new(MemorySink::new()));
        let mut tx = store.begin(&store.latest(), 1);
        let value = Value::from_json(json!({ "number": 0.0 })).unwrap();
        let id = tx.insert(&ComponentPath::root(), "cells", value).unwrap();
        tx.commit().unwrap();
        Host { store, runtime, id, _directory: directory }
    }

    fn read(&self, tx: &mut Tx) -> f64 {
        let cell = tx.get(&ComponentPath::root(), None, &self.id).unwrap().unwrap();
        cell.to_json()["number"].as_f64().unwrap()
    }

    fn write(&self, number: f64) {
        let mut tx = self.store.begin(&self.store.latest(), 1);
        let value = Value::from_json(json!({ "number": number })).unwrap();
        tx.replace(&ComponentPath::root(), None, &self.id, value).unwrap();
        tx.commit().unwrap();
    }

    /// The result of a query that reads the document.
    fn query(&self, at: &Snapshot) -> Arc<CachedQuery> {
        let mut tx = self.store.begin(at, 0);
        let number = self.read(&mut tx).to_string();
        self.cached(at, tx.take_reads(), &number, &[])
    }

    fn cached(
        &self,
        at: &Snapshot,
        reads: ReadSet,
        result: &str,
        logs: &[String],
    ) -> Arc<CachedQuery> {
        let execution = self.runtime.query("cells:get");
        for log in logs {
            execution.log().audit(&json!({ "log": log })).unwrap();
        }
        let answered = Answered { result: Ok(result.into()), log_lines: Vec::new() };
        let facts = Facts {
            digest: Some([0; 32]),
            bytes: result.len(),
            at: at.ts(),
            watch: self.store.watch(Arc::new(reads), at.ts()),
            journal: None,
            is_personal: false,
            may_be_kept: true,
        };
        Arc::new(CachedQuery::new(execution.seal(Ok(Arc::new(answered))), facts))
    }
}

fn key(args: &str) -> QueryKey {
    QueryKey {
        component: ComponentPath::root(),
        name: "cells:get".into(),
        args: args.into(),
        identity: None,
        journal: None,
        lane: Lane::HOST,
    }
}

#[test]
fn all_memory_of_an_entry_counts_and_the_sum_is_bounded() {
    let host = Host::new();
    let at = host.store.latest();
    let large = "x".repeat(250_000);
    let mut reads = ReadSet::default();
    for number in 0..1_000 {
        let mut tx = host.store.begin(&at, 0);
        drop(tx.query(&ComponentPath::root(), &json!({ "source": { "type": "FullTableScan", "tableName": format!("t{number}"), "order": "asc" }, "operators": [] })));
        reads.extend(tx.reads());
    }
    let small = host.cached(&at, ReadSet::default(), "1", &[]).bytes();
    let with = |reads: &ReadSet, result: &str, logs: &[String]| {
        host.cached(&at, reads.clone(), result, logs).bytes() - small
    };
    assert!(with(&ReadSet::default(), &large, &[]) >= large.len() - 1);
    assert!(with(&ReadSet::default(), "1", std::slice::from_ref(&large)) >= large.len());
    assert!(with(&reads, "1", &[]) >= 1_000 * 50);

    let cache = QueryCache::new(16 << 20);
    for number in 0..200 {
        let result = host.cached(&at, ReadSet::default(), "1", std::slice::from_ref(&large));
        let asked = key(&format!("{number}{large}"));
        cache.insert(&asked, &result);
        // Now only the entry holds the result.
        drop(result);
        let state = cache.state();
        let held: usize =
            state.entries.iter().map(|(slot, entry)| slot.args.len() + entry.result.bytes()).sum();
        assert!(held <= 16 << 20, "{held} bytes are held");
        assert!(state.entries.weight() <= 16 << 20);
        assert!(number < 40 || held > 14 << 20, "{held} bytes are held");
    }
    // A result that is too large by itself is not cached, and evicts nothing.
    let before = cache.state().entries.len();
    let huge = host.cached(&at, ReadSet::default(), &"x".repeat(17 << 20), &[]);
    cache.insert(&key("huge"), &huge);
    assert!(cache.get(&key("huge"), Wanted::Fresh).is_none());
    assert_eq!(cache.state().entries.len(), before);
}

#[test]
fn used_entries_stay_cached() {
    let host = Host::new();
    let at = host.store.latest();
    let cache = QueryCache::new(1 << 20);
    for number in 0..2_000 {
        let asked = key(&number.to_string());
        cache.insert(&asked, &host.cached(&at, ReadSet::default(), &"x".repeat(5_000), &[]));
        cache.get(&key("0"), Wanted::Fresh);
    }
    assert!(cache.get(&key("0"), Wanted::Fresh).is_some(), "it was used all along");
    let is_there = |number: &u32| cache.get(&key(&number.to_string()), Wanted::Fresh).is_some();
    assert!((1..2_000).filter(is_there).count() < 200, "others were evicted");
}

#[derive(Debug, Clone)]
enum Event {
    Write,
    /// A client keeps the current snapshot, to read at it later.
    Keep,
    /// A query starts at one of the kept snapshots.
    Run(usize),
    /// A running query ends, and its result is inserted.
    Insert(usize),
    GetFresh,
    GetAt(usize),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_newer_result_is_never_replaced_by_an_older_one(events in prop::collection::vec(prop_oneof![
        1 => Just(Event::Write),
        2 => Just(Event::Keep),
        3 => any::<usize>().prop_map(Event::Run),
        4 => any::<usize>().prop_map(Event::Insert),
        2 => Just(Event::GetFresh),
        2 => any::<usize>().prop_map(Event::GetAt),
    ], 1..40)) {
        let host = Host::new();
        let (cache, asked) = (QueryCache::new(1 << 20), key("{}"));
        let mut kept = vec![host.store.latest()];
        let mut running = Vec::new();
        // The newest result inserted, unless a lookup has found it outdated.
        let mut newest: Option<(f64, Arc<CachedQuery>)> = None;
        let value_at = |at: &Snapshot| host.read(&mut host.store.begin(at, 0));
        for (number, event) in events.into_iter().enumerate() {
            let (wanted, at) = match event {
                Event::Write => {
                    host.write(number as f64);
                    continue;
                }
                Event::Keep => {
                    kept.push(host.store.latest());
                    continue;
                }
                Event::Run(which) => {
                    let at = &kept[which % kept.len()];
                    running.push((value_at(at), host.query(at)));
                    continue;
                }
                Event::Insert(_) if running.is_empty() => continue,
                Event::Insert(which) => {
                    let (value, result) = running.swap_remove(which % running.len());
                    cache.insert(&asked, &result);
                    if newest.as_ref().is_none_or(|(_, there)| there.at() <= result.at()) {
                        newest = Some((value, result));
                    }
                    continue;
                }
                Event::GetFresh => (Wanted::Fresh, host.store.latest()),
                Event::GetAt(which) => {
                    let at = kept[which % kept.len()].clone();
                    (Wanted::At(at.ts()), at)
                }
            };
            let found = cache.get(&asked, wanted);
            let expected = newest.take_if(|(_, newest)| !newest.is_fresh());
            let expected = expected.or_else(|| newest.clone());
            let expected = expected.filter(|(_, newest)| newest.holds_at(at.ts()));
            prop_assert_eq!(found.is_some(), expected.is_some());
            if let Some((found, (value, expected))) = found.zip(expected) {
                prop_assert_eq!(found.at(), expected.at());
                prop_assert_eq!(value, value_at(&at));
                // The cache keeps a result that it served.
                newest = Some((value, expected));
            }
        }
    }
}

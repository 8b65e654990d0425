//! The cost of operations, beside a raw write and sync of as many bytes. Ignored by default:
//! `cargo test --release -p functions-store --lib tests::costs -- --ignored --nocapture`.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use functions_value::Value;
use serde_json::json;
use tokio::time::Instant;

use super::{open, root, value};

/// The start of a measurement, and this thread's CPU time at that point in microseconds.
struct Begin(Instant, f64);

impl Begin {
    fn now() -> Self {
        Self(Instant::now(), running_us())
    }
}

/// The CPU time of this thread, in microseconds. Not a number where Linux's `schedstat` is missing.
fn running_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).map_or(f64::NAN, |ns| ns / 1e3)
}

fn report(what: &str, times: u64, Begin(begin, running): Begin) {
    let each = begin.elapsed().as_secs_f64() * 1e6 / times as f64;
    let running = (running_us() - running) / times as f64;
    println!(
        "{what}: {each:.1} µs each ({running:.1} µs of CPU in this thread), {:.0} a second",
        1e6 / each
    );
}

fn document(n: u64) -> Value {
    value(json!({ "author": "someone", "body": "x".repeat(200), "channel": n % 10, "n": n }))
}

#[test]
#[ignore = "a measurement"]
fn costs() {
    const COMMITS: u64 = 2_000;
    const THREADS: u64 = 64;
    let (directory, store) = open();

    let mut raw = std::fs::File::create(directory.path().join("raw")).unwrap();
    raw.set_len(64 << 20).unwrap();
    raw.sync_all().unwrap();
    let bytes = vec![1; 600];
    let begin = Begin::now();
    for _ in 0..COMMITS {
        raw.write_all(&bytes).unwrap();
        raw.sync_all().unwrap();
    }
    report("600 bytes written and synced", COMMITS, begin);

    let mut ids = Vec::new();
    let begin = Begin::now();
    for seed in 0..COMMITS {
        let mut tx = store.begin(&store.latest(), seed);
        ids.push(tx.insert(&root(), "t", document(seed)).unwrap());
        tx.commit().unwrap();
    }
    report("insert and commit, one at a time", COMMITS, begin);

    let begin = Begin::now();
    for seed in 0..COMMITS {
        let mut tx = store.begin(&store.latest(), COMMITS + seed);
        tx.insert(&root(), "t", document(seed)).unwrap();
    }
    report("the same, dropped before the commit", COMMITS, begin);

    let next = AtomicU64::new(1 << 32);
    let begin = Begin::now();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..COMMITS / 16 {
                    let mut tx = store.begin(&store.latest(), next.fetch_add(1, Ordering::Relaxed));
                    tx.insert(&root(), "t", document(0)).unwrap();
                    tx.commit().unwrap();
                }
            });
        }
    });
    report("insert and commit, 64 threads", THREADS * (COMMITS / 16), begin);

    let snapshot = store.latest();
    let begin = Begin::now();
    for id in &ids {
        let mut tx = store.begin(&snapshot, 0);
        tx.get(&root(), None, id).unwrap().unwrap();
    }
    report("begin and get", COMMITS, begin);

    let mut tx = store.begin(&snapshot, 0);
    let begin = Begin::now();
    for id in &ids {
        tx.get(&root(), Some("t"), id).unwrap().unwrap();
    }
    report("get within one transaction", COMMITS, begin);

    let query = json!({ "source": { "type": "FullTableScan", "tableName": "t", "order": "desc" }, "operators": [{ "limit": 20 }] });
    let begin = Begin::now();
    for _ in 0..COMMITS {
        let mut tx = store.begin(&snapshot, 0);
        let stream = tx.query(&root(), &query).unwrap();
        while tx.query_next(stream).unwrap().is_some() {}
    }
    report("the last 20 of a table", COMMITS, begin);

    let watches: Vec<_> = ids
        .iter()
        .map(|id| {
            let mut tx = store.begin(&snapshot, 0);
            tx.get(&root(), None, id).unwrap();
            store.watch(Arc::new(tx.take_reads()), snapshot.ts())
        })
        .collect();
    let begin = Begin::now();
    for id in &ids {
        let mut tx = store.begin(&store.latest(), 0);
        tx.remove(&root(), None, id).unwrap();
        tx.commit().unwrap();
    }
    report("remove and commit, invalidating one of 2,000 watches", COMMITS, begin);
    assert!(watches.iter().all(|watch| watch.invalid_since().is_some()));
}

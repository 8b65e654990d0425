//! Random programs of transactions, against the naive model.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use functions_value::ComponentPath;
use proptest::{collection, prelude::*};

use super::{
    model::{self, Ids, Log, State, Step},
    open,
};
use crate::{CommitError, Snapshot, Store, Tx, Watch};

/// An open transaction, with its steps so far.
struct Running {
    tx: Tx,
    steps: Log,
    depth: usize,
}

impl Running {
    fn begin(store: &Store, snapshot: &Snapshot, seed: u64) -> Self {
        Self { tx: store.begin(snapshot, seed), steps: Vec::new(), depth: 0 }
    }

    fn run(&mut self, step: Step, ids: &mut Ids) {
        let known = ids.clone();
        let outcome = model::run(&mut self.tx, &step, ids, &mut self.depth);
        self.steps.push((step, known, outcome));
    }

    /// A commit includes the writes of nested transactions that are still open, so all steps count.
    fn commit(self) -> Result<(u64, Log), CommitError> {
        self.tx.commit().map(|ts| (ts, self.steps))
    }
}

/// A store shared by many programs, each in its own component.
struct Programs {
    store: Store,
    _directory: tempfile::TempDir,
    begun: AtomicUsize,
}

impl Programs {
    fn new() -> Self {
        let (directory, store) = open();
        Self { store, _directory: directory, begun: AtomicUsize::new(0) }
    }

    fn begin(&self) -> Ids {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let component = ComponentPath::root().child(&format!("program{number}"));
        self.store
            .set_schema(&BTreeMap::from([(component.clone(), Some(model::schema()))]))
            .unwrap();
        Ids { component, made: Vec::new() }
    }
}

/// One store per property, since each checks the timestamp of the last commit.
static INTERLEAVED: LazyLock<Programs> = LazyLock::new(Programs::new);
static WATCHED: LazyLock<Programs> = LazyLock::new(Programs::new);

#[derive(Debug, Clone)]
enum Event {
    /// Steps of one of several open transactions.
    Run(usize, Vec<Step>),
    Commit(usize),
    Drop(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let slot = || 0_usize..3;
    let event = prop_oneof![
        4 => (slot(), model::steps()).prop_map(|(slot, steps)| Event::Run(slot, steps)),
        3 => slot().prop_map(Event::Commit),
        1 => slot().prop_map(Event::Drop),
    ];
    collection::vec(event, 1..16)
}

struct Watched {
    steps: Log,
    watch: Watch,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every committed transaction has the same outcomes in the model, where it runs alone at its
    /// commit time.
    #[test]
    fn interleaved_transactions_are_serializable_in_commit_order(events in events()) {
        let (store, mut ids) = (&INTERLEAVED.store, INTERLEAVED.begin());
        let mut state = State::new();
        let mut running: [Option<Running>; 3] = [None, None, None];
        let mut last = store.latest().ts();
        for (seed, event) in events.into_iter().enumerate() {
            match event {
                Event::Run(slot, steps) => {
                    let running = running[slot].get_or_insert_with(|| Running::begin(store, &store.latest(), seed as u64));
                    for step in steps {
                        running.run(step, &mut ids);
                    }
                }
                Event::Commit(slot) => {
                    let Some(running) = running[slot].take() else { continue };
                    let (snapshot, has_writes) = (running.tx.snapshot().ts(), running.tx.has_writes());
                    match running.commit() {
                        Ok((ts, steps)) if has_writes => {
                            prop_assert!(ts > last);
                            prop_assert_eq!(store.latest().ts(), ts);
                            last = ts;
                            state.replay(&steps);
                        }
                        Ok((ts, _)) => prop_assert_eq!(ts, snapshot),
                        Err(error) => {
                            prop_assert!(error.is_retryable());
                            // A conflict requires a commit since the snapshot.
                            prop_assert!(last > snapshot);
                        }
                    }
                }
                Event::Drop(slot) => running[slot] = None,
            }
        }
        // The store ends in the model's state.
        let mut tx = Running::begin(store, &store.latest(), 0);
        for id in 0..ids.made.len() {
            tx.run(Step::Get(id), &mut ids);
        }
        tx.run(Step::Count(0), &mut ids);
        tx.run(Step::Count(1), &mut ids);
        state.replay(&tx.steps);
    }

    /// A watch is invalidated by the first commit that writes to its reads, and by no other.
    #[test]
    fn watches_see_exactly_the_conflicting_commits(
        program in collection::vec((model::steps(), model::reads()), 1..8),
    ) {
        let (store, mut ids) = (&WATCHED.store, WATCHED.begin());
        let mut state = State::new();
        let mut watched: Vec<Watched> = Vec::new();
        let mut late: Vec<(Watch, Arc<crate::ReadSet>, u64)> = Vec::new();
        for (seed, (writes, reads)) in program.into_iter().enumerate() {
            let mut writer = Running::begin(store, &store.latest(), seed as u64);
            for step in writes {
                writer.run(step, &mut ids);
            }
            let notify = Arc::new(tokio::sync::Notify::new());
            let before = state.clone();
            let (ts, steps) = writer.commit().unwrap();
            state.replay(&steps);
            for Watched { steps, watch } in &watched {
                let is_touched = |with_numbers| before.is_touched(&state, steps, with_numbers);
                match watch.invalid_since() {
                    None => {
                        prop_assert!(!is_touched(false), "missed: {:?}", steps);
                        // Reading again gives the same outcomes.
                        state.clone().replay(steps);
                    }
                    Some(since) if since == ts => {
                        prop_assert!(is_touched(true), "spurious: {:?}", steps);
                    }
                    Some(since) => prop_assert!(since < ts),
                }
            }
            watched.retain(|watched| watched.watch.invalid_since().is_none());
            let snapshot = store.latest();
            let mut reader = Running::begin(store, &snapshot, 0);
            for step in reads {
                reader.run(step, &mut ids);
            }
            let read = Arc::new(reader.tx.take_reads());
            let watch = store.watch(Arc::clone(&read), snapshot.ts());
            watch.on_invalid(&notify);
            prop_assert_eq!(watch.invalid_since(), None);
            watched.push(Watched { steps: reader.steps, watch });
            let watch = store.watch(Arc::clone(&read), snapshot.ts());
            late.push((watch, read, snapshot.ts()));
        }
        // A watch created late is invalid since the same commit as one created in time.
        for (watch, read, at) in late {
            prop_assert_eq!(store.watch(read, at).invalid_since(), watch.invalid_since());
        }
    }
}

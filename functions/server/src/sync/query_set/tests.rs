use proptest::prelude::*;

use super::*;

/// A database of a few cells. The result of a query is its cell's value, for an identity.
#[derive(Debug, Default)]
struct Database {
    now: u64,
    /// The writes of each cell, with their times.
    cells: BTreeMap<u32, BTreeMap<u64, u8>>,
}

impl Database {
    fn write(&mut self, cell: u32, value: u8) {
        self.now += 1;
        self.cells.entry(cell).or_default().insert(self.now, value);
    }

    fn read(&self, cell: u32, ts: u64) -> u8 {
        let versions = self.cells.get(&cell);
        versions
            .and_then(|versions| versions.range(..=ts).next_back())
            .map_or(0, |(_, value)| *value)
    }

    fn holds(&self, result: &Result, ts: u64) -> bool {
        let written = self.cells.get(&result.cell);
        written.is_none_or(|written| written.keys().all(|at| *at <= result.at || *at > ts))
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Result {
    cell: u32,
    person: u64,
    at: u64,
    value: u8,
}

/// A released result: its identity, its value, and the serial of its query.
type Answer = (u64, u8, u64);

/// A Convex client that applies steps.
#[derive(Debug, Default)]
struct Client {
    version: Version,
    has: BTreeMap<u32, std::result::Result<Answer, String>>,
}

impl Client {
    fn apply(&mut self, ready: Ready<Answer>) {
        assert_eq!(ready.start, self.version, "steps follow each other");
        assert!(ready.end.ts >= self.version.ts, "time does not go back");
        for change in ready.changes {
            match change {
                Change::Handed { query_id, answer } => {
                    let before = self.has.insert(query_id, Ok(answer));
                    assert_ne!(
                        before,
                        Some(Ok(answer)),
                        "a value that the client has is not sent a second time"
                    );
                }
                Change::Error { query_id, message } => {
                    let before = self.has.insert(query_id, Err(message.clone()));
                    assert_ne!(before, Some(Err(message)), "an error is sent once");
                }
                Change::Removed { query_id } => assert!(self.has.remove(&query_id).is_some()),
            }
        }
        self.version = ready.end;
    }
}

#[derive(Debug, Clone)]
enum Event {
    Write { cell: u32, value: u8 },
    Add { query_id: u32, cell: u32 },
    Remove { query_id: u32 },
    Identify { is_somebody_else: bool },
    Owe,
    Begin,
    Finish { fails: bool },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..4u32, 0..3u8).prop_map(|(cell, value)| Event::Write { cell, value }),
        2 => (0..5u32, 0..4u32).prop_map(|(query_id, cell)| Event::Add { query_id, cell }),
        1 => (0..5u32).prop_map(|query_id| Event::Remove { query_id }),
        1 => any::<bool>().prop_map(|is_somebody_else| Event::Identify { is_somebody_else }),
        1 => Just(Event::Owe),
        4 => Just(Event::Begin),
        4 => prop::bool::weighted(0.2).prop_map(|fails| Event::Finish { fails }),
    ]
}

/// A session over the database, without sockets.
#[derive(Debug)]
struct Session {
    set: QuerySet<Result>,
    database: Database,
    client: Client,
    step: Option<(Step<Result>, u64, BTreeMap<u32, u32>)>,
    cells: BTreeMap<u32, u32>,
    owed: Option<u64>,
}

impl Session {
    fn handle(&mut self, event: Event) {
        match event {
            Event::Write { cell, value } => self.database.write(cell, value),
            Event::Add { query_id, cell } => {
                let added = self.set.add(query_id, Query::default());
                assert_eq!(added.is_ok(), !self.cells.contains_key(&query_id));
                if added.is_ok() {
                    self.cells.insert(query_id, cell);
                    self.set.advance(self.set.query_set, self.set.query_set + 1).unwrap();
                }
            }
            Event::Remove { query_id } => {
                let removed = self.set.remove(query_id);
                assert_eq!(removed.is_ok(), self.cells.remove(&query_id).is_some());
                if removed.is_ok() {
                    self.set.advance(self.set.query_set, self.set.query_set + 1).unwrap();
                }
            }
            Event::Identify { is_somebody_else } => {
                self.set.identify(self.set.identity, is_somebody_else).unwrap();
            }
            Event::Owe => {
                self.owed = Some(self.database.now);
                self.set.owe(self.database.now);
            }
            Event::Begin if self.step.is_none() => {
                self.step = Some((self.set.begin(), self.database.now, self.cells.clone()));
            }
            Event::Begin => {}
            Event::Finish { fails } => self.finish(fails),
        }
    }

    fn finish(&mut self, fails: bool) {
        let Some((step, ts, cells)) = self.step.take() else { return };
        let person = step.person;
        let target = (step.query_set, step.identity);
        let mut find = |query: &Planned<Result>| {
            let (cell, serial) = (cells[&query.query_id], query.asked.serial);
            if let Some(Has::Result(result)) = &query.has
                && self.database.holds(result, ts)
            {
                return Found::Holds;
            }
            if fails {
                return Found::Error(format!("not durable {serial} {person}"));
            }
            let result = Result { cell, person, at: ts, value: self.database.read(cell, ts) };
            match &query.has {
                Some(Has::Result(before)) if before.value == result.value => Found::Same(result),
                Some(_) | None => Found::Handed(result.clone(), (person, result.value, serial)),
            }
        };
        let found = step.queries.iter().map(&mut find).collect();
        let behind = self.client.version;
        match self.set.finish(step, ts, found) {
            Some(ready) => {
                assert_eq!(
                    (ready.end.query_set, ready.end.identity, ready.end.ts),
                    (target.0, target.1, ts)
                );
                self.client.apply(ready);
                if self.owed.is_some_and(|owed| owed <= ts) {
                    self.owed = None;
                }
            }
            None => {
                assert_eq!(
                    (behind.query_set, behind.identity),
                    target,
                    "a change of versions is confirmed"
                );
                assert!(self.owed.is_none_or(|owed| owed > ts), "a mutation is confirmed");
            }
        }
        // All of the client's results are of one time and for its identity.
        assert_eq!(self.client.has.keys().collect::<Vec<_>>(), cells.keys().collect::<Vec<_>>());
        for (query_id, has) in &self.client.has {
            match has {
                Ok((whose, value, _)) => {
                    assert_eq!(
                        (*whose, *value),
                        (person, self.database.read(cells[query_id], ts)),
                        "query {query_id}"
                    );
                }
                Err(_) => assert!(fails, "errors occur only if a query fails"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_keep_a_clients_results_consistent(events in prop::collection::vec(event(), 0..60)) {
        let mut session = Session {
            set: QuerySet::new(),
            database: Database::default(),
            client: Client::default(),
            step: None,
            cells: BTreeMap::new(),
            owed: None,
        };
        for event in events {
            session.handle(event);
        }
        // Two more steps always leave nothing to send.
        for event in [Event::Finish { fails: false }, Event::Begin, Event::Finish { fails: false }] {
            session.handle(event);
        }
        prop_assert_eq!(session.owed, None);
        prop_assert!(session.client.has.values().all(std::result::Result::is_ok));
        let step = session.set.begin();
        let found = step.queries.iter().map(|_| Found::<_, Answer>::Holds).collect();
        prop_assert!(session.set.finish(step, session.database.now, found).is_none());
    }
}

#[test]
fn wrong_base_versions_are_refused() {
    let mut set = QuerySet::<Result>::new();
    set.advance(0, 1).unwrap();
    assert!(set.advance(0, 2).unwrap_err().contains("version 1"));
    assert!(set.advance(1, 1).unwrap_err().contains("does not come after"));
    set.identify(0, true).unwrap();
    assert!(set.identify(0, true).unwrap_err().contains("version 1"));
}

#[test]
fn the_number_of_queries_is_limited() {
    let mut set = QuerySet::<Result>::new();
    for query_id in 0..MAX_QUERIES as u32 {
        set.add(query_id, Query::default()).unwrap();
    }
    assert!(set.add(MAX_QUERIES as u32, Query::default()).is_err());
}

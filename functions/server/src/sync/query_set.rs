//! The queries of a client and their results: the state of a session, without I/O.
//!
//! All results of a client are of one time. A step takes them to another time, query set or
//! identity, all at once. Steps are prepared one at a time: [`begin`](QuerySet::begin) returns the
//! queries to compute, [`finish`](QuerySet::finish) takes their results. Changes of the query set
//! in between are for the next step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;

use super::protocol::Version;

/// The most queries in a client's set.
pub(super) const MAX_QUERIES: usize = 1_024;

/// The queries of one client. `R` is a result that can tell whether it still holds.
#[derive(Debug)]
pub(super) struct QuerySet<R> {
    asked: BTreeMap<u32, Arc<Asked>>,
    /// The client's results, by query. Some queries may have been removed.
    shown: BTreeMap<u32, Shown<R>>,
    query_set: u32,
    identity: u32,
    /// Counts the changes to another identity.
    persons: u64,
    sent: Version,
    /// The time of an answered mutation, if the client waits for a step to that time or later.
    owed: Option<u64>,
    next_serial: u64,
}

/// A query of the set.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) query: Query,
    /// Distinguishes it from an earlier query with the same number.
    serial: u64,
}

/// What a query is.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Query {
    pub(super) path: String,
    pub(super) component: Option<String>,
    pub(super) args: Json,
    /// The journal from an earlier connection: where its pages ended.
    pub(super) journal: Option<String>,
}

#[derive(Debug)]
struct Shown<R> {
    serial: u64,
    person: u64,
    what: Has<R>,
}

/// The client's result for a query, or the message of a failure.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Has<R> {
    Result(R),
    Error(String),
}

/// A step that is being prepared.
#[derive(Debug)]
pub(super) struct Step<R> {
    query_set: u32,
    identity: u32,
    person: u64,
    pub(super) queries: Vec<Planned<R>>,
}

/// A query in a step, and the client's result for it.
#[derive(Debug, Clone)]
pub(super) struct Planned<R> {
    pub(super) query_id: u32,
    pub(super) asked: Arc<Asked>,
    pub(super) has: Option<Has<R>>,
}

/// The new result of a query. `A` is what is handed out.
#[derive(Debug)]
pub(super) enum Found<R, A> {
    /// The client's result still holds.
    Holds,
    /// A new result, equal for the client.
    Same(R),
    /// A new result, which was released.
    Handed(R, A),
    /// No result.
    Error(String),
}

/// A step that is ready to be sent.
#[derive(Debug)]
pub(super) struct Ready<A> {
    pub(super) start: Version,
    pub(super) end: Version,
    pub(super) changes: Vec<Change<A>>,
}

#[derive(Debug)]
pub(super) enum Change<A> {
    Handed { query_id: u32, answer: A },
    Error { query_id: u32, message: String },
    Removed { query_id: u32 },
}

impl<R: Clone> QuerySet<R> {
    pub(super) fn new() -> QuerySet<R> {
        QuerySet {
            asked: BTreeMap::new(),
            shown: BTreeMap::new(),
            query_set: 0,
            identity: 0,
            persons: 0,
            sent: Version::default(),
            owed: None,
            next_serial: 0,
        }
    }

    /// Changes the query set. Fails if the client's version differs.
    pub(super) fn advance(&mut self, base: u32, new: u32) -> Result<(), String> {
        if base != self.query_set {
            return Err(format!(
                "the query set is at version {}, and version {base} was to be changed",
                self.query_set
            ));
        }
        if new <= base {
            return Err(format!(
                "version {new} of the query set does not come after version {base}"
            ));
        }
        self.query_set = new;
        Ok(())
    }

    pub(super) fn add(&mut self, query_id: u32, query: Query) -> Result<(), String> {
        if self.asked.contains_key(&query_id) {
            return Err(format!("query {query_id} was added before"));
        }
        if self.asked.len() == MAX_QUERIES {
            return Err(format!("a client can have {MAX_QUERIES} queries, and not one more"));
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        self.asked.insert(query_id, Arc::new(Asked { query, serial }));
        Ok(())
    }

    pub(super) fn remove(&mut self, query_id: u32) -> Result<(), String> {
        self.asked
            .remove(&query_id)
            .map(|_| ())
            .ok_or_else(|| format!("there is no query {query_id} to remove"))
    }

    /// Changes the identity. Results for another identity are dropped.
    pub(super) fn identify(&mut self, base: u32, is_somebody_else: bool) -> Result<(), String> {
        if base != self.identity {
            return Err(format!(
                "the identity is at version {}, and version {base} was to be changed",
                self.identity
            ));
        }
        self.identity += 1;
        self.persons += u64::from(is_somebody_else);
        Ok(())
    }

    pub(super) fn identity(&self) -> u32 {
        self.identity
    }

    /// Records that a mutation with this commit time was answered.
    pub(super) fn owe(&mut self, ts: u64) {
        self.owed = self.owed.max(Some(ts));
    }

    /// Begins a step to the current query set.
    pub(super) fn begin(&self) -> Step<R> {
        let planned = |(query_id, asked): (&u32, &Arc<Asked>)| {
            let shown = self.shown.get(query_id);
            let shown =
                shown.filter(|shown| shown.serial == asked.serial && shown.person == self.persons);
            Planned {
                query_id: *query_id,
                asked: Arc::clone(asked),
                has: shown.map(|shown| shown.what.clone()),
            }
        };
        let queries = self.asked.iter().map(planned).collect();
        Step { query_set: self.query_set, identity: self.identity, person: self.persons, queries }
    }

    /// Ends a step at this time, with the results of its queries, in order. `None` if the client
    /// need not be told anything.
    pub(super) fn finish<A>(
        &mut self,
        step: Step<R>,
        ts: u64,
        found: Vec<Found<R, A>>,
    ) -> Option<Ready<A>> {
        let Step { query_set, identity, person, queries } = step;
        assert_eq!(queries.len(), found.len(), "each query of a step was looked at");
        let mut changes = Vec::new();
        let planned: BTreeSet<u32> = queries.iter().map(|query| query.query_id).collect();
        let gone: Vec<u32> =
            self.shown.keys().filter(|query_id| !planned.contains(query_id)).copied().collect();
        for query_id in gone {
            self.shown.remove(&query_id);
            changes.push(Change::Removed { query_id });
        }
        for (Planned { query_id, asked, has }, found) in queries.into_iter().zip(found) {
            let what = match found {
                Found::Holds => continue,
                Found::Same(result) => Has::Result(result),
                Found::Handed(result, answer) => {
                    changes.push(Change::Handed { query_id, answer });
                    Has::Result(result)
                }
                Found::Error(message) => {
                    if !matches!(has, Some(Has::Error(before)) if before == message) {
                        changes.push(Change::Error { query_id, message: message.clone() });
                    }
                    Has::Error(message)
                }
            };
            self.shown.insert(query_id, Shown { serial: asked.serial, person, what });
        }
        let start = self.sent;
        let is_paid = self.owed.is_some_and(|owed| owed <= ts);
        if changes.is_empty()
            && !is_paid
            && (query_set, identity) == (start.query_set, start.identity)
        {
            return None;
        }
        if is_paid {
            self.owed = None;
        }
        self.sent = Version { query_set, identity, ts };
        Some(Ready { start, end: self.sent, changes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A database of a few cells. The result of a query is its cell and the identity.
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

    /// A handed-out result: its identity, its value, and the query among those of the same number.
    type Answer = (u64, u8, u64);

    /// The other side: a Convex client that applies steps.
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
                            "what the client has is not handed out again"
                        );
                    }
                    Change::Error { query_id, message } => {
                        let before = self.has.insert(query_id, Err(message.clone()));
                        assert_ne!(before, Some(Err(message)), "an error is told once");
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

    /// A session over the database, as the one over sockets works.
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
                    Some(Has::Result(before)) if before.value == result.value => {
                        Found::Same(result)
                    }
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
            assert_eq!(
                self.client.has.keys().collect::<Vec<_>>(),
                cells.keys().collect::<Vec<_>>()
            );
            for (query_id, has) in &self.client.has {
                match has {
                    Ok((whose, value, _)) => {
                        assert_eq!(
                            (*whose, *value),
                            (person, self.database.read(cells[query_id], ts)),
                            "query {query_id}"
                        );
                    }
                    Err(_) => assert!(fails, "there is no error but one that was found"),
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn steps_take_a_client_from_one_consistent_time_to_another(events in prop::collection::vec(event(), 0..60)) {
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
            // After anything, two more steps leave nothing to send.
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
    fn versions_that_do_not_follow_are_refused() {
        let mut set = QuerySet::<Result>::new();
        set.advance(0, 1).unwrap();
        assert!(set.advance(0, 2).unwrap_err().contains("version 1"));
        assert!(set.advance(1, 1).unwrap_err().contains("does not come after"));
        set.identify(0, true).unwrap();
        assert!(set.identify(0, true).unwrap_err().contains("version 1"));
    }

    #[test]
    fn a_set_is_bounded() {
        let mut set = QuerySet::<Result>::new();
        for query_id in 0..MAX_QUERIES as u32 {
            set.add(query_id, Query::default()).unwrap();
        }
        assert!(set.add(MAX_QUERIES as u32, Query::default()).is_err());
    }
}

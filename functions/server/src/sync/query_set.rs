//! The queries of a client and their results: the state of a session, without I/O.
//!
//! All results of a client are of one time. A step changes the time, query set or identity of all
//! of them at once. Steps are prepared one at a time: [`begin`](QuerySet::begin) returns the
//! queries to compute, and [`finish`](QuerySet::finish) takes their results. Changes of the query
//! set in between belong to the next step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;

use super::protocol::Version;

/// The maximum number of queries in a client's set.
pub(super) const MAX_QUERIES: usize = 1_024;

/// The queries of one client. `R` is a result.
#[derive(Debug)]
pub(super) struct QuerySet<R> {
    asked: BTreeMap<u32, Arc<Asked>>,
    /// The results that the client has, by query. Some of the queries may have been removed.
    shown: BTreeMap<u32, Shown<R>>,
    query_set: u32,
    identity: u32,
    /// The number of changes to another identity.
    persons: u64,
    sent: Version,
    /// The time of an answered mutation, if the client waits for a step to that time or later.
    owed: Option<u64>,
    next_serial: u64,
}

#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) query: Query,
    /// Distinguishes the query from an earlier one with the same number.
    serial: u64,
}

/// A query, as the client describes it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Query {
    pub(super) path: String,
    pub(super) component: Option<String>,
    pub(super) args: Json,
    /// The journal from an earlier connection, which tells where its pages ended.
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

/// The outcome of computing a query. `A` is the released value.
#[derive(Debug)]
pub(super) enum Found<R, A> {
    /// The client's result still holds.
    Holds,
    /// A new result with the same value.
    Same(R),
    /// A new result that was released.
    Handed(R, A),
    Error(String),
}

/// A step that is ready to send.
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

    /// Changes the version of the query set. Fails unless `base` is the current one.
    pub(super) fn advance(&mut self, base: u32, new: u32) -> Result<(), String> {
        if base != self.query_set {
            return Err(format!(
                "the query set has version {}, but the client's change is based on version {base}",
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
            return Err(format!("query {query_id} has already been added"));
        }
        if self.asked.len() == MAX_QUERIES {
            return Err(format!("the queries of a client exceed limit of {MAX_QUERIES}"));
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

    /// Changes the identity. Results for another identity no longer count.
    pub(super) fn identify(&mut self, base: u32, is_somebody_else: bool) -> Result<(), String> {
        if base != self.identity {
            return Err(format!(
                "the identity has version {}, but the client's change is based on version {base}",
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

    /// Ends a step at this time, with the results of its queries in order. Returns `None` if there
    /// is nothing to send.
    pub(super) fn finish<A>(
        &mut self,
        step: Step<R>,
        ts: u64,
        found: Vec<Found<R, A>>,
    ) -> Option<Ready<A>> {
        let Step { query_set, identity, person, queries } = step;
        assert_eq!(queries.len(), found.len(), "each query of a step has an outcome");
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
mod tests;

//! A naive second implementation of the store: tables in memory, sorted and filtered for each
//! query, one transaction at a time. Random programs run against both.

mod program;
mod query;
mod runner;

use std::collections::{BTreeMap, BTreeSet};

use functions_value::{Object, Value};

pub(super) use self::program::{Ids, Outcome, Query, Step, TABLES, reads, schema, steps};
use self::query::Position;
pub(super) use self::runner::run;

/// The steps of a transaction, each with the ids known at that point and its outcome.
pub(super) type Log = Vec<(Step, Ids, Outcome)>;

type IsRead = Box<dyn Fn(&Object) -> bool>;

/// All documents by table and id.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    tables: BTreeMap<&'static str, BTreeMap<String, Object>>,
}

/// The documents that a read depends on.
#[derive(Debug)]
enum Dependency {
    Document(&'static str, String),
    Count(&'static str),
    /// A query up to a position; `None` means to its end.
    Range(Query, Option<Option<Position>>),
}

impl State {
    pub(super) fn new() -> Self {
        Self { tables: BTreeMap::from([("declared", BTreeMap::new())]) }
    }

    fn table(&self, name: &str) -> BTreeMap<String, Object> {
        self.tables.get(name).cloned().unwrap_or_default()
    }

    /// Runs a whole transaction. Panics if its outcomes differ from those in the log.
    #[track_caller]
    pub(super) fn replay(&mut self, steps: &[(Step, Ids, Outcome)]) {
        let mut nested = Vec::new();
        for (step, ids, outcome) in steps {
            match step {
                Step::BeginNested => nested.push(self.clone()),
                Step::CommitNested => _ = nested.pop(),
                Step::RollbackNested => {
                    if let Some(before) = nested.pop() {
                        *self = before;
                    }
                }
                Step::Get(_)
                | Step::Insert(..)
                | Step::Patch(..)
                | Step::Replace(..)
                | Step::Remove(_)
                | Step::Count(_)
                | Step::Query(..)
                | Step::Pages(..) => {
                    assert_eq!(*outcome, self.apply(step, ids, outcome), "{step:?}");
                }
            }
        }
    }

    /// Runs a step. The id and creation time of an inserted document come from the store's outcome.
    fn apply(&mut self, step: &Step, ids: &Ids, elsewhere: &Outcome) -> Outcome {
        let found = |state: &Self, id: usize| {
            let (table, id) = ids.pick(id)?;
            Some((table, id.clone(), state.table(table).get(&id).cloned()))
        };
        match step {
            Step::Get(id) => match found(self, *id) {
                None => Outcome::Done,
                Some((_, _, document)) => Outcome::Document(document.map(Value::Object)),
            },
            Step::Insert(table, fields) => {
                let Outcome::Inserted(inserted) = elsewhere else { return Outcome::Refused };
                let mut document = fields.clone();
                for name in ["_id", "_creationTime"] {
                    document.insert(name.to_owned(), inserted[name].clone());
                }
                let id = inserted["_id"].as_str().unwrap().to_owned();
                self.tables.entry(TABLES[*table]).or_default().insert(id, document.clone());
                Outcome::Inserted(document)
            }
            Step::Patch(id, patch) => self.change(found(self, *id), |document| {
                for (name, value) in patch {
                    match value {
                        Some(value) => document.insert(name.clone(), value.clone()),
                        None => document.remove(name),
                    };
                }
            }),
            Step::Replace(id, fields) => self.change(found(self, *id), |document| {
                document.retain(|name, _| name.starts_with('_'));
                document.extend(fields.clone());
            }),
            Step::Remove(id) => match found(self, *id) {
                None => Outcome::Done,
                Some((_, _, None)) => Outcome::Refused,
                Some((table, id, Some(document))) => {
                    self.tables.get_mut(table).unwrap().remove(&id);
                    Outcome::Document(Some(Value::Object(document)))
                }
            },
            Step::Count(table) => Outcome::Count(self.table(TABLES[*table]).len() as u64),
            Step::Query(query, most) => query.run(&self.table(TABLES[query.table]), *most).0,
            Step::Pages(query, _) if query.has_limit() => Outcome::Refused,
            Step::Pages(query, _) => query.run(&self.table(TABLES[query.table]), usize::MAX).0,
            Step::BeginNested | Step::CommitNested | Step::RollbackNested => Outcome::Done,
        }
    }

    fn change(
        &mut self,
        found: Option<(&'static str, String, Option<Object>)>,
        change: impl FnOnce(&mut Object),
    ) -> Outcome {
        match found {
            None => Outcome::Done,
            Some((_, _, None)) => Outcome::Refused,
            Some((table, id, Some(mut document))) => {
                change(&mut document);
                self.tables.get_mut(table).unwrap().insert(id, document);
                Outcome::Done
            }
        }
    }

    /// Whether the change from this state to `after` writes to the reads of these steps: to a row
    /// they passed over, or into an empty part of their range.
    ///
    /// The id of a document that was never committed has the number of a table that may not exist.
    /// With `with_numbers`, each table that comes into being is assumed to get that number.
    pub(super) fn is_touched(
        &self,
        after: &Self,
        steps: &[(Step, Ids, Outcome)],
        with_numbers: bool,
    ) -> bool {
        steps.iter().filter_map(|(step, ids, _)| self.dependency(step, ids)).any(|dependency| {
            let is_by_id = matches!(dependency, Dependency::Document(..));
            let (table, is_touched): (_, IsRead) = match dependency {
                Dependency::Document(table, id) => {
                    (table, Box::new(move |document| document["_id"].as_str() == Some(&*id)))
                }
                Dependency::Count(table) => {
                    if self.table(table).len() != after.table(table).len() {
                        return true;
                    }
                    (table, Box::new(|_| false))
                }
                Dependency::Range(query, last) => (
                    TABLES[query.table],
                    Box::new(move |document| {
                        let position = query.position(document);
                        query.contains(&position)
                            && match &last {
                                None => true,
                                Some(None) => false,
                                Some(Some(last)) if query.is_descending => position >= *last,
                                Some(Some(last)) => position <= *last,
                            }
                    }),
                ),
            };
            let comes_into_being = (with_numbers || !is_by_id)
                && self.tables.contains_key(table) != after.tables.contains_key(table);
            let (before, after) = (self.table(table), after.table(table));
            let ids: BTreeSet<_> = before.keys().chain(after.keys()).collect();
            let changed = ids.into_iter().map(|id| (before.get(id), after.get(id)));
            let mut changed = changed.filter(|(before, after)| before != after);
            comes_into_being
                || changed.any(|(before, after)| before.into_iter().chain(after).any(&is_touched))
        })
    }

    fn dependency(&self, step: &Step, ids: &Ids) -> Option<Dependency> {
        match step {
            Step::Get(id) => ids.pick(*id).map(|(table, id)| Dependency::Document(table, id)),
            Step::Count(table) => Some(Dependency::Count(TABLES[*table])),
            Step::Query(query, most) => {
                let (_, last) = query.run(&self.table(TABLES[query.table]), *most);
                Some(Dependency::Range(query.clone(), last))
            }
            Step::Insert(..)
            | Step::Patch(..)
            | Step::Replace(..)
            | Step::Remove(_)
            | Step::Pages(..)
            | Step::BeginNested
            | Step::CommitNested
            | Step::RollbackNested => None,
        }
    }
}

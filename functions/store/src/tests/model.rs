//! A naive second implementation of the store: tables in memory, sorted and filtered for each
//! query, one transaction at a time. Random programs run against both.

use std::collections::{BTreeMap, BTreeSet};

use functions_value::{ComponentPath, Object, Patch, Value};
use proptest::{collection, prelude::*};
use serde_json::{Value as Json, json};

use crate::{PageRequest, StoreError, Tx};

/// The programs' tables: one declared by [`schema`], and one created by its first document.
pub(super) const TABLES: [&str; 2] = ["declared", "sudden"];

/// The fields of an index, without those that every index ends with.
fn index_fields(table: &str, index: &str) -> Option<&'static [&'static str]> {
    match (table, index) {
        (_, "by_creation_time") => Some(&[]),
        ("declared", "by_a") => Some(&["a"]),
        ("declared", "by_a_and_nested") => Some(&["a", "n.b"]),
        _ => None,
    }
}

pub(super) fn schema() -> Json {
    json!({ "schemaValidation": true, "tables": [{
        "tableName": "declared",
        "indexes": [
            { "indexDescriptor": "by_a", "fields": ["a"] },
            { "indexDescriptor": "by_a_and_nested", "fields": ["a", "n.b"] },
        ],
        "documentType": { "type": "any" },
    }]})
}

/// One step of a transaction. A document is named by an index into the ids created so far, modulo
/// their number.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Get(usize),
    Insert(usize, Object),
    Patch(usize, Patch),
    Replace(usize, Object),
    Remove(usize),
    Count(usize),
    /// A query of which at most this many documents are consumed.
    Query(Query, usize),
    /// All pages, of this size.
    Pages(Query, u64),
    BeginNested,
    CommitNested,
    RollbackNested,
}

#[derive(Debug, Clone)]
pub(super) struct Query {
    table: usize,
    index: &'static str,
    /// The values of the first fields of the index, in order.
    equal: Vec<Option<Value>>,
    /// The bound of the next field, and whether it is inclusive.
    lower: Option<(Option<Value>, bool)>,
    upper: Option<(Option<Value>, bool)>,
    is_descending: bool,
    operators: Vec<Operator>,
}

#[derive(Debug, Clone)]
enum Operator {
    Filter(Filter),
    Limit(usize),
}

#[derive(Debug, Clone)]
enum Filter {
    Literal(Option<Value>),
    Field(&'static str),
    Binary(&'static str, Box<[Filter; 2]>),
    Negate(Box<Filter>),
    Not(Box<Filter>),
    And(Vec<Filter>),
    Or(Vec<Filter>),
}

fn small_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0_i32..3).prop_map(|number| Value::from(f64::from(number))),
        1 => Just(Value::Null),
        1 => (0_i64..2).prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => prop::sample::select(vec!["", "x", "x\u{0}"]).prop_map(Value::from),
    ]
}

fn fields() -> impl Strategy<Value = Object> {
    let nested = prop::option::of(prop::option::of(small_value()));
    (prop::option::weighted(0.8, small_value()), nested).prop_map(|(a, nested)| {
        let mut fields = Object::new();
        fields.extend(a.map(|a| ("a".to_owned(), a)));
        fields.extend(nested.map(|b| {
            ("n".to_owned(), Value::Object(b.into_iter().map(|b| ("b".to_owned(), b)).collect()))
        }));
        fields
    })
}

fn filter() -> impl Strategy<Value = Filter> {
    let leaf = prop_oneof![
        prop::option::weighted(0.8, small_value()).prop_map(Filter::Literal),
        prop::sample::select(vec!["a", "n.b", "_id", "missing"]).prop_map(Filter::Field),
    ];
    // Mostly boolean expressions, since other ones only fail.
    let comparison = (
        prop::sample::select(vec!["$eq", "$neq", "$lt", "$lte", "$gt", "$gte"]),
        [leaf.clone(), leaf.clone()],
    )
        .prop_map(|(operator, operands)| Filter::Binary(operator, Box::new(operands)));
    let arithmetic = (
        prop::sample::select(vec!["$add", "$sub", "$mul", "$div", "$mod"]),
        [leaf.clone(), leaf.clone()],
    )
        .prop_map(|(operator, operands)| Filter::Binary(operator, Box::new(operands)));
    let compared = (arithmetic, leaf.clone(), any::<bool>()).prop_map(|(sum, leaf, negate)| {
        let sum = if negate { Filter::Negate(Box::new(sum)) } else { sum };
        Filter::Binary("$gte", Box::new([sum, leaf]))
    });
    prop_oneof![8 => comparison, 1 => compared, 1 => leaf].prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Filter::Not(Box::new(inner))),
            collection::vec(inner.clone(), 0..3).prop_map(Filter::And),
            collection::vec(inner, 0..3).prop_map(Filter::Or),
        ]
    })
}

fn query() -> impl Strategy<Value = Query> {
    let index = prop::sample::select(vec![
        (0, "by_a"),
        (0, "by_a_and_nested"),
        (0, "by_creation_time"),
        (0, "by_id"),
        (1, "by_creation_time"),
        (1, "by_id"),
    ]);
    let bound =
        || prop::option::weighted(0.3, (prop::option::weighted(0.9, small_value()), any::<bool>()));
    let operator =
        prop_oneof![filter().prop_map(Operator::Filter), (0_usize..4).prop_map(Operator::Limit)];
    let equal = collection::vec(prop::option::weighted(0.9, small_value()), 0..3);
    (index, equal, bound(), bound(), any::<bool>(), collection::vec(operator, 0..3)).prop_map(
        |((table, index), mut equal, lower, upper, is_descending, operators)| {
            let fields = index_fields(TABLES[table], index).map_or(0, <[_]>::len);
            equal.truncate(fields);
            Query { table, index, equal, lower, upper, is_descending, operators }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let removable = prop::option::weighted(0.8, small_value());
    prop_oneof![
        3 => any::<usize>().prop_map(Step::Get),
        4 => (0_usize..2, fields()).prop_map(|(table, fields)| Step::Insert(table, fields)),
        2 => (any::<usize>(), removable).prop_map(|(id, a)| Step::Patch(id, Patch::from([("a".to_owned(), a)]))),
        1 => (any::<usize>(), fields()).prop_map(|(id, fields)| Step::Replace(id, fields)),
        2 => any::<usize>().prop_map(Step::Remove),
        1 => (0_usize..2).prop_map(Step::Count),
        4 => (query(), 0_usize..6).prop_map(|(query, most)| Step::Query(query, most)),
        1 => (query(), 1_u64..4).prop_map(|(query, size)| Step::Pages(query, size)),
        1 => Just(Step::BeginNested),
        1 => Just(Step::CommitNested),
        1 => Just(Step::RollbackNested),
    ]
}

/// Steps that only read.
pub(super) fn reads() -> impl Strategy<Value = Vec<Step>> {
    let read = prop_oneof![
        any::<usize>().prop_map(Step::Get),
        (0_usize..2).prop_map(Step::Count),
        (query(), 0_usize..6).prop_map(|(query, most)| Step::Query(query, most)),
    ];
    collection::vec(read, 1..3)
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    collection::vec(step(), 1..8)
}

/// The outcome of a step.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    Document(Option<Value>),
    /// The inserted document, with its id and creation time.
    Inserted(Object),
    Done,
    Count(u64),
    /// The documents, and whether the query reached its end.
    Documents(Vec<Value>, bool),
    Refused,
}

impl Query {
    pub(super) fn json(&self) -> Json {
        let table = TABLES[self.table];
        let written = |value: &Option<Value>| {
            value.as_ref().map_or_else(|| json!({ "$undefined": null }), Value::to_json)
        };
        let fields = index_fields(table, self.index).unwrap_or(&["_id"]);
        let mut fields = fields.iter().chain(&["_creationTime"]).copied();
        let mut range = Vec::new();
        for value in &self.equal {
            range
                .push(json!({ "type": "Eq", "fieldPath": fields.next(), "value": written(value) }));
        }
        let field = fields.next();
        for (bound, [inclusive, exclusive]) in
            [(&self.lower, ["Gte", "Gt"]), (&self.upper, ["Lte", "Lt"])]
        {
            if let Some((value, is_inclusive)) = bound {
                let kind = if *is_inclusive { inclusive } else { exclusive };
                range.push(json!({ "type": kind, "fieldPath": field, "value": written(value) }));
            }
        }
        let operators = self.operators.iter().map(|operator| match operator {
            Operator::Filter(filter) => json!({ "filter": filter.json() }),
            Operator::Limit(limit) => json!({ "limit": limit }),
        });
        json!({
            "source": {
                "type": "IndexRange",
                "indexName": format!("{table}.{}", self.index),
                "range": range,
                "order": if self.is_descending { json!("desc") } else { Json::Null },
            },
            "operators": operators.collect::<Vec<_>>(),
        })
    }

    /// The values that the index sorts a document by.
    fn position(&self, document: &Object) -> Vec<Option<Value>> {
        let at = |path: &&str| {
            Value::Object(document.clone()).at(&path.split('.').collect::<Vec<_>>()).cloned()
        };
        match index_fields(TABLES[self.table], self.index) {
            None => vec![at(&"_id")],
            Some(fields) => fields.iter().chain(&["_creationTime", "_id"]).map(at).collect(),
        }
    }

    fn contains(&self, position: &[Option<Value>]) -> bool {
        let next = &position[self.equal.len()];
        self.equal[..] == position[..self.equal.len()]
            && self
                .lower
                .as_ref()
                .is_none_or(|(bound, is_inclusive)| next > bound || *is_inclusive && next == bound)
            && self
                .upper
                .as_ref()
                .is_none_or(|(bound, is_inclusive)| next < bound || *is_inclusive && next == bound)
    }

    fn has_limit(&self) -> bool {
        self.operators.iter().any(|operator| matches!(operator, Operator::Limit(_)))
    }

    /// Runs the query on a table. Returns the outcome, and the last position read (`None` if the
    /// whole range was read).
    fn run(
        &self,
        documents: &BTreeMap<String, Object>,
        most: usize,
    ) -> (Outcome, Option<Option<Position>>) {
        let mut rows: Vec<_> = documents
            .values()
            .map(|document| (self.position(document), document))
            .filter(|(position, _)| self.contains(position))
            .collect();
        rows.sort();
        if self.is_descending {
            rows.reverse();
        }
        let mut operators = self.operators.clone();
        let mut passed = Vec::new();
        let mut last = None;
        let mut rows = rows.into_iter();
        loop {
            if passed.len() == most {
                return (Outcome::Documents(passed, false), Some(last));
            }
            if operators.iter().any(|operator| matches!(operator, Operator::Limit(0))) {
                return (Outcome::Documents(passed, true), Some(last));
            }
            let Some((position, document)) = rows.next() else {
                return (Outcome::Documents(passed, true), None);
            };
            last = Some(position);
            let mut passes = true;
            for operator in &mut operators {
                match operator {
                    Operator::Filter(filter) => match filter.truth(document) {
                        Ok(truth) => passes = truth,
                        Err(()) => return (Outcome::Refused, Some(last)),
                    },
                    Operator::Limit(0) => passes = false,
                    Operator::Limit(left) => *left -= 1,
                }
                if !passes {
                    break;
                }
            }
            if passes {
                passed.push(Value::Object(document.clone()));
            }
        }
    }
}

type Position = Vec<Option<Value>>;

impl Filter {
    fn json(&self) -> Json {
        let all = |operands: &[Filter]| operands.iter().map(Filter::json).collect::<Vec<_>>();
        match self {
            Filter::Literal(None) => json!({ "$literal": { "$undefined": null } }),
            Filter::Literal(Some(value)) => json!({ "$literal": value.to_json() }),
            Filter::Field(path) => json!({ "$field": path }),
            Filter::Binary(operator, operands) => json!({ *operator: all(&operands[..]) }),
            Filter::Negate(operand) => json!({ "$neg": operand.json() }),
            Filter::Not(operand) => json!({ "$not": operand.json() }),
            Filter::And(operands) => json!({ "$and": all(operands) }),
            Filter::Or(operands) => json!({ "$or": all(operands) }),
        }
    }

    fn truth(&self, document: &Object) -> Result<bool, ()> {
        match self.value(document)? {
            Some(Value::Boolean(truth)) => Ok(truth),
            None => Ok(false),
            Some(_) => Err(()),
        }
    }

    fn value(&self, document: &Object) -> Result<Option<Value>, ()> {
        let truth = |truth: bool| Ok(Some(Value::Boolean(truth)));
        match self {
            Filter::Literal(value) => Ok(value.clone()),
            Filter::Field(path) => Ok(Value::Object(document.clone())
                .at(&path.split('.').collect::<Vec<_>>())
                .cloned()),
            Filter::Binary(operator, operands) => {
                let (left, right) = (operands[0].value(document)?, operands[1].value(document)?);
                let numbers = match (&left, &right) {
                    (Some(Value::Float64(a)), Some(Value::Float64(b))) => Some(match *operator {
                        "$add" => Value::Float64(a + b),
                        "$sub" => Value::Float64(a - b),
                        "$mul" => Value::Float64(a * b),
                        "$div" => Value::Float64(a / b),
                        _ => Value::Float64(a % b),
                    }),
                    // The integers are small, so only division by zero can fail.
                    (Some(Value::Int64(a)), Some(Value::Int64(b))) => match *operator {
                        "$add" => Some(Value::Int64(a + b)),
                        "$sub" => Some(Value::Int64(a - b)),
                        "$mul" => Some(Value::Int64(a * b)),
                        _ if *b == 0 => None,
                        "$div" => Some(Value::Int64(a / b)),
                        _ => Some(Value::Int64(a % b)),
                    },
                    _ => None,
                };
                match *operator {
                    "$eq" => truth(left == right),
                    "$neq" => truth(left != right),
                    "$lt" => truth(left < right),
                    "$lte" => truth(left <= right),
                    "$gt" => truth(left > right),
                    "$gte" => truth(left >= right),
                    _ => numbers.map(Some).ok_or(()),
                }
            }
            Filter::Negate(operand) => match operand.value(document)? {
                Some(Value::Float64(number)) => Ok(Some(Value::Float64(-number))),
                Some(Value::Int64(number)) => Ok(Some(Value::Int64(-number))),
                _ => Err(()),
            },
            Filter::Not(operand) => truth(!operand.truth(document)?),
            Filter::And(operands) => {
                for operand in operands {
                    if !operand.truth(document)? {
                        return truth(false);
                    }
                }
                truth(true)
            }
            Filter::Or(operands) => {
                for operand in operands {
                    if operand.truth(document)? {
                        return truth(true);
                    }
                }
                truth(false)
            }
        }
    }
}

/// Runs a step in the store, and adds new ids to `ids`.
pub(super) fn run(tx: &mut Tx, step: &Step, ids: &mut Ids, depth: &mut usize) -> Outcome {
    let root = ids.component.clone();
    let outcome = match step {
        Step::Get(id) => match ids.pick(*id) {
            Some(id) => tx.get(&root, None, &id.1).map(Outcome::Document),
            None => return Outcome::Done,
        },
        Step::Insert(table, fields) => {
            tx.insert(&root, TABLES[*table], Value::Object(fields.clone())).map(|id| {
                ids.made.push((TABLES[*table], id.clone()));
                let inserted = tx.get(&root, Some(TABLES[*table]), &id).unwrap().unwrap();
                Outcome::Inserted(inserted.into_object().unwrap())
            })
        }
        Step::Patch(id, patch) => match ids.pick(*id) {
            Some(id) => tx.patch(&root, Some(id.0), &id.1, patch.clone()).map(|()| Outcome::Done),
            None => return Outcome::Done,
        },
        Step::Replace(id, fields) => match ids.pick(*id) {
            Some(id) => tx
                .replace(&root, None, &id.1, Value::Object(fields.clone()))
                .map(|()| Outcome::Done),
            None => return Outcome::Done,
        },
        Step::Remove(id) => match ids.pick(*id) {
            Some(id) => {
                tx.remove(&root, None, &id.1).map(|document| Outcome::Document(Some(document)))
            }
            None => return Outcome::Done,
        },
        Step::Count(table) => tx.count(&root, TABLES[*table]).map(Outcome::Count),
        Step::Query(query, most) => (|| {
            let stream = tx.query(&root, &query.json())?;
            let mut documents = Vec::new();
            while documents.len() < *most {
                match tx.query_next(stream)? {
                    Some(document) => documents.push(document),
                    None => return Ok(Outcome::Documents(documents, true)),
                }
            }
            tx.query_close(stream);
            Ok(Outcome::Documents(documents, false))
        })(),
        Step::Pages(query, size) => pages(tx, &root, query, *size),
        Step::BeginNested => {
            *depth += 1;
            tx.begin_nested();
            Ok(Outcome::Done)
        }
        Step::CommitNested | Step::RollbackNested if *depth == 0 => Ok(Outcome::Done),
        Step::CommitNested => {
            *depth -= 1;
            tx.commit_nested();
            Ok(Outcome::Done)
        }
        Step::RollbackNested => {
            *depth -= 1;
            tx.rollback_nested();
            Ok(Outcome::Done)
        }
    };
    match outcome {
        Ok(outcome) => outcome,
        Err(StoreError::User(_)) => Outcome::Refused,
        Err(StoreError::Failed(failure)) => panic!("{failure:?}"),
    }
}

/// Reads all pages. Rereads each by its cursors, and split in two.
fn pages(
    tx: &mut Tx,
    root: &ComponentPath,
    query: &Query,
    page_size: u64,
) -> Result<Outcome, StoreError> {
    let json = query.json();
    let request = PageRequest {
        function: "test",
        journal: None,
        query: &json,
        cursor: None,
        end_cursor: None,
        page_size,
        maximum_rows_read: None,
        maximum_bytes_read: None,
    };
    let mut documents = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = tx.page(root, &PageRequest { cursor: cursor.as_deref(), ..request.clone() })?;
        assert!(page.page.len() as u64 == page_size || page.is_done);
        let end = Some(&*page.continue_cursor);
        let again = PageRequest {
            cursor: cursor.as_deref(),
            end_cursor: end,
            page_size: 0,
            ..request.clone()
        };
        let again = tx.page(root, &again)?;
        assert_eq!(
            (&again.page, again.is_done, &again.continue_cursor),
            (&page.page, page.is_done, &page.continue_cursor)
        );
        if let Some(split) = &page.split_cursor {
            let first = PageRequest {
                cursor: cursor.as_deref(),
                end_cursor: Some(split),
                ..request.clone()
            };
            let mut halves = tx.page(root, &first)?.page;
            let second = PageRequest { cursor: Some(split), end_cursor: end, ..request.clone() };
            halves.extend(tx.page(root, &second)?.page);
            assert_eq!(halves, page.page);
        }
        documents.extend(page.page);
        if page.is_done {
            return Ok(Outcome::Documents(documents, true));
        }
        cursor = Some(page.continue_cursor);
    }
}

/// The tables and ids of all documents ever created, including uncommitted ones.
#[derive(Debug, Clone)]
pub(super) struct Ids {
    pub(super) component: ComponentPath,
    pub(super) made: Vec<(&'static str, String)>,
}

impl Ids {
    fn pick(&self, number: usize) -> Option<(&'static str, String)> {
        (!self.made.is_empty()).then(|| self.made[number % self.made.len()].clone())
    }
}

/// The steps of a transaction, each with the ids known at that point and its outcome.
pub(super) type Log = Vec<(Step, Ids, Outcome)>;

/// Returns whether a document was read.
type IsRead = Box<dyn Fn(&Object) -> bool>;

/// All documents by table and id.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    tables: BTreeMap<&'static str, BTreeMap<String, Object>>,
}

/// What a read depends on, in terms of the documents.
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
    pub(super) fn is_touched(&self, after: &Self, steps: &[(Step, Ids, Outcome)]) -> bool {
        steps.iter().filter_map(|(step, ids, _)| self.dependency(step, ids)).any(|dependency| {
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
            let comes_into_being =
                self.tables.contains_key(table) != after.tables.contains_key(table);
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

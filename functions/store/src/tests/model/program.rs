//! Random programs: the steps of transactions, and their outcomes.

use functions_value::{ComponentPath, Object, Patch, Value};
use proptest::{collection, prelude::*};
use serde_json::{Value as Json, json};

/// The programs' tables: one declared by [`schema`], and one created by its first document.
pub(in crate::tests) const TABLES: [&str; 2] = ["declared", "sudden"];

/// The fields of an index, without those that every index ends with.
pub(super) fn index_fields(table: &str, index: &str) -> Option<&'static [&'static str]> {
    match (table, index) {
        (_, "by_creation_time") => Some(&[]),
        ("declared", "by_a") => Some(&["a"]),
        ("declared", "by_a_and_nested") => Some(&["a", "n.b"]),
        _ => None,
    }
}

pub(in crate::tests) fn schema() -> Json {
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
pub(in crate::tests) enum Step {
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
pub(in crate::tests) struct Query {
    pub(super) table: usize,
    pub(super) index: &'static str,
    /// The values of the first fields of the index, in order.
    pub(super) equal: Vec<Option<Value>>,
    /// The bound of the next field, and whether it is inclusive.
    pub(super) lower: Option<(Option<Value>, bool)>,
    pub(super) upper: Option<(Option<Value>, bool)>,
    pub(super) is_descending: bool,
    pub(super) operators: Vec<Operator>,
}

#[derive(Debug, Clone)]
pub(super) enum Operator {
    Filter(Filter),
    Limit(usize),
}

#[derive(Debug, Clone)]
pub(super) enum Filter {
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

pub(in crate::tests) fn reads() -> impl Strategy<Value = Vec<Step>> {
    let read = prop_oneof![
        any::<usize>().prop_map(Step::Get),
        (0_usize..2).prop_map(Step::Count),
        (query(), 0_usize..6).prop_map(|(query, most)| Step::Query(query, most)),
    ];
    collection::vec(read, 1..3)
}

pub(in crate::tests) fn steps() -> impl Strategy<Value = Vec<Step>> {
    collection::vec(step(), 1..8)
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::tests) enum Outcome {
    Document(Option<Value>),
    /// The inserted document, with its id and creation time.
    Inserted(Object),
    Done,
    Count(u64),
    /// The documents, and whether the query reached its end.
    Documents(Vec<Value>, bool),
    Refused,
}

/// The tables and ids of all documents ever created, including uncommitted ones.
#[derive(Debug, Clone)]
pub(in crate::tests) struct Ids {
    pub(in crate::tests) component: ComponentPath,
    pub(in crate::tests) made: Vec<(&'static str, String)>,
}

impl Ids {
    pub(super) fn pick(&self, number: usize) -> Option<(&'static str, String)> {
        (!self.made.is_empty()).then(|| self.made[number % self.made.len()].clone())
    }
}

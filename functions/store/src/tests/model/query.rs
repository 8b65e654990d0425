//! Queries of the model: they sort and filter a whole table.

use std::collections::BTreeMap;

use functions_value::{Object, Value};
use serde_json::{Value as Json, json};

use super::program::{Filter, Operator, Outcome, Query, TABLES, index_fields};

impl Query {
    pub(in crate::tests) fn json(&self) -> Json {
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
    pub(super) fn position(&self, document: &Object) -> Vec<Option<Value>> {
        let at = |path: &&str| {
            Value::Object(document.clone()).at(&path.split('.').collect::<Vec<_>>()).cloned()
        };
        match index_fields(TABLES[self.table], self.index) {
            None => vec![at(&"_id")],
            Some(fields) => fields.iter().chain(&["_creationTime", "_id"]).map(at).collect(),
        }
    }

    pub(super) fn contains(&self, position: &[Option<Value>]) -> bool {
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

    pub(super) fn has_limit(&self) -> bool {
        self.operators.iter().any(|operator| matches!(operator, Operator::Limit(_)))
    }

    /// Runs the query on a table. Returns the outcome, and the last position read (`None` if the
    /// whole range was read).
    pub(super) fn run(
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

pub(super) type Position = Vec<Option<Value>>;

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

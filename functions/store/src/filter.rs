//! Expressions of `filter`, evaluated on each document that a query reads.

use std::borrow::Cow;
use std::mem::discriminant;

use functions_value::{Object, Value, is_undefined_json, shown_value};
use serde_json::Value as Json;

use super::{catalog::field_path, error::StoreError, tx::MAX_DOCUMENTS_READ};

/// An expression over a document. A missing field evaluates to `None`, which equals only itself and
/// sorts before every value.
#[derive(Debug, Clone)]
pub(super) enum Expression {
    Literal(Option<Value>),
    Field(Vec<String>),
    Compare(Comparison, Box<[Expression; 2]>),
    Arithmetic(Operation, Box<[Expression; 2]>),
    Negate(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Not(Box<Expression>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// The maximum depth of an expression, which bounds the stack of its evaluation.
const MAX_DEPTH: usize = 128;

/// The maximum number of steps of the filters of one transaction. They take about a second.
pub(super) const MAX_STEPS: u64 = 2_000 * MAX_DOCUMENTS_READ;

/// How many bytes of two values are compared in one step.
const BYTES_PER_STEP: usize = 64;

/// The evaluation steps of a transaction's filters. They run in the host, where the time limit of
/// functions does not count, so they are limited here.
#[derive(Debug, Default)]
pub(super) struct Steps(u64);

impl Steps {
    fn take(&mut self, steps: usize) -> Result<(), StoreError> {
        self.0 = self.0.saturating_add(steps as u64);
        if self.0 <= MAX_STEPS {
            return Ok(());
        }
        Err(StoreError::User(format!(
            "Too much filtering in a single function execution (limit: {MAX_STEPS} steps). \
             Consider using smaller filters, or indexed queries with selective index range \
             expressions."
        )))
    }

    /// Counts the comparison of two values.
    fn compare(&mut self, left: Option<&Value>, right: Option<&Value>) -> Result<(), StoreError> {
        match (left, right) {
            // Values of different types are told apart by type, which takes no step.
            (Some(left), Some(right)) if discriminant(left) == discriminant(right) => {
                self.take(left.size().min(right.size()) / BYTES_PER_STEP)
            }
            (_, _) => Ok(()),
        }
    }
}

impl Expression {
    pub(super) fn from_json(json: &Json) -> Result<Self, StoreError> {
        Self::parse(json, 0)
    }

    fn parse(json: &Json, depth: usize) -> Result<Self, StoreError> {
        let malformed = || StoreError::user(format!("Not a filter expression: {json}"));
        if depth > MAX_DEPTH {
            return Err(StoreError::user(format!(
                "Filter is nested deeper than limit of {MAX_DEPTH} expressions"
            )));
        }
        let members =
            json.as_object().filter(|members| members.len() == 1).ok_or_else(malformed)?;
        let (operator, operand) = members.iter().next().ok_or_else(malformed)?;
        let one = || Ok::<_, StoreError>(Box::new(Self::parse(operand, depth + 1)?));
        let many = || {
            let operands = operand.as_array().ok_or_else(malformed)?;
            operands
                .iter()
                .map(|operand| Self::parse(operand, depth + 1))
                .collect::<Result<Vec<_>, _>>()
        };
        let two =
            || Ok::<_, StoreError>(Box::new(<[_; 2]>::try_from(many()?).map_err(|_| malformed())?));
        Ok(match operator.as_str() {
            "$literal" if is_undefined_json(operand) => Self::Literal(None),
            "$literal" => Self::Literal(Some(Value::from_json(operand.clone())?)),
            "$field" => Self::Field(field_path(operand.as_str().ok_or_else(malformed)?)),
            "$eq" => Self::Compare(Comparison::Equal, two()?),
            "$neq" => Self::Compare(Comparison::NotEqual, two()?),
            "$lt" => Self::Compare(Comparison::Less, two()?),
            "$lte" => Self::Compare(Comparison::LessOrEqual, two()?),
            "$gt" => Self::Compare(Comparison::Greater, two()?),
            "$gte" => Self::Compare(Comparison::GreaterOrEqual, two()?),
            "$add" => Self::Arithmetic(Operation::Add, two()?),
            "$sub" => Self::Arithmetic(Operation::Subtract, two()?),
            "$mul" => Self::Arithmetic(Operation::Multiply, two()?),
            "$div" => Self::Arithmetic(Operation::Divide, two()?),
            "$mod" => Self::Arithmetic(Operation::Remainder, two()?),
            "$neg" => Self::Negate(one()?),
            "$and" => Self::And(many()?),
            "$or" => Self::Or(many()?),
            "$not" => Self::Not(one()?),
            _ => return Err(malformed()),
        })
    }

    pub(super) fn accepts(&self, document: &Object, steps: &mut Steps) -> Result<bool, StoreError> {
        match self.evaluate(document, steps)?.as_deref() {
            Some(Value::Boolean(boolean)) => Ok(*boolean),
            // A missing optional boolean field.
            None => Ok(false),
            Some(other) => Err(StoreError::user(format!(
                "Filter expressions must evaluate to a boolean, but one evaluated to {}",
                shown_value(other)
            ))),
        }
    }

    fn evaluate<'a>(
        &'a self,
        document: &'a Object,
        steps: &mut Steps,
    ) -> Result<Option<Cow<'a, Value>>, StoreError> {
        steps.take(1)?;
        let boolean = |boolean| Ok(Some(Cow::Owned(Value::Boolean(boolean))));
        match self {
            Self::Literal(value) => Ok(value.as_ref().map(Cow::Borrowed)),
            Self::Field(path) => Ok(path
                .split_first()
                .and_then(|(first, rest)| document.get(first)?.at(rest))
                .map(Cow::Borrowed)),
            Self::Compare(comparison, operands) => {
                let [left, right] = &**operands;
                let left = left.evaluate(document, steps)?;
                let right = right.evaluate(document, steps)?;
                steps.compare(left.as_deref(), right.as_deref())?;
                // `None` sorts before `Some`, as a missing field sorts before all values.
                let order = left.cmp(&right);
                boolean(match comparison {
                    Comparison::Equal => order.is_eq(),
                    Comparison::NotEqual => order.is_ne(),
                    Comparison::Less => order.is_lt(),
                    Comparison::LessOrEqual => order.is_le(),
                    Comparison::Greater => order.is_gt(),
                    Comparison::GreaterOrEqual => order.is_ge(),
                })
            }
            Self::Arithmetic(operation, operands) => {
                let [left, right] = &**operands;
                let left = left.evaluate(document, steps)?;
                let right = right.evaluate(document, steps)?;
                Ok(Some(Cow::Owned(operation.apply(left.as_deref(), right.as_deref())?)))
            }
            Self::Negate(operand) => match operand.evaluate(document, steps)?.as_deref() {
                Some(Value::Int64(number)) => Ok(Some(Cow::Owned(Value::Int64(
                    number
                        .checked_neg()
                        .ok_or_else(|| StoreError::user("Integer overflow in a filter's neg"))?,
                )))),
                Some(Value::Float64(number)) => Ok(Some(Cow::Owned(Value::Float64(-number)))),
                other => {
                    Err(StoreError::user(format!("Cannot negate {} in a filter", named(other))))
                }
            },
            Self::And(operands) => {
                for operand in operands {
                    if !operand.accepts(document, steps)? {
                        return boolean(false);
                    }
                }
                boolean(true)
            }
            Self::Or(operands) => {
                for operand in operands {
                    if operand.accepts(document, steps)? {
                        return boolean(true);
                    }
                }
                boolean(false)
            }
            Self::Not(operand) => boolean(!operand.accepts(document, steps)?),
        }
    }
}

impl Operation {
    fn apply(self, left: Option<&Value>, right: Option<&Value>) -> Result<Value, StoreError> {
        match (left, right) {
            (Some(Value::Int64(left)), Some(Value::Int64(right))) => {
                let result = match self {
                    Self::Add => left.checked_add(*right),
                    Self::Subtract => left.checked_sub(*right),
                    Self::Multiply => left.checked_mul(*right),
                    Self::Divide => left.checked_div(*right),
                    Self::Remainder => left.checked_rem(*right),
                };
                result.map(Value::Int64).ok_or_else(|| {
                    StoreError::user(format!(
                        "Integer overflow or division by zero in a filter: {left}n {} {right}n",
                        self.symbol()
                    ))
                })
            }
            (Some(Value::Float64(left)), Some(Value::Float64(right))) => {
                Ok(Value::Float64(match self {
                    Self::Add => left + right,
                    Self::Subtract => left - right,
                    Self::Multiply => left * right,
                    Self::Divide => left / right,
                    Self::Remainder => left % right,
                }))
            }
            (left, right) => Err(StoreError::user(format!(
                "Cannot compute {} {} {} in a filter: both must be numbers of the same type",
                named(left),
                self.symbol(),
                named(right)
            ))),
        }
    }

    fn symbol(self) -> char {
        match self {
            Self::Add => '+',
            Self::Subtract => '-',
            Self::Multiply => '*',
            Self::Divide => '/',
            Self::Remainder => '%',
        }
    }
}

fn named(value: Option<&Value>) -> String {
    value.map_or_else(|| "undefined".to_owned(), shown_value)
}

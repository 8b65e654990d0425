//! Convex values: documents, arguments and results.
//!
//! A [`Value`] has a total order across all types and a [byte encoding](encoding) that preserves
//! it; the store encodes index keys and documents with it. A [`Validator`] checks values. A
//! [`ComponentPath`] names the component of a table or function. [`Chance`] generates the random
//! bits of one execution, for example for ids.

mod chance;
mod component_path;
mod encoded;
pub mod encoding;
mod estimate;
mod json;
mod shown;
mod size;
#[cfg(test)]
mod tests;
mod validator;

use std::{cmp::Ordering, collections::BTreeMap};

pub use chance::{Chance, ChanceSeed};
pub use component_path::ComponentPath;
pub use encoded::check_encoded;
pub use estimate::Scanned;
pub use json::{Patch, ValueError, is_undefined as is_undefined_json, patch_from_json};
pub use shown::shown as shown_value;
pub use validator::{Validator, ValidatorError};

/// The longest field name, in bytes.
pub const MAX_FIELD_NAME_BYTES: usize = 1024;
/// The maximum nesting of arrays and objects, in levels. It bounds the stack of the recursive
/// encoder and decoder.
pub const MAX_NESTING: usize = 64;
/// The maximum number of elements in an array.
pub const MAX_ARRAY_ELEMENTS: usize = 8192;
/// The maximum number of fields in an object.
pub const MAX_OBJECT_FIELDS: usize = 1024;

/// Fields by name, in the order of their names' bytes.
pub type Object = BTreeMap<String, Value>;

/// A Convex value.
///
/// Equality and order are those of indexes and filters: values of different types are never equal
/// and order by type (null, int64, float64, boolean, string, bytes, array, object; a missing field
/// comes before them all); floats order by IEEE 754's total order, so that `-0` comes before `0`
/// and `NaN` equals itself.
#[derive(Debug, Clone)]
pub enum Value {
    /// `null`.
    Null,
    /// A JavaScript `bigint` that fits into 64 bits.
    Int64(i64),
    /// A JavaScript `number`.
    Float64(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// Text.
    String(String),
    /// An `ArrayBuffer`.
    Bytes(Vec<u8>),
    /// The commit time, `db.vars.commitTs`. It exists only within a transaction, where it sorts
    /// after all int64s; the commit replaces it with an int64.
    CommitTs,
    /// An array.
    Array(Vec<Value>),
    /// An object, or a document.
    Object(Object),
}

impl Value {
    /// The position in the order of types.
    fn rank(&self) -> u8 {
        match self {
            Value::Null => 0,
            Value::Int64(_) | Value::CommitTs => 1,
            Value::Float64(_) => 2,
            Value::Boolean(_) => 3,
            Value::String(_) => 4,
            Value::Bytes(_) => 5,
            Value::Array(_) => 6,
            Value::Object(_) => 7,
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    /// The fields, if this is an object.
    pub fn as_object(&self) -> Option<&Object> {
        if let Value::Object(fields) = self { Some(fields) } else { None }
    }

    /// The fields, if this is an object.
    pub fn into_object(self) -> Option<Object> {
        if let Value::Object(fields) = self { Some(fields) } else { None }
    }

    /// Whether the value contains the commit time.
    pub fn has_commit_ts(&self) -> bool {
        match self {
            Value::CommitTs => true,
            Value::Array(elements) => elements.iter().any(Value::has_commit_ts),
            Value::Object(fields) => fields.values().any(Value::has_commit_ts),
            Value::Null
            | Value::Int64(_)
            | Value::Float64(_)
            | Value::Boolean(_)
            | Value::String(_)
            | Value::Bytes(_) => false,
        }
    }

    /// Replaces every [`Value::CommitTs`] with `ts`.
    pub fn set_commit_ts(&mut self, ts: i64) {
        match self {
            Value::CommitTs => *self = Value::Int64(ts),
            Value::Array(elements) => {
                elements.iter_mut().for_each(|element| element.set_commit_ts(ts));
            }
            Value::Object(fields) => {
                fields.values_mut().for_each(|field| field.set_commit_ts(ts));
            }
            Value::Null
            | Value::Int64(_)
            | Value::Float64(_)
            | Value::Boolean(_)
            | Value::String(_)
            | Value::Bytes(_) => {}
        }
    }

    /// The value at a path of field names. `None` if a field is missing or a value on the path is
    /// not an object.
    pub fn at<'a>(&'a self, path: &[impl AsRef<str>]) -> Option<&'a Value> {
        path.iter().try_fold(self, |value, name| value.as_object()?.get(name.as_ref()))
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Value::Int64(a), Value::Int64(b)) => a.cmp(b),
            (Value::Int64(_), Value::CommitTs) => Ordering::Less,
            (Value::CommitTs, Value::Int64(_)) => Ordering::Greater,
            (Value::Float64(a), Value::Float64(b)) => a.total_cmp(b),
            (Value::Boolean(a), Value::Boolean(b)) => a.cmp(b),
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (Value::Array(a), Value::Array(b)) => a.cmp(b),
            (Value::Object(a), Value::Object(b)) => a.cmp(b),
            (_, _) => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Value {}

/// Implements `From` for each type, as the variant that holds it.
macro_rules! from {
    ($($type:ty => $variant:ident),+ $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Value::$variant(value.into())
            }
        }
    )+};
}

from! {
    &str => String, String => String, f64 => Float64, i64 => Int64, bool => Boolean,
    Object => Object, Vec<Value> => Array,
}

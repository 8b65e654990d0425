//! The size of values for limits.

use super::Value;

impl Value {
    /// The size in bytes, as computed by `getConvexSize` of the npm package.
    pub fn size(&self) -> usize {
        match self {
            Value::Null | Value::Boolean(_) => 1,
            Value::Int64(_) | Value::Float64(_) | Value::CommitTs => 9,
            Value::String(text) => 2 + text.len(),
            Value::Bytes(bytes) => 2 + bytes.len(),
            Value::Array(elements) => 2 + elements.iter().map(Value::size).sum::<usize>(),
            Value::Object(fields) => {
                2 + fields.iter().map(|(name, value)| name.len() + 1 + value.size()).sum::<usize>()
            }
        }
    }
}

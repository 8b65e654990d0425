//! The simple implementation: a tree that is walked and serialized for each rendering. Behind the
//! feature `test-util`.
//!
//! Templates are compared with it: in property tests for equal output, in benchmarks for speed.

use serde_json::Value;

use crate::var::SENTINEL_KEY;

/// Clones `body`, replaces each sentinel by what `lookup` returns, and serializes the result.
pub fn tree_walk(body: &Value, lookup: &dyn Fn(&str) -> Value) -> Vec<u8> {
    let mut body = body.clone();
    substitute(&mut body, lookup);
    serde_json::to_vec(&body).expect("a tree serializes")
}

fn substitute(value: &mut Value, lookup: &dyn Fn(&str) -> Value) {
    match value {
        Value::Object(members) => match members.get(SENTINEL_KEY).and_then(Value::as_str) {
            Some(name) => *value = lookup(name),
            None => members.values_mut().for_each(|member| substitute(member, lookup)),
        },
        Value::Array(elements) => {
            elements.iter_mut().for_each(|element| substitute(element, lookup))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

//! Values as messages show them.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::Value;

/// A value in JavaScript syntax, truncated after a few hundred bytes.
pub fn shown(value: &Value) -> String {
    const MAX_BYTES: usize = 400;
    let mut text = String::new();
    show(value, &mut text, MAX_BYTES);
    if text.len() > MAX_BYTES {
        text.truncate(text.floor_char_boundary(MAX_BYTES));
        text.push('…');
    }
    text
}

fn show(value: &Value, out: &mut String, max_bytes: usize) {
    if out.len() > max_bytes {
        return;
    }
    // Writing to a string does not fail.
    let _ = match value {
        Value::Null => out.write_str("null"),
        Value::Int64(number) => write!(out, "{number}n"),
        Value::CommitTs => out.write_str("db.vars.commitTs"),
        Value::Float64(number) if number.is_nan() => out.write_str("NaN"),
        Value::Float64(number) if number.is_infinite() => {
            out.write_str(if *number > 0.0 { "Infinity" } else { "-Infinity" })
        }
        Value::Float64(number) => write!(out, "{number:?}"),
        Value::Boolean(boolean) => write!(out, "{boolean}"),
        Value::String(text) => {
            let cut = &text[..text.floor_char_boundary(max_bytes)];
            write!(out, "{}", Json::from(cut))
        }
        Value::Bytes(bytes) => write!(out, "ArrayBuffer({})", bytes.len()),
        Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                show(element, out, max_bytes);
                if out.len() > max_bytes {
                    return;
                }
            }
            out.write_char(']')
        }
        Value::Object(fields) => {
            out.push('{');
            for (index, (name, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                let _ = write!(out, "{name}: ");
                show(value, out, max_bytes);
                if out.len() > max_bytes {
                    return;
                }
            }
            out.write_char('}')
        }
    };
}

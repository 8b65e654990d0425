//! An order-preserving byte encoding of values: `encode(a) < encode(b)` if and only if `a < b`. The
//! order also holds when values are parts of a longer key. Documents are stored in this encoding.
//!
//! A value is a tag, in the order of types, followed by its content. Integers and floats are
//! big-endian, with bits flipped so that they sort as unsigned bytes. Strings and bytes end with
//! `00 01`, and a zero byte within them becomes `00 FF`, so shorter ones sort first. Arrays and
//! objects end with a zero byte, which is not a tag. No encoding is a prefix of another, so a key
//! that begins with a value's encoding has that value as its first part.

use super::{MAX_NESTING, Object, Value};

const END: u8 = 0;
const UNDEFINED: u8 = 1;
const NULL: u8 = 2;
const INT64: u8 = 3;
const FLOAT64: u8 = 4;
const FALSE: u8 = 5;
const TRUE: u8 = 6;
const STRING: u8 = 7;
const BYTES: u8 = 8;
const ARRAY: u8 = 9;
const OBJECT: u8 = 10;
/// Precedes each field name of an object.
const FIELD: u8 = 1;
/// Ends strings and bytes.
const END_OF_BYTES: [u8; 2] = [0, 1];
/// Follows a zero byte that belongs to a string.
const ESCAPE: u8 = 0xFF;

/// The error for bytes that do not encode a value: the store's files are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undecodable;

/// Appends a value; `None` is a missing field, which comes before every value.
pub fn encode_optional(value: Option<&Value>, out: &mut Vec<u8>) {
    match value {
        None => out.push(UNDEFINED),
        Some(value) => encode(value, out),
    }
}

/// Appends a value.
pub fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Int64(number) => {
            out.push(INT64);
            out.extend_from_slice(&(number.cast_unsigned() ^ (1 << 63)).to_be_bytes());
        }
        // Occurs only in a transaction's own keys, never in stored ones.
        Value::CommitTs => encode(&Value::Int64(i64::MAX), out),
        Value::Float64(number) => {
            out.push(FLOAT64);
            let bits = number.to_bits();
            // IEEE 754's total order. Negative numbers sort in reverse by their bits, so all bits
            // are flipped.
            let ordered = if bits >> 63 == 0 { bits ^ (1 << 63) } else { !bits };
            out.extend_from_slice(&ordered.to_be_bytes());
        }
        Value::Boolean(false) => out.push(FALSE),
        Value::Boolean(true) => out.push(TRUE),
        Value::String(text) => encode_str(text, out),
        Value::Bytes(bytes) => {
            out.push(BYTES);
            escape(bytes, out);
        }
        Value::Array(elements) => {
            out.push(ARRAY);
            for element in elements {
                encode(element, out);
            }
            out.push(END);
        }
        Value::Object(fields) => encode_object(fields, out),
    }
}

/// Appends a string value.
pub fn encode_str(text: &str, out: &mut Vec<u8>) {
    out.push(STRING);
    escape(text.as_bytes(), out);
}

/// Appends an object value.
pub fn encode_object(fields: &Object, out: &mut Vec<u8>) {
    out.push(OBJECT);
    for (name, value) in fields {
        out.push(FIELD);
        escape(name.as_bytes(), out);
        encode(value, out);
    }
    out.push(END);
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        out.extend_from_slice(&rest[..=zero]);
        out.push(ESCAPE);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&END_OF_BYTES);
}

/// Decodes `bytes`, which must be exactly one encoding.
pub fn decode(bytes: &[u8]) -> Result<Value, Undecodable> {
    let mut rest = bytes;
    let value = decode_value(&mut rest, 0)?;
    if rest.is_empty() { Ok(value) } else { Err(Undecodable) }
}

/// Decodes `bytes`, a sequence of encodings, and returns the last value.
pub fn decode_last(bytes: &[u8]) -> Result<Value, Undecodable> {
    let mut rest = bytes;
    loop {
        let value = decode_value(&mut rest, 0)?;
        if rest.is_empty() {
            return Ok(value);
        }
    }
}

fn decode_value(rest: &mut &[u8], depth: usize) -> Result<Value, Undecodable> {
    // A document may wrap values of the maximum depth.
    if depth > MAX_NESTING + 2 {
        return Err(Undecodable);
    }
    Ok(match take_byte(rest)? {
        NULL => Value::Null,
        INT64 => Value::Int64((take_u64(rest)? ^ (1 << 63)).cast_signed()),
        FLOAT64 => {
            let ordered = take_u64(rest)?;
            Value::Float64(f64::from_bits(if ordered >> 63 == 1 {
                ordered ^ (1 << 63)
            } else {
                !ordered
            }))
        }
        FALSE => Value::Boolean(false),
        TRUE => Value::Boolean(true),
        STRING => Value::String(take_string(rest)?),
        BYTES => Value::Bytes(unescape(rest)?),
        ARRAY => {
            let mut elements = Vec::new();
            while rest.first() != Some(&END) {
                elements.push(decode_value(rest, depth + 1)?);
            }
            *rest = &rest[1..];
            Value::Array(elements)
        }
        OBJECT => {
            let mut fields = Object::new();
            while take_byte(rest)? == FIELD {
                let name = take_string(rest)?;
                fields.insert(name, decode_value(rest, depth + 1)?);
            }
            Value::Object(fields)
        }
        _ => return Err(Undecodable),
    })
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, Undecodable> {
    let (first, tail) = rest.split_first().ok_or(Undecodable)?;
    *rest = tail;
    Ok(*first)
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, Undecodable> {
    let (first, tail) = rest.split_first_chunk::<8>().ok_or(Undecodable)?;
    *rest = tail;
    Ok(u64::from_be_bytes(*first))
}

fn take_string(rest: &mut &[u8]) -> Result<String, Undecodable> {
    String::from_utf8(unescape(rest)?).map_err(|_| Undecodable)
}

fn unescape(rest: &mut &[u8]) -> Result<Vec<u8>, Undecodable> {
    let mut bytes = Vec::new();
    loop {
        let zero = rest.iter().position(|byte| *byte == 0).ok_or(Undecodable)?;
        bytes.extend_from_slice(&rest[..zero]);
        let tail = &rest[zero + 1..];
        let (after_zero, tail) = tail.split_first().ok_or(Undecodable)?;
        *rest = tail;
        match *after_zero {
            ESCAPE => bytes.push(0),
            after_zero if after_zero == END_OF_BYTES[1] => return Ok(bytes),
            _ => return Err(Undecodable),
        }
    }
}

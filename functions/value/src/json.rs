//! Values as JSON, as Convex's clients write it: a value without a JSON equivalent is an object
//! with a single key that begins with `$`.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::Value as Json;

use super::{
    MAX_ARRAY_ELEMENTS, MAX_FIELD_NAME_BYTES, MAX_NESTING, MAX_OBJECT_FIELDS, Object, Value,
};

/// The error for JSON that is not a Convex value. The message names the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueError {
    message: String,
    /// The path of the error, innermost part first.
    path: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Field(String),
    Element(usize),
}

impl ValueError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), path: Vec::new() }
    }

    pub(super) fn within(mut self, part: Part) -> Self {
        self.path.push(part);
        self
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.path.is_empty() {
            f.write_str(" (present at path ")?;
            for part in self.path.iter().rev() {
                match part {
                    Part::Field(name) => write!(f, ".{name}")?,
                    Part::Element(index) => write!(f, "[{index}]")?,
                }
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl std::error::Error for ValueError {}

/// The fields that a patch sets or, for `None`, removes.
pub type Patch = std::collections::BTreeMap<String, Option<Value>>;

/// Parses the JSON of a patch: an object whose members are values, or `{"$undefined": null}` to
/// remove a field.
pub fn patch_from_json(json: Json) -> Result<Patch, ValueError> {
    let Json::Object(members) = json else {
        return Err(ValueError::new("The value of a patch must be an object"));
    };
    members
        .into_iter()
        .map(|(name, json)| {
            check_field_name(&name)?;
            let value = if is_undefined(&json) {
                None
            } else {
                Some(from_json(json, 1).map_err(|error| error.within(Part::Field(name.clone())))?)
            };
            Ok((name, value))
        })
        .collect()
}

/// Whether this is the JSON of `undefined`.
pub fn is_undefined(json: &Json) -> bool {
    json.as_object().is_some_and(|members| members.len() == 1 && members.contains_key("$undefined"))
}

impl Value {
    /// Parses the JSON of a value, as Convex's clients write it.
    ///
    /// # Errors
    ///
    /// The JSON has a malformed special object or an invalid field name, exceeds a limit of size or
    /// depth, or contains the commit time, which is valid only within a mutation (see
    /// [`from_json_of_mutation`](Self::from_json_of_mutation)).
    pub fn from_json(json: Json) -> Result<Value, ValueError> {
        let value = from_json(json, 0)?;
        if value.has_commit_ts() { Err(misplaced_commit_ts()) } else { Ok(value) }
    }

    /// Parses the JSON of a value within a mutation, where it may contain the commit time.
    ///
    /// # Errors
    ///
    /// As [`from_json`](Self::from_json), except that the commit time is allowed.
    pub fn from_json_of_mutation(json: Json) -> Result<Value, ValueError> {
        from_json(json, 0)
    }

    /// The JSON of the value, as Convex's clients read it.
    pub fn to_json(&self) -> Json {
        let special = |key: &str, bytes: &[u8]| {
            Json::Object(
                [(key.to_owned(), Json::String(STANDARD.encode(bytes)))].into_iter().collect(),
            )
        };
        match self {
            Value::Null => Json::Null,
            Value::Int64(number) => special("$integer", &number.to_le_bytes()),
            Value::CommitTs => serde_json::json!({ "$commitTs": null }),
            Value::Float64(number) if is_special(*number) => {
                special("$float", &number.to_le_bytes())
            }
            Value::Float64(number) => match as_integer(*number) {
                Some(integer) => Json::from(integer),
                None => Json::from(*number),
            },
            Value::Boolean(boolean) => Json::Bool(*boolean),
            Value::String(text) => Json::String(text.clone()),
            Value::Bytes(bytes) => special("$bytes", bytes),
            Value::Array(elements) => Json::Array(elements.iter().map(Value::to_json).collect()),
            Value::Object(fields) => Json::Object(
                fields.iter().map(|(name, value)| (name.clone(), value.to_json())).collect(),
            ),
        }
    }
}

/// Serializes the same JSON as [`Value::to_json`], without building a tree.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let special = |serializer: S, key: &str, bytes: &[u8]| {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(key, &STANDARD.encode(bytes))?;
            map.end()
        };
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Int64(number) => special(serializer, "$integer", &number.to_le_bytes()),
            Value::CommitTs => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("$commitTs", &())?;
                map.end()
            }
            Value::Float64(number) if is_special(*number) => {
                special(serializer, "$float", &number.to_le_bytes())
            }
            Value::Float64(number) => match as_integer(*number) {
                Some(integer) => serializer.serialize_i64(integer),
                None => serializer.serialize_f64(*number),
            },
            Value::Boolean(boolean) => serializer.serialize_bool(*boolean),
            Value::String(text) => serializer.serialize_str(text),
            Value::Bytes(bytes) => special(serializer, "$bytes", bytes),
            Value::Array(elements) => serializer.collect_seq(elements),
            Value::Object(fields) => serializer.collect_map(fields),
        }
    }
}

pub(super) fn misplaced_commit_ts() -> ValueError {
    ValueError::new(
        "`db.vars.commitTs` is a value for documents, for the results of mutations and for functions that the same mutation calls",
    )
}

fn is_special(number: f64) -> bool {
    !number.is_finite() || (number == 0.0 && number.is_sign_negative())
}

/// The number as an integer, if it is whole: JavaScript writes whole numbers without `.0`.
fn as_integer(number: f64) -> Option<i64> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    #[allow(clippy::cast_possible_truncation, reason = "checked to be whole and within 53 bits")]
    (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64)
}

fn from_json(json: Json, depth: usize) -> Result<Value, ValueError> {
    check_depth(depth)?;
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(boolean) => Value::Boolean(boolean),
        Json::Number(number) => Value::Float64(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::String(text),
        Json::Array(elements) => {
            check_elements(elements.len())?;
            let elements = elements.into_iter().enumerate().map(|(index, element)| {
                from_json(element, depth + 1).map_err(|error| error.within(Part::Element(index)))
            });
            Value::Array(elements.collect::<Result<_, _>>()?)
        }
        Json::Object(members) => {
            if members.len() == 1
                && let Some((key, content)) = members.iter().next()
                && key.starts_with('$')
            {
                return special(key, content);
            }
            check_fields(members.len())?;
            let fields = members.into_iter().map(|(name, member)| {
                check_field_name(&name)?;
                match from_json(member, depth + 1) {
                    Ok(value) => Ok((name, value)),
                    Err(error) => Err(error.within(Part::Field(name))),
                }
            });
            Value::Object(fields.collect::<Result<Object, _>>()?)
        }
    })
}

pub(super) fn check_depth(depth: usize) -> Result<(), ValueError> {
    check(depth <= MAX_NESTING, || format!("Value is too nested (maximum nesting {MAX_NESTING})"))
}

pub(super) fn check_elements(count: usize) -> Result<(), ValueError> {
    check(count <= MAX_ARRAY_ELEMENTS, || {
        format!("Array length is too long ({count} > maximum length {MAX_ARRAY_ELEMENTS})")
    })
}

pub(super) fn check_fields(count: usize) -> Result<(), ValueError> {
    check(count <= MAX_OBJECT_FIELDS, || {
        format!("Object has too many fields ({count} > maximum number {MAX_OBJECT_FIELDS})")
    })
}

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), ValueError> {
    if holds { Ok(()) } else { Err(ValueError::new(message())) }
}

/// Parses an object whose only key begins with `$`.
pub(super) fn special(key: &str, content: &Json) -> Result<Value, ValueError> {
    let bytes = || {
        let text = content
            .as_str()
            .ok_or_else(|| ValueError::new(format!("Malformed {key}: not a string")))?;
        STANDARD.decode(text).map_err(|error| ValueError::new(format!("Malformed {key}: {error}")))
    };
    let eight = || {
        let bytes = bytes()?;
        let length = bytes.len();
        <[u8; 8]>::try_from(bytes)
            .map_err(|_| ValueError::new(format!("Received {length} bytes, expected 8 for {key}")))
    };
    match key {
        "$integer" => Ok(Value::Int64(i64::from_le_bytes(eight()?))),
        "$float" => {
            let number = f64::from_le_bytes(eight()?);
            if !is_special(number) {
                return Err(ValueError::new(format!(
                    "Float {number} should be encoded as a number"
                )));
            }
            Ok(Value::Float64(number))
        }
        "$bytes" => Ok(Value::Bytes(bytes()?)),
        "$undefined" => Err(ValueError::new("undefined is not a valid Convex value")),
        "$commitTs" if content.is_null() => Ok(Value::CommitTs),
        "$commitTs" => Err(ValueError::new("Malformed $commitTs: not null")),
        "$set" => {
            Err(ValueError::new("Received a Set which is no longer supported as a Convex type."))
        }
        "$map" => {
            Err(ValueError::new("Received a Map which is no longer supported as a Convex type."))
        }
        name => Err(check_field_name(name)
            .err()
            .unwrap_or_else(|| ValueError::new(format!("Unknown {name}")))),
    }
}

/// Checks the name of a field. The store further restricts the fields of documents.
pub(crate) fn check_field_name(name: &str) -> Result<(), ValueError> {
    if name.len() > MAX_FIELD_NAME_BYTES {
        return Err(ValueError::new(format!(
            "Field name {name:.32}… exceeds maximum field name length {MAX_FIELD_NAME_BYTES}."
        )));
    }
    if name.starts_with('$') {
        return Err(ValueError::new(format!(
            "Field name {name} starts with a '$', which is reserved."
        )));
    }
    if let Some(invalid) = name.chars().find(|character| !matches!(character, ' '..='~')) {
        return Err(ValueError::new(format!(
            "Field name {name} has invalid character '{invalid}': Field names can only contain non-control ASCII \
             characters"
        )));
    }
    Ok(())
}

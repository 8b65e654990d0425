//! Validators of values.

mod mismatch;

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde_json::Value as Json;

use self::mismatch::{Mismatch, Path, Step, Why};
use super::json::check_field_name;
use super::shown::shown;
use super::{Object, Value};

/// The values that are valid for a function's arguments or results, or a table's documents.
///
/// Displayed as in a schema, such as `v.object({name: v.optional(v.string())})`.
#[derive(Debug, Clone, PartialEq)]
pub enum Validator {
    /// `v.any()`.
    Any,
    /// `v.null()`.
    Null,
    /// `v.number()`.
    Float64,
    /// `v.int64()`, and the deprecated `v.bigint()`.
    Int64,
    /// `v.boolean()`.
    Boolean,
    /// `v.string()`.
    String,
    /// `v.bytes()`.
    Bytes,
    /// `v.id(table)`.
    Id(String),
    /// `v.function(signature)`: the text of a function handle. The signature is not checked, as on
    /// Convex.
    Function,
    /// `v.literal(value)`.
    Literal(Value),
    /// `v.array(element)`.
    Array(Box<Validator>),
    /// `v.object(fields)`: all fields and no others.
    Object(BTreeMap<String, Field>),
    /// `v.record(keys, values)`.
    Record(Box<Validator>, Box<Validator>),
    /// `v.union(members…)`.
    Union(Vec<Validator>),
}

/// A field of an object validator.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The validator of its value.
    pub validator: Validator,
    /// Whether the field may be missing.
    pub optional: bool,
}

/// The error for JSON that is not a validator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValidatorError(String);

impl Validator {
    /// Parses a validator from the npm package's JSON. JSON null means that there is no validator,
    /// which is [`Validator::Any`].
    ///
    /// # Errors
    ///
    /// The JSON is malformed, or from a later version of the package: the message quotes it. Or it
    /// names a field that no value can have.
    pub fn from_json(json: &Json) -> Result<Self, ValidatorError> {
        let validator = Self::from_stored_json(json)?;
        validator.check_field_names()?;
        Ok(validator)
    }

    /// Parses a validator that was stored. It may name fields that no value can have.
    ///
    /// # Errors
    ///
    /// The JSON is malformed, or from a later version.
    pub fn from_stored_json(json: &Json) -> Result<Self, ValidatorError> {
        if json.is_null() {
            return Ok(Self::Any);
        }
        let malformed = || ValidatorError(format!("not a validator: {json}"));
        let member = |name: &str| json.get(name).ok_or_else(malformed);
        Ok(match json.get("type").and_then(Json::as_str).ok_or_else(malformed)? {
            "any" => Self::Any,
            "null" => Self::Null,
            "number" => Self::Float64,
            // A commit timestamp is stored as an integer.
            "bigint" | "commitTs" => Self::Int64,
            "boolean" => Self::Boolean,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "id" => Self::Id(member("tableName")?.as_str().ok_or_else(malformed)?.to_owned()),
            "function" => Self::Function,
            "literal" => Self::Literal(
                Value::from_json(member("value")?.clone())
                    .map_err(|error| ValidatorError(format!("literal {json}: {error}")))?,
            ),
            "array" => Self::Array(Box::new(Self::from_stored_json(member("value")?)?)),
            "object" => {
                let fields = member("value")?.as_object().ok_or_else(malformed)?;
                let fields =
                    fields.iter().map(|(name, field)| Ok((name.clone(), Field::from_json(field)?)));
                Self::Object(fields.collect::<Result<_, ValidatorError>>()?)
            }
            "record" => Self::Record(
                Box::new(Self::from_stored_json(member("keys")?)?),
                Box::new(Field::from_json(member("values")?)?.validator),
            ),
            "union" => {
                let members = member("value")?.as_array().ok_or_else(malformed)?;
                Self::Union(members.iter().map(Self::from_stored_json).collect::<Result<_, _>>()?)
            }
            _ => return Err(malformed()),
        })
    }

    /// Checks that values can have the fields that the validator names.
    fn check_field_names(&self) -> Result<(), ValidatorError> {
        match self {
            Self::Object(fields) => fields.iter().try_for_each(|(name, field)| {
                if name.is_empty() {
                    return Err(ValidatorError("Field names cannot be empty.".to_owned()));
                }
                check_field_name(name).map_err(|error| ValidatorError(error.to_string()))?;
                field.validator.check_field_names()
            }),
            Self::Array(inner) | Self::Record(_, inner) => inner.check_field_names(),
            Self::Union(members) => members.iter().try_for_each(Self::check_field_names),
            Self::Any
            | Self::Null
            | Self::Float64
            | Self::Int64
            | Self::Boolean
            | Self::String
            | Self::Bytes
            | Self::Id(_)
            | Self::Function
            | Self::Literal(_) => Ok(()),
        }
    }

    /// Whether a valid value can have a field at the path, whose first part is the outermost field.
    /// As on Convex, no path leads into a record or an array.
    pub fn can_have(&self, path: &[String]) -> bool {
        let Some((name, rest)) = path.split_first() else { return true };
        match self {
            Self::Any => true,
            Self::Union(members) => members.iter().any(|member| member.can_have(path)),
            Self::Object(fields) => {
                fields.get(name).is_some_and(|field| field.validator.can_have(rest))
            }
            Self::Null
            | Self::Float64
            | Self::Int64
            | Self::Boolean
            | Self::String
            | Self::Bytes
            | Self::Id(_)
            | Self::Function
            | Self::Literal(_)
            | Self::Array(_)
            | Self::Record(..) => false,
        }
    }

    /// Checks a value. `is_id(table, text)` returns whether the text is the id of a document in
    /// that table.
    ///
    /// # Errors
    ///
    /// The value is invalid. The message is Convex's, with the path, the value and the validator.
    pub fn check(&self, value: &Value, is_id: &dyn Fn(&str, &str) -> bool) -> Result<(), String> {
        let mut path = Path::default();
        self.check_at(value, &mut path, is_id).map_err(|mismatch| mismatch.shown(&path))
    }

    /// If the check fails, `path` is left at the mismatch.
    fn check_at<'a, 'v>(
        &'a self,
        value: &'v Value,
        path: &mut Path<'v>,
        is_id: &dyn Fn(&str, &str) -> bool,
    ) -> Result<(), Mismatch<'a, 'v>> {
        let mismatch = |why| Err(Mismatch { why, value: Cow::Borrowed(value), validator: self });
        let accepted = match (self, value) {
            (Self::Any, _)
            | (Self::Null, Value::Null)
            | (Self::Float64, Value::Float64(_))
            | (Self::Int64, Value::Int64(_) | Value::CommitTs)
            | (Self::Boolean, Value::Boolean(_))
            | (Self::String, Value::String(_))
            | (Self::Bytes, Value::Bytes(_)) => true,
            (Self::Literal(literal), value) => literal == value,
            (Self::Function, Value::String(text)) => is_function_handle(text),
            (Self::Id(table), Value::String(text)) => {
                if !is_id(table, text) {
                    return mismatch(Why::NotId(table));
                }
                true
            }
            (Self::Array(element), Value::Array(elements)) => {
                for (index, value) in elements.iter().enumerate() {
                    path.0.push(Step::Element(index));
                    element.check_at(value, path, is_id)?;
                    path.0.pop();
                }
                true
            }
            (Self::Record(keys, values), Value::Object(fields)) => {
                for (name, value) in fields {
                    path.0.push(Step::Field(name));
                    keys.check_key(name, is_id)?;
                    values.check_at(value, path, is_id)?;
                    path.0.pop();
                }
                true
            }
            (Self::Object(fields), Value::Object(object)) => {
                return self.check_object(fields, value, object, path, is_id);
            }
            (Self::Union(members), value) => {
                if let Some(member) = discriminated(members, value) {
                    return member.check_at(value, path, is_id);
                }
                let depth = path.0.len();
                members.iter().any(|member| {
                    let accepted = member.check_at(value, path, is_id).is_ok();
                    path.0.truncate(depth);
                    accepted
                })
            }
            (_, _) => false,
        };
        if accepted { Ok(()) } else { mismatch(Why::Other) }
    }

    /// Checks the name of a member of a record.
    fn check_key<'a, 'v>(
        &'a self,
        name: &str,
        is_id: &dyn Fn(&str, &str) -> bool,
    ) -> Result<(), Mismatch<'a, 'v>> {
        let key = Value::from(name);
        let why = match self.check_at(&key, &mut Path::default(), is_id) {
            Ok(()) => return Ok(()),
            Err(Mismatch { why: Why::NotId(table), .. }) => Why::NotId(table),
            Err(_) => Why::Other,
        };
        Err(Mismatch { why, value: Cow::Owned(key), validator: self })
    }

    fn check_object<'a, 'v>(
        &'a self,
        fields: &'a BTreeMap<String, Field>,
        value: &'v Value,
        object: &'v Object,
        path: &mut Path<'v>,
        is_id: &dyn Fn(&str, &str) -> bool,
    ) -> Result<(), Mismatch<'a, 'v>> {
        let mismatch = |why| Err(Mismatch { why, value: Cow::Borrowed(value), validator: self });
        for (name, field) in fields {
            match object.get_key_value(name) {
                Some((name, value)) => {
                    path.0.push(Step::Field(name));
                    field.validator.check_at(value, path, is_id)?;
                    path.0.pop();
                }
                None if field.optional => {}
                None => {
                    return mismatch(Why::MissingField(name));
                }
            }
        }
        match object.keys().find(|name| !fields.contains_key(*name)) {
            Some(name) => mismatch(Why::ExtraField(name)),
            None => Ok(()),
        }
    }
}

/// Whether the text has the form of a function handle, `function://<component>;<module>:<function>`.
/// The function need not exist.
fn is_function_handle(text: &str) -> bool {
    let parts = text.strip_prefix("function://").and_then(|rest| rest.split_once(';'));
    parts.is_some_and(|(_, path)| {
        let (module, function) = path.split_once(':').unwrap_or((path, "default"));
        !module.is_empty() && !function.is_empty()
    })
}

/// The member of a union of objects that the value selects by a discriminating literal field. The
/// error then describes the mismatch with that member.
fn discriminated<'a>(members: &'a [Validator], value: &Value) -> Option<&'a Validator> {
    let object = value.as_object()?;
    let literals = |member: &'a Validator| {
        if let Validator::Object(fields) = member { Some(fields) } else { None }
    };
    let first = literals(members.first()?)?;
    let name = first.iter().find_map(|(name, field)| {
        let mut seen = Vec::new();
        members
            .iter()
            .all(|member| match literals(member).and_then(|fields| fields.get(name)) {
                Some(Field { validator: Validator::Literal(literal), optional: false }) => {
                    let new = !seen.contains(&literal);
                    seen.push(literal);
                    new
                }
                _ => false,
            })
            .then_some((name, field))
    });
    let (name, _) = name?;
    let given = object.get(name)?;
    members.iter().find(|member| {
        literals(member).and_then(|fields| fields.get(name)).is_some_and(
            |field| matches!(&field.validator, Validator::Literal(literal) if literal == given),
        )
    })
}

impl Field {
    fn from_json(json: &Json) -> Result<Self, ValidatorError> {
        let malformed = || ValidatorError(format!("not a field of a validator: {json}"));
        Ok(Self {
            validator: Validator::from_stored_json(json.get("fieldType").ok_or_else(malformed)?)?,
            optional: json.get("optional").and_then(Json::as_bool).ok_or_else(malformed)?,
        })
    }
}

impl fmt::Display for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("v.any()"),
            Self::Null => f.write_str("v.null()"),
            Self::Float64 => f.write_str("v.float64()"),
            Self::Int64 => f.write_str("v.int64()"),
            Self::Boolean => f.write_str("v.boolean()"),
            Self::String => f.write_str("v.string()"),
            Self::Bytes => f.write_str("v.bytes()"),
            Self::Id(table) => write!(f, "v.id(\"{table}\")"),
            Self::Function => f.write_str("v.function()"),
            Self::Literal(value) => write!(f, "v.literal({})", shown(value)),
            Self::Array(element) => write!(f, "v.array({element})"),
            Self::Record(keys, values) => write!(f, "v.record({keys}, {values})"),
            Self::Object(fields) => {
                f.write_str("v.object({")?;
                for (index, (name, Field { validator, optional })) in fields.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    if *optional {
                        write!(f, "{separator}{name}: v.optional({validator})")?;
                    } else {
                        write!(f, "{separator}{name}: {validator}")?;
                    }
                }
                f.write_str("})")
            }
            Self::Union(members) => {
                f.write_str("v.union(")?;
                for (index, member) in members.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{member}")?;
                }
                f.write_str(")")
            }
        }
    }
}

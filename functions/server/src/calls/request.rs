//! The bodies of calls.

use audit_host::shortened;
use functions_calls::CallError;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::body::Received;
use crate::budget::Share;
use crate::problem::Problem;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Call {
    pub(super) path: String,
    // Not flattened, which would build a second tree of the arguments.
    #[serde(default)]
    pub(super) args: Value,
    #[serde(default)]
    pub(super) format: Format,
    pub(super) component_path: Option<String>,
}

/// The body of a call of `/api/query_at_ts`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallAt {
    /// The time that the query reads at.
    pub(super) ts: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Value,
    #[serde(default)]
    pub(super) format: Format,
    pub(super) component_path: Option<String>,
}

/// A call in the query of a URL, with its arguments as JSON text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CallInUrl {
    pub(super) path: String,
    pub(super) args: Option<String>,
    #[serde(default)]
    pub(super) format: Format,
    pub(super) component_path: Option<String>,
}

/// The body of a call of `/api/query_batch`.
#[derive(Debug, Deserialize)]
pub(super) struct Batch {
    pub(super) queries: Vec<Call>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Arguments {
    /// An object, or an array with one object.
    #[serde(default)]
    pub(super) args: Value,
    #[serde(default)]
    pub(super) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum Format {
    #[default]
    #[serde(rename = "json")]
    Plain,
    /// Convex's encoding, which distinguishes all types.
    #[serde(rename = "convex_encoded_json")]
    Encoded,
}

/// Parses a body and frees its text. Also returns the call's share of the budget.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(body: Received) -> Result<(T, Share), Problem> {
    let parsed = serde_json::from_slice(body.bytes())
        .map_err(|error| Problem::bad_request(format!("the body is not a call: {error}")))?;
    Ok((parsed, body.into_share()))
}

pub(super) fn arguments(args: Value) -> Result<Value, Problem> {
    one_object(args).map_err(Problem::bad_request)
}

/// The one argument of a function: an object, or an array with one.
pub(crate) fn one_object(args: Value) -> Result<Value, String> {
    let refused = || Err("args must be an object, or an array with one object".to_owned());
    match args {
        Value::Object(_) => Ok(args),
        Value::Null => Ok(Value::Object(Map::new())),
        Value::Array(mut args) => match (args.pop(), args.is_empty()) {
            (None, _) => Ok(Value::Object(Map::new())),
            (Some(object @ Value::Object(_)), true) => Ok(object),
            (Some(_), _) => refused(),
        },
        Value::Bool(_) | Value::Number(_) | Value::String(_) => refused(),
    }
}

/// The path of a function of the app itself. Functions of components can only be called by other
/// functions; on Convex an administrator could call them from outside.
pub(crate) fn of_app(path: String, component: Option<String>) -> Result<String, CallError> {
    match component.filter(|component| !component.is_empty()) {
        Some(component) => {
            let error = format!(
                "{path} of the component {component:?} can only be called by functions: this host has no admin keys"
            );
            Err(CallError::NotFound(shortened(&error).into_owned()))
        }
        None => Ok(path),
    }
}

//! The arguments of operations, and the errors that functions see.

use audit_runtime::FunctionKind;
use functions_engine::SyscallError;
use functions_value::Value;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::reference::with_article;

pub(crate) fn failed(message: impl Into<String>) -> SyscallError {
    SyscallError::new(message)
}

pub(super) fn abandoned() -> SyscallError {
    failed("the function was abandoned")
}

/// The feature that an unsupported operation belongs to.
pub(super) fn left_out(op: &str) -> Option<&'static str> {
    Some(match op {
        "1.0/storageGetUrl"
        | "1.0/storageGetMetadata"
        | "1.0/storageGenerateUploadUrl"
        | "1.0/storageDelete"
        | "1.0/storageGet"
        | "1.0/storageStore" => "file storage",
        "1.0/actions/vectorSearch" => "vector search",
        "1.0/signJwt" => "signing tokens",
        "1.0/createServiceToken" | "1.0/getServiceUrl" => "services",
        _ => return None,
    })
}

/// The error for an operation that does not exist in this kind of function.
pub(crate) fn unknown(op: &str, kind: FunctionKind) -> SyscallError {
    match left_out(op) {
        Some(what) => failed(format!("{what} is not supported by this host ({op})")),
        None => failed(format!("Unknown async operation {op} in {}", with_article(kind))),
    }
}

/// The error for an operation that queries may not use.
pub(super) fn not_in_query(op: &str) -> SyscallError {
    match op {
        "1.0/insert" | "1.0/shallowMerge" | "1.0/replace" | "1.0/remove" | "1.0/schedule"
        | "1.0/cancel_job" => failed("a query cannot write: only mutations can"),
        "1.0/getRequestMetadata" => failed(
            "a query cannot read the request's metadata, since its result is cached: use log.vars in audit logs",
        ),
        _ => unknown(op, FunctionKind::Query),
    }
}

/// The arguments of an audit log. Other members that the client library sends are ignored.
#[derive(Deserialize)]
struct AuditArgs<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
}

/// The unchanged text of the body in the arguments of `1.0/auditLog`.
///
/// # Errors
///
/// The arguments are not JSON, or lack a body.
pub fn audit_body(args: &str) -> Result<&str, SyscallError> {
    let AuditArgs { body } =
        serde_json::from_str(args).map_err(|error| failed(format!("no audit log: {error}")))?;
    Ok(body.get())
}

pub(crate) fn parse(args: &str) -> Result<Json, SyscallError> {
    serde_json::from_str(args).map_err(|error| {
        // JavaScript's text can have half a surrogate pair; that of a value, or of a name, cannot.
        failed(format!("not JSON, or text with half a surrogate pair: {error}"))
    })
}

pub(super) fn text<'a>(args: &'a Json, name: &str) -> Result<&'a str, SyscallError> {
    args.get(name).and_then(Json::as_str).ok_or_else(|| failed(format!("{name} must be a string")))
}

pub(super) fn table(args: &Json) -> Option<&str> {
    args.get("table").and_then(Json::as_str)
}

pub(super) fn value(args: &mut Json, name: &str) -> Result<Value, SyscallError> {
    let json = args.get_mut(name).ok_or_else(|| failed(format!("{name} is missing")))?;
    Value::from_json_of_mutation(json.take()).map_err(|error| failed(error.to_string()))
}

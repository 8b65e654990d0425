//! Parses the HTTP response within the text of an error.

use std::fmt;

use serde_json::Value;

use crate::one_line::scrub;

/// The parts of an HTTP response that may be shown. The rest of an S3 error's XML repeats the
/// request, including headers with session tokens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) number: u16,
    pub(super) code: Option<String>,
    message: Option<String>,
}

impl Status {
    /// Parses the response that a text quotes.
    pub(super) fn within(text: &str) -> Option<Status> {
        let (_, rest) = text.split_once("status code: ")?;
        let number = rest.get(..3)?.parse().ok()?;
        let body = rest.find(['<', '{']).map_or("", |begin| &rest[begin..]);
        let (code, message) = if body.starts_with('{') {
            of_json(body).unwrap_or_default()
        } else {
            (element(body, "Code"), element(body, "Message"))
        };
        Some(Status { number, code, message })
    }
}

/// The text of the first element with this name.
pub(crate) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once("</")?;
    Some(content.trim().to_owned()).filter(|content| !content.is_empty())
}

/// The code and the message of a JSON error: of Google's APIs
/// (`{"error":{"status":…,"message":…}}`), of OAuth (`{"error":…,"error_description":…}`), of AWS
/// (`{"Code":…,"Message":…}`).
fn of_json(body: &str) -> Option<(Option<String>, Option<String>)> {
    let value = serde_json::Deserializer::from_str(body).into_iter::<Value>().next()?.ok()?;
    let text = |value: &Value, names: &[&str]| {
        let found = names.iter().find_map(|name| value.get(name)?.as_str());
        found.map(|found| found.trim().to_owned()).filter(|found| !found.is_empty())
    };
    Some(match value.get("error") {
        Some(error @ Value::Object(_)) => {
            let reason = error.get("errors").and_then(|errors| text(errors.get(0)?, &["reason"]));
            (text(error, &["status"]).or(reason), text(error, &["message"]))
        }
        _ => (
            text(&value, &["error", "Code", "code", "__type"]),
            text(&value, &["error_description", "Message", "message"]),
        ),
    })
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { number, code, message } = self;
        write!(f, "status {number}")?;
        if let Some(code) = code {
            write!(f, " {}", scrub(code))?;
        }
        if let Some(message) = message {
            write!(f, ": {}", scrub(message))?;
        }
        Ok(())
    }
}

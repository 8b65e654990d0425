//! The messages of the sync protocol. Clients' messages are parsed with Convex's own types. The
//! host's messages are written here, since a result is JSON text that many subscribers share:
//! Convex's types would need a tree of it for each.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use convex_sync_types::ClientMessage;
use serde_json::Value as Json;

/// A heartbeat: clients reconnect after 30 or 60 seconds of silence.
pub(super) const PING: &str = r#"{"type":"Ping"}"#;

/// The version of a client's state: the versions of its query set and identity, and the time of its
/// results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Version {
    pub(super) query_set: u32,
    pub(super) identity: u32,
    pub(super) ts: u64,
}

/// The outcome of a function, as JSON text in Convex's encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    pub(super) result: Result<&'a str, Failure<'a>>,
    pub(super) log_lines: &'a [String],
}

/// A failure, with the data of a `ConvexError` as JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure<'a> {
    pub(super) message: &'a str,
    pub(super) data: Option<&'a str>,
}

/// A change of one query in a client's set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Modification<'a> {
    Answered { query_id: u32, answer: Answer<'a>, journal: Option<&'a str> },
    Removed { query_id: u32 },
}

pub(super) fn parse(text: &str) -> Result<ClientMessage, String> {
    let json = serde_json::from_str::<Json>(text)
        .map_err(|error| format!("a message that is not JSON: {error}"))?;
    let kind = json.get("type").and_then(Json::as_str).map(str::to_owned);
    ClientMessage::try_from(json).map_err(|error| match kind {
        Some(kind) => format!("a message of type {kind:.32?} that cannot be read: {error}"),
        None => "a message without a type".to_owned(),
    })
}

/// The step from one version of a client's state to the next.
pub(super) fn transition<'a>(
    start: Version,
    end: Version,
    modifications: impl IntoIterator<Item = Modification<'a>>,
    clock_skew_ms: Option<i64>,
    server_ts: u64,
) -> String {
    let mut message = Message::new("Transition");
    message.member("startVersion");
    message.version(start);
    message.member("endVersion");
    message.version(end);
    message.member("modifications");
    message.0.push('[');
    for modification in modifications {
        if !message.0.ends_with('[') {
            message.0.push(',');
        }
        message.modification(modification);
    }
    message.0.push(']');
    message.member("clientClockSkew");
    match clock_skew_ms {
        Some(ms) => message.0.push_str(&ms.to_string()),
        None => message.0.push_str("null"),
    }
    message.member("serverTs");
    message.0.push_str(&server_ts.to_string());
    message.end()
}

/// The outcome of a mutation. `committed` is the time of its commit.
pub(super) fn mutation_response(
    request_id: u32,
    answer: Answer<'_>,
    committed: Option<u64>,
) -> String {
    let mut message = Message::new("MutationResponse");
    message.response(request_id, answer);
    message.member("ts");
    match committed {
        Some(ts) => message.u64(ts),
        None => message.0.push_str("null"),
    }
    message.end()
}

pub(super) fn action_response(request_id: u32, answer: Answer<'_>) -> String {
    let mut message = Message::new("ActionResponse");
    message.response(request_id, answer);
    message.end()
}

/// The rejection of a token for the identity after `base_version`. With `update_attempted`, the
/// client has just sent the token; otherwise that identity's token has expired.
pub(super) fn auth_error(error: &str, base_version: u32, update_attempted: bool) -> String {
    let mut message = Message::new("AuthError");
    message.member("error");
    message.string(error);
    message.member("baseVersion");
    message.0.push_str(&base_version.to_string());
    message.member("authUpdateAttempted");
    message.0.push_str(if update_attempted { "true" } else { "false" });
    message.end()
}

/// A protocol violation. The client must not retry.
pub(super) fn fatal_error(error: &str) -> String {
    let mut message = Message::new("FatalError");
    message.member("error");
    message.string(error);
    message.end()
}

/// A partly written JSON object.
struct Message(String);

impl Message {
    fn new(kind: &str) -> Message {
        Message(format!("{{\"type\":\"{kind}\""))
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }

    fn member(&mut self, name: &str) {
        self.0.push_str(",\"");
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    fn string(&mut self, text: &str) {
        self.0.push_str(&serde_json::to_string(text).expect("a string is JSON"));
    }

    fn strings(&mut self, texts: &[String]) {
        self.0.push_str(&serde_json::to_string(texts).expect("strings are JSON"));
    }

    /// Writes a number that JavaScript's numbers cannot hold: eight bytes, little-endian, in
    /// base64.
    fn u64(&mut self, number: u64) {
        self.0.push('"');
        BASE64_STANDARD.encode_string(number.to_le_bytes(), &mut self.0);
        self.0.push('"');
    }

    fn version(&mut self, version: Version) {
        let Version { query_set, identity, ts } = version;
        self.0.push_str(&format!("{{\"querySet\":{query_set},\"identity\":{identity},\"ts\":"));
        self.u64(ts);
        self.0.push('}');
    }

    fn modification(&mut self, modification: Modification<'_>) {
        match modification {
            Modification::Answered { query_id, answer: Answer { result, log_lines }, journal } => {
                let kind = if result.is_ok() { "QueryUpdated" } else { "QueryFailed" };
                self.0.push_str(&format!("{{\"type\":\"{kind}\",\"queryId\":{query_id}"));
                match result {
                    Ok(value) => {
                        self.member("value");
                        self.0.push_str(value);
                    }
                    Err(failure) => {
                        self.member("errorMessage");
                        self.string(failure.message);
                        self.data(failure);
                    }
                }
                self.member("logLines");
                self.strings(log_lines);
                self.member("journal");
                match journal {
                    Some(journal) => self.string(journal),
                    None => self.0.push_str("null"),
                }
            }
            Modification::Removed { query_id } => {
                self.0.push_str(&format!("{{\"type\":\"QueryRemoved\",\"queryId\":{query_id}"));
            }
        }
        self.0.push('}');
    }

    fn response(&mut self, request_id: u32, answer: Answer<'_>) {
        let Answer { result, log_lines } = answer;
        self.member("requestId");
        self.0.push_str(&request_id.to_string());
        self.member("success");
        self.0.push_str(if result.is_ok() { "true" } else { "false" });
        self.member("result");
        match result {
            Ok(value) => self.0.push_str(value),
            Err(failure) => {
                self.string(failure.message);
                self.data(failure);
            }
        }
        self.member("logLines");
        self.strings(log_lines);
    }

    fn data(&mut self, failure: Failure<'_>) {
        if let Some(data) = failure.data {
            self.member("errorData");
            self.0.push_str(data);
        }
    }
}

#[cfg(test)]
mod tests;

//! Messages of the sync protocol. Clients' messages are read with Convex's own types. The host's
//! are written here: a result is JSON text that many subscribers share, and no tree is built of it
//! for each.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use convex_sync_types::ClientMessage;
use serde_json::Value as Json;

/// A heartbeat: clients reconnect after 30 or 60 seconds of silence.
pub(super) const PING: &str = r#"{"type":"Ping"}"#;

/// The version of a client: the numbers of its query set and identity, and the time of its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Version {
    pub(super) query_set: u32,
    pub(super) identity: u32,
    pub(super) ts: u64,
}

/// The end of a function, as JSON text in Convex's encoding.
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

/// The change of one query of a client's set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Modification<'a> {
    Answered { query_id: u32, answer: Answer<'a>, journal: Option<&'a str> },
    Removed { query_id: u32 },
}

/// Reads a client's message.
pub(super) fn parse(text: &str) -> Result<ClientMessage, String> {
    let json = serde_json::from_str::<Json>(text)
        .map_err(|error| format!("a message that is no JSON: {error}"))?;
    let kind = json.get("type").and_then(Json::as_str).map(str::to_owned);
    ClientMessage::try_from(json).map_err(|error| match kind {
        Some(kind) => format!("a message of type {kind:.32?} that cannot be read: {error}"),
        None => "a message without a type".to_owned(),
    })
}

/// A step from one version of a client to the next.
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

/// The end of a mutation. `committed` is the time of its commit.
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

/// The end of an action.
pub(super) fn action_response(request_id: u32, answer: Answer<'_>) -> String {
    let mut message = Message::new("ActionResponse");
    message.response(request_id, answer);
    message.end()
}

/// An invalid token: the one for the identity after `base_version`, or that identity's, which has
/// expired.
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

/// A violation of the protocol. The client must not retry.
pub(super) fn fatal_error(error: &str) -> String {
    let mut message = Message::new("FatalError");
    message.member("error");
    message.string(error);
    message.end()
}

/// A JSON object that is being written.
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

    /// Too large for JavaScript's numbers: eight bytes, little-endian, in Base64.
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
mod tests {
    use convex_sync_types::{
        ErrorPayload, LogLinesMessage, QueryId, ServerMessage, StateModification, StateVersion,
        Timestamp,
    };
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Convex's own types, as clients read them, with any JSON as a value.
    #[derive(Debug, Clone, PartialEq)]
    struct Value(Json);

    impl TryFrom<Json> for Value {
        // The error type that Convex's types ask for, of a conversion that cannot fail.
        type Error = <Timestamp as TryFrom<u64>>::Error;

        fn try_from(json: Json) -> Result<Value, Self::Error> {
            Ok(Value(json))
        }
    }

    fn read(text: &str) -> ServerMessage<Value> {
        serde_json::from_str::<Json>(text).unwrap().try_into().unwrap()
    }

    fn time(ts: u64) -> Timestamp {
        Timestamp::try_from(ts).unwrap()
    }

    fn state(version: Version) -> StateVersion {
        StateVersion {
            query_set: version.query_set,
            identity: version.identity,
            ts: time(version.ts),
        }
    }

    fn any_time() -> impl Strategy<Value = u64> {
        0..=i64::MAX as u64
    }

    fn any_version() -> impl Strategy<Value = Version> {
        (any::<u32>(), any::<u32>(), any_time()).prop_map(|(query_set, identity, ts)| Version {
            query_set,
            identity,
            ts,
        })
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i32>().prop_map(Json::from),
            any::<String>().prop_map(Json::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    #[derive(Debug, Clone)]
    struct Owned {
        result: Result<Json, (String, Option<Json>)>,
        log_lines: Vec<String>,
    }

    fn any_answer() -> impl Strategy<Value = Owned> {
        let failure = (any::<String>(), prop::option::of(any_json()));
        let result = prop_oneof![any_json().prop_map(Ok), failure.prop_map(Err)];
        (result, prop::collection::vec(any::<String>(), 0..3))
            .prop_map(|(result, log_lines)| Owned { result, log_lines })
    }

    impl Owned {
        /// What was meant, as Convex's types have it.
        fn payload(&self) -> Result<Value, ErrorPayload<Value>> {
            self.result.clone().map(Value).map_err(|(message, data)| match data {
                Some(data) => ErrorPayload::ErrorData { message, data: Value(data) },
                None => ErrorPayload::Message(message),
            })
        }

        fn with<T>(&self, use_answer: impl FnOnce(Answer<'_>) -> T) -> T {
            let text = match &self.result {
                Ok(value) => value.to_string(),
                Err((_, data)) => data.as_ref().map(Json::to_string).unwrap_or_default(),
            };
            let result = match &self.result {
                Ok(_) => Ok(text.as_str()),
                Err((message, data)) => {
                    Err(Failure { message, data: data.as_ref().map(|_| text.as_str()) })
                }
            };
            use_answer(Answer { result, log_lines: &self.log_lines })
        }
    }

    fn modification(
        query_id: u32,
        answer: &Owned,
        journal: Option<String>,
    ) -> StateModification<Value> {
        let query_id = QueryId::new(query_id);
        let log_lines = LogLinesMessage(answer.log_lines.clone());
        match answer.payload() {
            Ok(value) => StateModification::QueryUpdated { query_id, value, log_lines, journal },
            Err(error) => StateModification::QueryFailed {
                query_id,
                error_message: error.get_message().to_owned(),
                error_data: error.get_data().cloned(),
                log_lines,
                journal,
            },
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn transitions_read_as_they_were_meant(
            start in any_version(),
            end in any_version(),
            (first, second) in (any_answer(), any_answer()),
            ids in any::<[u32; 3]>(),
            journal in prop::option::of(any::<String>()),
            clock_skew_ms in prop::option::of(any::<i64>()),
            server_ts in any_time(),
        ) {
            let text = first.with(|one| second.with(|two| {
                let modifications = [
                    Modification::Answered { query_id: ids[0], answer: one, journal: journal.as_deref() },
                    Modification::Removed { query_id: ids[1] },
                    Modification::Answered { query_id: ids[2], answer: two, journal: None },
                ];
                transition(start, end, modifications, clock_skew_ms, server_ts)
            }));
            let expected = ServerMessage::Transition {
                start_version: state(start),
                end_version: state(end),
                modifications: vec![
                    modification(ids[0], &first, journal),
                    StateModification::QueryRemoved { query_id: QueryId::new(ids[1]) },
                    modification(ids[2], &second, None),
                ],
                client_clock_skew: clock_skew_ms,
                server_ts: Some(time(server_ts)),
            };
            prop_assert_eq!(read(&text), expected);
        }

        #[test]
        fn responses_read_as_they_were_meant(
            request_id in any::<u32>(),
            answer in any_answer(),
            committed in prop::option::of(any_time()),
        ) {
            let log_lines = LogLinesMessage(answer.log_lines.clone());
            let mutation = answer.with(|answer| mutation_response(request_id, answer, committed));
            let expected = ServerMessage::MutationResponse {
                request_id,
                result: answer.payload(),
                ts: committed.map(time),
                log_lines: log_lines.clone(),
            };
            prop_assert_eq!(read(&mutation), expected);
            let action = answer.with(|answer| action_response(request_id, answer));
            prop_assert_eq!(read(&action), ServerMessage::ActionResponse { request_id, result: answer.payload(), log_lines });
        }

        #[test]
        fn errors_read_as_they_were_meant(error in any::<String>(), version in any::<u32>(), attempted in any::<bool>()) {
            let expected = ServerMessage::AuthError {
                error_message: error.clone(),
                base_version: Some(version),
                auth_update_attempted: Some(attempted),
            };
            prop_assert_eq!(read(&auth_error(&error, version, attempted)), expected);
            prop_assert_eq!(read(&fatal_error(&error)), ServerMessage::FatalError { error_message: error });
        }

        #[test]
        fn no_text_from_a_client_makes_reading_panic(text in any::<String>(), json in any_json(), kind in any::<String>()) {
            drop(parse(&text));
            drop(parse(&json.to_string()));
            let unknown = parse(&json!({"type": kind, "x": json}).to_string());
            prop_assert!(unknown.is_err());
        }
    }

    #[test]
    fn an_empty_transition_and_a_ping_are_messages() {
        let text = transition(Version::default(), Version::default(), [], None, 7);
        assert!(
            matches!(read(&text), ServerMessage::Transition { modifications, .. } if modifications.is_empty())
        );
        assert_eq!(read(PING), ServerMessage::Ping);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(parse("{").unwrap_err().contains("no JSON"));
        assert_eq!(parse("{}").unwrap_err(), "a message without a type");
        let error = parse(r#"{"type":"Mutation","requestId":1,"udfPath":"a:b"}"#).unwrap_err();
        assert!(error.contains("Mutation") && error.contains("args"), "{error}");
    }
}

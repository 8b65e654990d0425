use convex_sync_types::{
    ErrorPayload, LogLinesMessage, QueryId, ServerMessage, StateModification, StateVersion,
    Timestamp,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Any JSON, as the value in Convex's own message types.
#[derive(Debug, Clone, PartialEq)]
struct Value(Json);

impl TryFrom<Json> for Value {
    // Convex's types require this error type, though the conversion cannot fail.
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
    StateVersion { query_set: version.query_set, identity: version.identity, ts: time(version.ts) }
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
    /// The expected payload, in Convex's types.
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
    fn transitions_are_parsed_by_clients(
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
    fn responses_are_parsed_by_clients(
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
    fn errors_are_parsed_by_clients(error in any::<String>(), version in any::<u32>(), attempted in any::<bool>()) {
        let expected = ServerMessage::AuthError {
            error_message: error.clone(),
            base_version: Some(version),
            auth_update_attempted: Some(attempted),
        };
        prop_assert_eq!(read(&auth_error(&error, version, attempted)), expected);
        prop_assert_eq!(read(&fatal_error(&error)), ServerMessage::FatalError { error_message: error });
    }

    #[test]
    fn parsing_never_panics(text in any::<String>(), json in any_json(), kind in any::<String>()) {
        drop(parse(&text));
        drop(parse(&json.to_string()));
        let unknown = parse(&json!({"type": kind, "x": json}).to_string());
        prop_assert!(unknown.is_err());
    }
}

#[test]
fn empty_transitions_and_pings_are_parsed_by_clients() {
    let text = transition(Version::default(), Version::default(), [], None, 7);
    assert!(
        matches!(read(&text), ServerMessage::Transition { modifications, .. } if modifications.is_empty())
    );
    assert_eq!(read(PING), ServerMessage::Ping);
}

#[test]
fn invalid_messages_are_named() {
    assert!(parse("{").unwrap_err().contains("not JSON"));
    assert_eq!(parse("{}").unwrap_err(), "a message without a type");
    let error = parse(r#"{"type":"Mutation","requestId":1,"udfPath":"a:b"}"#).unwrap_err();
    assert!(error.contains("Mutation") && error.contains("args"), "{error}");
}

//! The sync protocol, message by message, in Convex's own types.

use std::sync::Arc;

use audit_core::testing::{ManualClock, MemoryFault};
use convex_sync_types::{ErrorPayload, QueryId, ServerMessage, StateModification, StateVersion};
use functions_program::{Env, Program};
use serde_json::{Value as Json, json};

use crate::served::{MESSAGES, Served, Socket, Value, with_action};
use crate::support::program;

/// The changes in one transition, by query: its value, its error, or that it is removed.
type Changes = Vec<(u32, Result<Json, String>)>;

/// Reads transitions and checks that each begins where the one before ended.
struct Follower {
    socket: Socket,
    version: StateVersion,
}

impl Follower {
    fn new(socket: Socket) -> Follower {
        Follower { socket, version: StateVersion::initial() }
    }

    /// The changes of the next transition. Other messages are passed to `other`.
    async fn step_and(&mut self, mut other: impl FnMut(ServerMessage<Value>)) -> Changes {
        loop {
            let message = self.socket.receive().await.unwrap();
            let ServerMessage::Transition { start_version, end_version, modifications, .. } =
                message
            else {
                other(message);
                continue;
            };
            assert_eq!(start_version, self.version);
            assert!(end_version.ts >= self.version.ts);
            self.version = end_version;
            let change = |modification: StateModification<Value>| match modification {
                StateModification::QueryUpdated { query_id, value, .. } => {
                    (query_id.get_id(), Ok(value.0))
                }
                StateModification::QueryFailed { query_id, error_message, .. } => {
                    (query_id.get_id(), Err(error_message))
                }
                StateModification::QueryRemoved { query_id } => {
                    (query_id.get_id(), Err("removed".to_owned()))
                }
            };
            return modifications.into_iter().map(change).collect();
        }
    }

    async fn step(&mut self) -> Changes {
        self.step_and(|message| panic!("{message:?}")).await
    }

    /// The changes of the next transition that has any.
    async fn change(&mut self) -> Changes {
        loop {
            let changes = self.step().await;
            if !changes.is_empty() {
                return changes;
            }
        }
    }
}

async fn followed(host: &Served, path: &str) -> Follower {
    let mut follower = Follower::new(host.socket().await);
    follower.socket.follow(0, path, json!({})).await;
    follower
}

#[tokio::test]
async fn clients_receive_only_their_own_queries() {
    let host = Served::start().await;
    let mut follower = followed(&host, "messages:list").await;
    assert_eq!(follower.step().await, [(0, Ok(json!([])))]);
    follower.socket.follow(1, "messages:broken", json!({})).await;
    let failed = follower.step().await;
    assert!(matches!(&failed[..], [(1, Err(message))] if message.contains("boom")), "{failed:?}");
    host.send("a").await;
    assert_eq!(follower.step().await, [(0, Ok(json!(["a"])))]);
    let remove = json!({
        "type": "ModifyQuerySet", "baseVersion": 2, "newVersion": 3, "modifications": [{ "type": "Remove", "queryId": 0 }],
    });
    follower.socket.say(remove).await;
    assert_eq!(follower.step().await, [(0, Err("removed".to_owned()))]);
    assert_eq!(follower.version.query_set, 3);
    host.send("b").await;
    follower.socket.follow(3, "messages:count", json!({})).await;
    assert_eq!(follower.step().await, [(3, Ok(json!(2)))]);
    drop(follower);
    let counts: Vec<_> =
        with_action(&host.stop().await, "listed").iter().map(|log| log["count"].clone()).collect();
    assert_eq!(counts, [0, 1], "what is not handed out is not logged");
}

#[tokio::test]
async fn unchanged_results_are_neither_sent_nor_logged() {
    let host = Served::start().await;
    let mut follower = followed(&host, "messages:whoami").await;
    assert_eq!(follower.step().await, [(0, Ok(Json::Null))]);
    follower.socket.follow(1, "messages:large", json!({ "kib": 1 })).await;
    follower.step().await;
    // `large` reads data that the message changes; `whoami` does not.
    host.send("a").await;
    assert_eq!(follower.step().await.len(), 1);
    // Under a new program, `whoami` runs again and returns the same.
    host.functions.deploy(program(&[MESSAGES])).await.unwrap();
    host.send("b").await;
    let changes = follower.step().await;
    assert!(matches!(&changes[..], [(1, Ok(large))] if large["count"] == 2), "{changes:?}");
    drop(follower);
    assert_eq!(with_action(&host.stop().await, "asked").len(), 1);
}

#[tokio::test]
async fn new_programs_reach_live_queries() {
    let host = Served::start().await;
    let mut follower = followed(&host, "messages:count").await;
    assert_eq!(follower.step().await, [(0, Ok(json!(0)))]);
    let other = "import { query } from './_generated/server'; export const count = query({ args: {}, handler: async () => 'other' });";
    host.functions.deploy(program(&[("messages.ts", other)])).await.unwrap();
    assert_eq!(follower.change().await, [(0, Ok(json!("other")))]);
}

#[tokio::test]
async fn results_of_a_client_share_one_timestamp() {
    let host = Served::start().await;
    let mut follower = Follower::new(host.socket().await);
    let add = |query_id: u32, path: &str| json!({ "type": "Add", "queryId": query_id, "udfPath": path, "args": [{}] });
    let queries = [add(0, "messages:list"), add(1, "messages:count"), add(2, "messages:nothing")];
    // A query for a function that does not exist does not affect the others.
    let modify = json!({ "type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": queries });
    follower.socket.say(modify).await;
    let sending = async {
        for number in 0..40 {
            host.send(&number.to_string()).await;
        }
    };
    let following = async {
        let (mut listed, mut counted) = (0, 0.0);
        loop {
            for (query_id, result) in follower.step().await {
                match (query_id, result) {
                    (0, Ok(list)) => listed = list.as_array().unwrap().len(),
                    (1, Ok(count)) => counted = count.as_f64().unwrap(),
                    (2, Err(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(listed as f64, counted);
            if listed == 40 {
                return;
            }
        }
    };
    tokio::join!(sending, following);
}

#[tokio::test]
async fn mutations_are_answered_before_they_are_visible() {
    let host = Served::start().await;
    let mut follower = followed(&host, "messages:list").await;
    follower.step().await;
    for number in 0..10u32 {
        follower
            .socket
            .mutate(number, "messages:send", json!({ "text": number.to_string() }))
            .await;
    }
    let (mut answered, mut seen, mut last) = (0, 0, None);
    while answered < 10 || seen < 10 || last > Some(follower.version.ts) {
        let changes = follower
            .step_and(|message| match message {
                ServerMessage::MutationResponse { request_id, result, ts, .. } => {
                    assert_eq!(
                        (request_id, result),
                        (answered, Ok(Value(json!(answered.to_string()))))
                    );
                    assert!(ts > last, "they commit in their order");
                    (answered, last) = (answered + 1, ts);
                }
                other => panic!("{other:?}"),
            })
            .await;
        if let [(0, Ok(list))] = &changes[..] {
            let expected: Vec<String> =
                (0..list.as_array().unwrap().len()).map(|number| number.to_string()).collect();
            assert_eq!(*list, json!(expected), "the order in which they were sent");
            seen = expected.len();
        }
    }
    drop(follower);
    let records = host.stop().await;
    assert_eq!(with_action(&records, "sent").len(), 10);
    let ids: std::collections::BTreeSet<_> =
        records.iter().map(|log| log["requestId"].to_string()).collect();
    assert_eq!(ids.len(), records.len(), "each call is a request of its own");
}

#[tokio::test]
async fn failed_mutations_return_their_data_before_a_transition() {
    let host = Served::start().await;
    let mut socket = host.socket().await;
    socket.mutate(3, "messages:refuse", json!({})).await;
    let ServerMessage::MutationResponse { request_id: 3, result: Err(error), ts: None, .. } =
        socket.receive().await.unwrap()
    else {
        panic!("no such answer");
    };
    assert!(
        matches!(error, ErrorPayload::ErrorData { data: Value(data), .. } if data == json!({ "code": "NO" }))
    );
    assert!(matches!(socket.receive().await.unwrap(), ServerMessage::Transition { .. }));
    socket.mutate(4, "messages:nothing", json!({})).await;
    let answer = socket.receive().await.unwrap();
    assert!(
        matches!(answer, ServerMessage::MutationResponse { request_id: 4, result: Err(_), .. }),
        "{answer:?}"
    );
    drop(socket);
    assert_eq!(with_action(&host.stop().await, "refused").len(), 1);
}

#[tokio::test]
async fn actions_of_a_client_run_concurrently() {
    let host = Served::start().await;
    let mut socket = host.socket().await;
    // The first action ends only after the second has run.
    for (request_id, path, args) in [
        (0, "messages:waitFor", json!({ "count": 1 })),
        (1, "messages:sendLater", json!({ "text": "a" })),
    ] {
        socket
            .say(json!({ "type": "Action", "requestId": request_id, "udfPath": path, "args": [args] }))
            .await;
    }
    let mut ended = Vec::new();
    for _ in 0..2 {
        match socket.receive().await.unwrap() {
            ServerMessage::ActionResponse { request_id, result: Ok(value), .. } => {
                ended.push((request_id, value.0))
            }
            other => panic!("{other:?}"),
        }
    }
    ended.sort_by_key(|(request_id, _)| *request_id);
    assert_eq!(ended, [(0, json!(1)), (1, json!("a"))]);
}

#[tokio::test]
async fn resent_mutations_run_once() {
    let host = Served::start().await;
    let mut socket = Socket::connect_as(&host.url, 5).await;
    socket.mutate(0, "messages:send", json!({ "text": "a" })).await;
    let first = socket.receive().await.unwrap();
    drop(socket);
    let mut socket = Socket::connect_as(&host.url, 5).await;
    socket.mutate(0, "messages:send", json!({ "text": "a" })).await;
    assert_eq!(socket.receive().await.unwrap(), first);
    // Another session may use the same number.
    let mut other = Socket::connect_as(&host.url, 6).await;
    other.mutate(0, "messages:send", json!({ "text": "b" })).await;
    other.receive().await.unwrap();
    // A retry is recognized although the client got a new token before it connected again.
    let mut answers = Vec::new();
    for nonce in ["a", "b"] {
        let token = host.token_with("ada", 4_000_000_000, &json!({ "nonce": nonce }));
        let mut socket = Socket::connect_as(&host.url, 7).await;
        socket.authenticate(0, &token).await;
        socket.mutate(0, "messages:send", json!({ "text": "c" })).await;
        loop {
            let message = socket.receive().await.unwrap();
            if matches!(message, ServerMessage::MutationResponse { .. }) {
                answers.push(message);
                break;
            }
        }
    }
    assert_eq!(answers[0], answers[1]);
    drop((socket, other));
    assert_eq!(with_action(&host.stop().await, "sent").len(), 3);
}

#[tokio::test]
async fn results_without_durable_logs_are_retried() {
    let (host, sink) = Served::with_memory_sink().await;
    sink.script([MemoryFault::FailBefore]);
    let mut follower = followed(&host, "messages:list").await;
    let failed = follower.step().await;
    assert!(
        matches!(&failed[..], [(0, Err(message))] if message.contains("could not be made durable")),
        "{failed:?}"
    );
    assert_eq!(follower.step().await, [(0, Ok(json!([])))]);
    assert_eq!(sink.records().len(), 1);
}

/// The host's last messages on a connection that sends these.
async fn until_closed(host: &Served, messages: &[Json]) -> (Option<ServerMessage<Value>>, String) {
    let mut socket = Socket::silent(&host.url).await;
    for message in messages {
        match message {
            Json::String(text) => socket.say_text(text.clone()).await,
            message => socket.say(message.clone()).await,
        }
    }
    let mut last = None;
    loop {
        match socket.receive().await {
            Ok(message) => last = Some(message),
            Err(reason) => return (last, reason),
        }
    }
}

fn connect() -> Json {
    json!({ "type": "Connect", "sessionId": "00000000-0000-0000-0000-000000000007", "connectionCount": 0 })
}

#[tokio::test]
async fn protocol_violations_are_named_and_end_the_session() {
    let host = Served::start().await;
    let modify = |base: u32, new: u32, modifications: Json| json!({ "type": "ModifyQuerySet", "baseVersion": base, "newVersion": new, "modifications": modifications });
    let add = json!({ "type": "Add", "queryId": 0, "udfPath": "messages:list", "args": [{}] });
    for (messages, says) in [
        (vec![json!("nonsense")], "not JSON"),
        (vec![json!({ "kind": "Connect" })], "without a type"),
        (vec![json!({ "type": "Sing" })], "Sing"),
        (vec![json!({ "type": "Sing".repeat(100_000) })], "characters left out"),
        (vec![modify(0, 1, json!([]))], "first message must be Connect"),
        (vec![connect(), connect()], "was sent before"),
        (vec![connect(), modify(1, 2, json!([]))], "version 0"),
        (vec![connect(), modify(0, 0, json!([]))], "does not come after"),
        (vec![connect(), modify(0, 1, json!([add, add]))], "already been added"),
        (vec![connect(), modify(0, 1, json!([{ "type": "Remove", "queryId": 4 }]))], "no query 4"),
        (
            vec![
                connect(),
                modify(
                    0,
                    1,
                    json!([{ "type": "Add", "queryId": 0, "udfPath": "a:b", "args": [1, 2] }]),
                ),
            ],
            "args",
        ),
        (
            vec![
                connect(),
                json!({ "type": "Mutation", "requestId": 0, "udfPath": "a:b", "args": "x" }),
            ],
            "args",
        ),
        (vec![connect(), json!({ "type": "Action", "requestId": 0, "udfPath": "a:b" })], "args"),
        (
            vec![
                connect(),
                json!({ "type": "Authenticate", "tokenType": "None", "baseVersion": 3 }),
            ],
            "version 0",
        ),
    ] {
        let (last, reason) = until_closed(&host, &messages).await;
        let Some(ServerMessage::FatalError { error_message }) = last else {
            panic!("{messages:?}: {last:?} {reason}")
        };
        assert!(error_message.contains(says), "{messages:?}: {error_message}");
        assert!(reason.starts_with("1008"), "{reason}");
    }
    let mut socket = host.socket().await;
    socket.say_bytes(vec![0; 9]).await;
    assert!(matches!(socket.receive().await, Ok(ServerMessage::FatalError { .. })));
    // All other clients are still served.
    let mut follower = followed(&host, "messages:count").await;
    follower
        .socket
        .say(json!({ "type": "Event", "eventType": "ClientConnect", "event": [] }))
        .await;
    assert_eq!(follower.step().await, [(0, Ok(json!(0)))]);
}

#[tokio::test]
async fn tokens_identify_clients() {
    let host = Served::start().await;
    let mut follower = followed(&host, "messages:whoami").await;
    assert_eq!(follower.step().await, [(0, Ok(Json::Null))]);
    let token = host.token("ada", 4_000_000_000);
    follower.socket.authenticate(0, &token).await;
    let changes = follower.step().await;
    assert!(
        matches!(&changes[..], [(0, Ok(identity))] if identity["subject"] == "ada"),
        "{changes:?}"
    );
    assert_eq!(follower.version.identity, 1);
    // A newer token of the same user changes no results, and is confirmed.
    follower.socket.authenticate(1, &host.token("ada", 4_000_000_001)).await;
    assert_eq!(follower.step().await, []);
    assert_eq!(follower.version.identity, 2);
    follower
        .socket
        .say(json!({ "type": "Authenticate", "tokenType": "None", "baseVersion": 2 }))
        .await;
    assert_eq!(follower.step().await, [(0, Ok(Json::Null))]);
    drop(follower);
    let subjects: Vec<_> =
        with_action(&host.stop().await, "asked").iter().map(|log| log["subject"].clone()).collect();
    assert_eq!(subjects, [Json::Null, json!("ada"), Json::Null]);
}

#[tokio::test]
async fn invalid_tokens_are_refused_and_not_served_anonymously() {
    let host = Served::start().await;
    let follow = json!({
        "type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1,
        "modifications": [{ "type": "Add", "queryId": 0, "udfPath": "messages:whoami", "args": [{}] }],
    });
    let send = json!({ "type": "Mutation", "requestId": 0, "udfPath": "messages:send", "args": [{ "text": "a" }] });
    let user = |token: String| json!({ "type": "Authenticate", "tokenType": "User", "baseVersion": 0, "value": token });
    let admin =
        json!({ "type": "Authenticate", "tokenType": "Admin", "baseVersion": 0, "value": "key" });
    for (authenticate, says) in [
        (user("x".to_owned()), "not a JSON Web Token"),
        (user(host.token("ada", 1)), "expired"),
        (admin, "no admin keys"),
    ] {
        let (last, reason) =
            until_closed(&host, &[connect(), authenticate, follow.clone(), send.clone()]).await;
        let Some(ServerMessage::AuthError { error_message, base_version, auth_update_attempted }) =
            last
        else {
            panic!("{last:?} {reason}");
        };
        assert!(error_message.contains(says), "{error_message}");
        assert_eq!((base_version, auth_update_attempted), (Some(0), Some(true)));
    }
    assert_eq!(host.stop().await, Vec::<Json>::new());
}

#[tokio::test]
async fn expired_tokens_end_the_session() {
    // A tenth of a second before the leeway ends.
    let clock = ManualClock::at(1_700_000_004_900);
    let host = Served::with_clock(Arc::new(clock)).await;
    let mut follower = followed(&host, "messages:count").await;
    follower.step().await;
    follower.socket.authenticate(0, &host.token("ada", 1_700_000_000)).await;
    follower.step().await;
    let message = follower.socket.receive().await.unwrap();
    let ServerMessage::AuthError { error_message, base_version, auth_update_attempted } = message
    else {
        panic!("{message:?}");
    };
    assert_eq!((base_version, auth_update_attempted), (Some(0), Some(false)));
    assert!(error_message.contains("expired"));
    assert!(follower.socket.receive().await.unwrap_err().starts_with("1008"));
}

#[tokio::test]
async fn a_clock_that_jumps_past_the_expiry_ends_the_session() {
    const HOUR_MS: i64 = 60 * 60 * 1_000;
    // The session notices the expiry at the next change, or at the next message of its client.
    for sends in [false, true] {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let host = Served::with_clock(Arc::clone(&clock) as _).await;
        let mut follower = followed(&host, "messages:count").await;
        follower.step().await;
        follower.socket.authenticate(0, &host.token("ada", 1_700_003_600)).await;
        follower.step().await;
        // The clock goes back and then forward, but stays before the expiry: nothing happens.
        clock.advance(-HOUR_MS);
        clock.advance(HOUR_MS + HOUR_MS / 2);
        host.send("before").await;
        assert_eq!(follower.step().await.len(), 1);
        clock.advance(HOUR_MS);
        let by_client = json!({ "type": "Mutation", "requestId": 0, "udfPath": "messages:send", "args": [{ "text": "late" }] });
        match sends {
            true => follower.socket.say(by_client).await,
            false => host.send("after").await,
        }
        let ended = follower.socket.receive().await.unwrap();
        assert!(matches!(ended, ServerMessage::AuthError { .. }), "{ended:?}");
        assert!(follower.socket.receive().await.unwrap_err().starts_with("1008"));
        let list = json!({ "path": "messages:list", "args": {} });
        let (_, listed) = host.post("/api/query", &list, &[]).await;
        assert!(!listed.to_string().contains("late"), "{listed}");
    }
}

#[tokio::test]
async fn stalled_clients_do_not_delay_others() {
    const CHANGES: u32 = 12;
    let host = Served::start().await;
    let mut slow = Follower::new(Socket::with_small_buffer(&host.url).await);
    slow.socket.follow(0, "messages:large", json!({ "kib": 2_048 })).await;
    let mut follower = Follower::new(host.socket().await);
    follower.socket.follow(0, "messages:large", json!({ "kib": 2_048 })).await;
    follower.step().await;
    for number in 1..=CHANGES {
        host.send(&number.to_string()).await;
        let changes = follower.step().await;
        assert!(matches!(&changes[..], [(0, Ok(large))] if large["count"] == number), "{number}");
    }
    // When it finally reads, it receives fewer transitions than there were changes, and the last is
    // at the newest timestamp.
    let mut steps = 0;
    loop {
        let changes = slow.step().await;
        steps += 1;
        if matches!(&changes[..], [(0, Ok(large))] if large["count"] == CHANGES) {
            break;
        }
    }
    assert!(steps < CHANGES, "{steps} steps");
}

#[tokio::test]
async fn a_client_clock_that_is_behind_has_negative_skew() {
    let host = Served::start().await;
    // The client claims that it is 1970.
    let mut socket = host.socket().await;
    socket.follow(0, "messages:count", json!({})).await;
    let received = socket.receive().await.unwrap();
    let ServerMessage::Transition { client_clock_skew, .. } = received else {
        panic!("{received:?}")
    };
    assert!(client_clock_skew.unwrap() < -1_700_000_000_000);
}

#[tokio::test]
async fn a_stopping_host_notifies_clients() {
    let mut host = Served::start().await;
    let mut follower = followed(&host, "messages:count").await;
    follower.step().await;
    host.ask_to_stop();
    assert_eq!(follower.socket.receive().await.unwrap_err(), "1001: the host is stopping");
    drop(follower);
    host.stop().await;
}

#[tokio::test]
async fn components_are_not_callable_by_clients() {
    let demo = Program::load(crate::support::demo(), &Env::default()).unwrap();
    let host = Served::with_program(demo).await;
    let mut socket = host.socket().await;
    let add = json!({
        "type": "Add", "queryId": 0, "udfPath": "lib:of", "args": [{ "documentId": "x" }], "componentPath": "shares",
    });
    socket
        .say(json!({ "type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": [add] }))
        .await;
    let ServerMessage::Transition { modifications, .. } = socket.receive().await.unwrap() else {
        panic!("no step")
    };
    let [StateModification::QueryFailed { query_id, error_message, .. }] = &modifications[..]
    else {
        panic!("{modifications:?}");
    };
    assert_eq!(*query_id, QueryId::new(0));
    assert!(error_message.contains("of the component"), "{error_message}");
}

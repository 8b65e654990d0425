//! Convex's own Rust client, unmodified.
//!
//! Tests stop a host only after its clients' connections are closed. If the connection of a client
//! fails after the client itself was dropped, its task waits for a request that cannot come, in a
//! loop that never yields (`convex` 0.10.4), and neither the task nor the runtime ends.

use std::collections::{BTreeMap, BTreeSet};

use convex::{ConvexClient, FunctionResult, Value};
use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value as Json, json};

use crate::served::{Proxy, Served, with_action};

/// How many clients follow one query, each from an address of its own.
const SUBSCRIBERS: usize = 200;

fn texts(result: Option<FunctionResult>) -> Vec<String> {
    let Some(FunctionResult::Value(Value::Array(texts))) = result else { panic!("{result:?}") };
    let text = |text: Value| match text {
        Value::String(text) => text,
        other => panic!("{other:?}"),
    };
    texts.into_iter().map(text).collect()
}

fn text(text: &str) -> BTreeMap<String, Value> {
    BTreeMap::from([("text".to_owned(), text.into())])
}

#[tokio::test]
async fn the_rust_client_makes_all_kinds_of_calls() {
    let host = Served::start().await;
    let proxy = Proxy::start(&host.url).await;
    let mut client = ConvexClient::new(&proxy.url).await.unwrap();
    let mut list = client.subscribe("messages:list", BTreeMap::new()).await.unwrap();
    assert_eq!(texts(list.next().await), Vec::<String>::new());
    let sent = client.mutation("messages:send", text("a")).await.unwrap();
    assert!(matches!(sent, FunctionResult::Value(Value::String(text)) if text == "a"));
    assert_eq!(texts(list.next().await), ["a"]);
    let sent = client.action("messages:sendLater", text("b")).await.unwrap();
    assert!(matches!(sent, FunctionResult::Value(Value::String(text)) if text == "b"));
    assert_eq!(texts(list.next().await), ["a", "b"]);
    let refused = client.mutation("messages:refuse", BTreeMap::new()).await.unwrap();
    assert!(matches!(refused, FunctionResult::ConvexError(_)), "{refused:?}");
    let broken = client.query("messages:broken", BTreeMap::new()).await.unwrap();
    assert!(matches!(broken, FunctionResult::ErrorMessage(message) if message.contains("boom")));
    client.set_auth(Some(host.token("ada", 4_000_000_000))).await;
    let identity = client.query("messages:whoami", BTreeMap::new()).await.unwrap();
    assert!(
        matches!(identity, FunctionResult::Value(Value::Object(identity)) if identity["subject"] == "ada".into())
    );
    drop((list, client));
    proxy.unused().await;
    let records = host.stop().await;
    assert_eq!(with_action(&records, "sent").len(), 2);
    assert_eq!(with_action(&records, "refused").len(), 1);
    assert_eq!(with_action(&records, "broken").len(), 1);
    let counts: Vec<_> =
        with_action(&records, "listed").iter().map(|log| log["count"].clone()).collect();
    // Another user receives the list again.
    assert_eq!(counts, [0, 1, 2, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_200_subscribers_gets_its_update_and_has_its_own_log() {
    let host = Served::start().await;
    let proxy = Proxy::start(&host.url).await;
    let mut clients = Vec::new();
    for _ in 0..SUBSCRIBERS {
        clients.push(ConvexClient::new(&proxy.url).await.unwrap());
    }
    let follow = async |client: &mut ConvexClient| {
        let mut list = client.subscribe("messages:list", BTreeMap::new()).await.unwrap();
        assert_eq!(texts(list.next().await), Vec::<String>::new());
        list
    };
    let mut lists = join_all(clients.iter_mut().map(follow)).await;
    let before = host.records();
    assert_eq!(with_action(&before, "listed").len(), SUBSCRIBERS);

    host.send("a").await;
    for update in join_all(lists.iter_mut().map(StreamExt::next)).await {
        assert_eq!(texts(update), ["a"]);
    }
    let after = host.records();
    let new = with_action(&after[before.len()..], "listed");
    assert_eq!(new.len(), SUBSCRIBERS, "one for each, and no other");
    assert!(new.iter().all(|log| log["count"] == 1));
    let of = |member: &str| new.iter().map(|log| log[member].clone()).collect::<Vec<Json>>();
    let addresses: BTreeSet<String> =
        of("ip").iter().map(|ip| ip.as_str().unwrap().to_owned()).collect();
    assert_eq!(addresses, (0..SUBSCRIBERS).map(Proxy::address).collect());
    let ids: BTreeSet<String> = after.iter().map(|log| log["requestId"].to_string()).collect();
    assert_eq!(ids.len(), after.len(), "each hand-out is a request of its own");
    let latest = before.iter().filter_map(|log| log["at"].as_i64()).max().unwrap();
    assert!(
        of("at").iter().all(|at| at.as_i64().unwrap() >= latest),
        "the time is that of the hand-out"
    );
    drop((lists, clients));
    proxy.unused().await;
    assert_eq!(host.stop().await.len(), after.len());
    assert_eq!(json!(after.len()), json!(2 * SUBSCRIBERS + 1));
}

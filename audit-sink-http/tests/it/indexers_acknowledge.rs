//! With Splunk's indexer acknowledgment, a request is delivered once it is indexed, on its own
//! channel. Whatever happens to an acknowledgment, the request is sent until one arrives.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::{AuditSink, Durability, HealthState};
use audit_sink_http::{Format, HttpSink, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::receiver::{batch, read};

/// A collector, and the indexers behind it.
#[derive(Default)]
struct Splunk {
    /// The records of each request, by channel and number.
    taken: Vec<(String, Vec<Value>)>,
    /// How many of the next requests the indexers lose, how many of the next queries are answered
    /// `false`, and how many of the next answers `true` get lost.
    lost: usize,
    not_yet: usize,
    acks_lost: usize,
    /// Requests that were acknowledged, whether or not the answer got lost.
    said: BTreeSet<usize>,
    forgotten: BTreeSet<usize>,
    has_numbers: bool,
    channels: BTreeSet<String>,
}

impl Splunk {
    /// The answer to a request; `None` for an answer that gets lost.
    fn answer(&mut self, path: &str, channel: &str, body: &str) -> Option<(u16, Value)> {
        self.channels.insert(channel.to_owned());
        if path.starts_with("/services/collector/event") {
            let number = self.taken.len();
            let records = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            self.taken.push((channel.to_owned(), records));
            if self.lost > 0 {
                self.lost -= 1;
                self.forgotten.insert(number);
            }
            let mut answer = json!({"text": "Success", "code": 0});
            if self.has_numbers {
                answer["ackId"] = json!(number);
            }
            return Some((200, answer));
        }
        assert_eq!(path, format!("/services/collector/ack?channel={channel}"));
        let asked: Value = serde_json::from_str(body).unwrap();
        let number = asked["acks"][0].as_u64().unwrap();
        let at = usize::try_from(number).unwrap();
        assert_eq!(self.taken[at].0, channel, "a number of another channel");
        let is_indexed = !self.forgotten.contains(&at) && !self.said.contains(&at);
        if self.not_yet > 0 {
            self.not_yet -= 1;
            return Some((200, json!({"acks": {number.to_string(): false}})));
        }
        if is_indexed {
            // The collector acknowledges a request only once.
            self.said.insert(at);
            if self.acks_lost > 0 {
                self.acks_lost -= 1;
                return None;
            }
        }
        Some((200, json!({"acks": {number.to_string(): is_indexed}})))
    }

    fn indexed(&self) -> Vec<u64> {
        let of_requests = self.taken.iter().enumerate();
        let kept = of_requests.filter(|(number, _)| !self.forgotten.contains(number));
        let records = kept.flat_map(|(_, (_, records))| records);
        let mut all: Vec<u64> =
            records.map(|record| record["fields"]["sequence"].as_u64().unwrap()).collect();
        all.sort_unstable();
        all
    }
}

async fn start(splunk: Splunk) -> (Arc<Mutex<Splunk>>, Settings) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let splunk = Arc::new(Mutex::new(splunk));
    let serving = Arc::clone(&splunk);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let splunk = Arc::clone(&serving);
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while let Ok(Some(request)) = read(&mut stream, &mut buffer).await {
                    let body = String::from_utf8(request.body.clone()).unwrap();
                    let channel = request.header("x-splunk-request-channel");
                    let answer = splunk.lock().unwrap().answer(&request.path, channel, &body);
                    let Some((status, answer)) = answer else { return };
                    let text = answer.to_string();
                    let length = text.len();
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n");
                    if stream.write_all(format!("{head}{text}").as_bytes()).await.is_err() {
                        return;
                    }
                }
                let _ = stream.read(&mut [0]).await;
            });
        }
    });
    let settings = Settings {
        indexer_ack_ms: Some(2_000),
        allow_private_addresses: true,
        retry_base_ms: 1,
        retry_cap_ms: 5,
        blocked_retry_cap_ms: 5,
        persist_timeout_ms: 600_000,
        ..Settings::new(format!("http://{address}/services/collector/event"), Format::Splunk)
    };
    (splunk, settings)
}

fn splunk() -> Splunk {
    Splunk { has_numbers: true, ..Splunk::default() }
}

#[tokio::test]
async fn a_request_is_delivered_once_it_is_indexed() {
    let (splunk, settings) = start(Splunk { not_yet: 2, ..splunk() }).await;
    let sink = HttpSink::open(settings.clone()).await.unwrap();
    let receipt = sink.persist(batch(0, &["{\"a\":1}", "{}"])).await.unwrap();
    assert_eq!(receipt.durability, Durability::Delivered);
    sink.close().await.unwrap();
    {
        let splunk = splunk.lock().unwrap();
        assert_eq!((splunk.not_yet, splunk.said.len(), splunk.taken.len()), (0, 1, 1));
    }
    HttpSink::open(settings).await.unwrap().persist(batch(0, &["{}"])).await.unwrap();
    let splunk = splunk.lock().unwrap();
    assert_eq!(splunk.channels.len(), 2, "each opening has a channel of its own");
}

#[tokio::test]
async fn a_lost_request_and_a_lost_acknowledgment_are_sent_again() {
    for (lost, acks_lost) in [(1, 0), (0, 1), (2, 1)] {
        let (splunk, settings) = start(Splunk { lost, acks_lost, ..splunk() }).await;
        // A short limit, since each lost request or acknowledgment takes that long.
        let settings = Settings { indexer_ack_ms: Some(150), ..settings };
        let sink = HttpSink::open(settings).await.unwrap();
        sink.persist(batch(0, &["{}"])).await.unwrap();
        sink.close().await.unwrap();
        let splunk = splunk.lock().unwrap();
        assert_eq!((splunk.lost, splunk.acks_lost), (0, 0));
        assert!(splunk.taken.len() > lost + acks_lost, "{}", splunk.taken.len());
        let indexed = splunk.indexed();
        assert!(!indexed.is_empty() && indexed.iter().all(|number| *number == 0), "{indexed:?}");
        let first = &splunk.taken[0].1;
        assert!(splunk.taken.iter().all(|(_, records)| records == first), "repeats are equal");
    }
}

/// The time limit is shorter than the usual pause before the first query.
#[tokio::test]
async fn a_short_time_has_room_for_a_question() {
    let (splunk, settings) = start(splunk()).await;
    let settings = Settings { indexer_ack_ms: Some(90), ..settings };
    let sink = HttpSink::open(settings).await.unwrap();
    let persisted = sink.persist(batch(0, &["{}"]));
    let persisted = tokio::time::timeout(Duration::from_secs(60), persisted).await;
    persisted.expect("the indexers are asked").unwrap();
    sink.close().await.unwrap();
    assert!(!splunk.lock().unwrap().indexed().is_empty());
}

#[tokio::test]
async fn a_token_without_acknowledgment_is_reported() {
    let (splunk, settings) = start(Splunk { has_numbers: false, ..splunk() }).await;
    let sink = HttpSink::open(settings).await.unwrap();
    let persisting = sink.persist(batch(0, &["{}"]));
    let seen = async {
        loop {
            if let HealthState::Blocked { reason } = sink.health().state {
                break reason;
            }
            tokio::task::yield_now().await;
        }
    };
    let reason = tokio::select! {
        persisted = persisting => panic!("{persisted:?}"),
        reason = seen => reason,
    };
    assert!(reason.contains("switch on indexer acknowledgment for the token"), "{reason}");
    splunk.lock().unwrap().has_numbers = true;
    sink.close().await.unwrap();
}

#[tokio::test]
async fn settings_for_other_formats_are_refused() {
    let open = async |settings: Settings| HttpSink::open(settings).await.unwrap_err().to_string();
    let ack = Some(1_000);
    let with = |format| Settings::new("https://example.com/x", format);
    let error = open(Settings { indexer_ack_ms: ack, ..with(Format::Ndjson) }).await;
    assert_eq!(error, "indexer_ack_ms is for log streams of the format splunk");
    let error = open(Settings { indexer_ack_ms: ack, ..with(Format::Splunk) }).await;
    assert!(error.contains("ends with /services/collector/event"), "{error}");
    let error = open(Settings { mapping: Some("x".into()), ..with(Format::Ndjson) }).await;
    assert_eq!(error, "mapping is for log streams of the format ocsf");
}

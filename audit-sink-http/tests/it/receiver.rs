//! A receiver that records requests and fails as scripted. It speaks just enough HTTP to control
//! each connection.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use audit_core::testing::StoredRecord;
use audit_core::{Batch, UniqueId};
use audit_sink_http::{Format, Settings};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A receiver of the formats `webhook` and `ndjson`.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The number of complete requests.
    arrived: watch::Sender<usize>,
    /// Whether hanging requests continue.
    released: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<(UniqueId, u64), Stored>,
    requests: Vec<Request>,
    script: VecDeque<Fault>,
    /// Requests with a record that contains this are answered 400.
    poison: Option<String>,
}

#[derive(Clone)]
struct Stored {
    line: Bytes,
    time_ms: i64,
    times: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The response has this status, and the records are not kept.
    Answer(u16, &'static str),
    /// The records are kept, and the connection ends without a response.
    Lost,
    /// The connection ends.
    Dropped,
    /// There is no response until everything is released, and the records are kept then.
    Hangs,
}

#[derive(Deserialize)]
struct WebhookEvent {
    timestamp: i64,
    topic: String,
    body: Box<RawValue>,
    record: Record,
}

#[derive(Deserialize)]
struct Record {
    stream: String,
    sequence: u64,
}

#[derive(Deserialize)]
struct Line {
    stream: String,
    sequence: u64,
    timestamp: i64,
    body: Box<RawValue>,
}

impl Receiver {
    pub(crate) async fn start() -> Receiver {
        let (receiver, listener) = Receiver::bind().await;
        let serving = receiver.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let receiver = serving.clone();
                tokio::spawn(async move { receiver.serve(stream).await });
            }
        });
        receiver
    }

    /// A receiver without a server: the test accepts the connections of its listener.
    pub(crate) async fn bind() -> (Receiver, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Receiver { address, shared: Arc::default() }, listener)
    }

    /// Settings of a sink that sends to it.
    pub(crate) fn settings(&self, format: Format) -> Settings {
        Settings {
            allow_private_addresses: true,
            retry_base_ms: 1,
            retry_cap_ms: 5,
            blocked_retry_cap_ms: 5,
            ..Settings::new(format!("http://{}/hook?key=hunter2", self.address), format)
        }
    }

    pub(crate) fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().script.extend(faults);
    }

    /// Removes the faults that have not happened yet.
    pub(crate) fn clear(&self) {
        self.state().script.clear();
    }

    pub(crate) fn poison(&self, text: Option<&str>) {
        self.state().poison = text.map(str::to_owned);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// Lets hanging requests continue, now and later.
    pub(crate) fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Waits until this many requests have arrived.
    pub(crate) async fn arrived(&self, count: usize) {
        self.shared.arrived.subscribe().wait_for(|arrived| *arrived >= count).await.unwrap();
    }

    /// Every record once, in the order of ids.
    pub(crate) fn stored(&self) -> Vec<StoredRecord> {
        let state = self.state();
        let stored = |(&(stream, sequence), stored): (&(UniqueId, u64), &Stored)| StoredRecord {
            stream,
            sequence,
            line: stored.line.clone(),
        };
        state.records.iter().map(stored).collect()
    }

    /// The sequence, time, body and number of arrivals of each record.
    pub(crate) fn told(&self) -> Vec<(u64, i64, String, usize)> {
        let state = self.state();
        let told = |((_, sequence), stored): (&(UniqueId, u64), &Stored)| {
            let line = String::from_utf8(stored.line.to_vec()).unwrap();
            (*sequence, stored.time_ms, line, stored.times)
        };
        state.records.iter().map(told).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Answers the requests of one connection.
    pub(crate) async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut buffer = Vec::new();
        while let Ok(Some(request)) = read(&mut stream, &mut buffer).await {
            let fault = {
                let mut state = self.state();
                state.requests.push(request.clone());
                let text = String::from_utf8_lossy(&request.body);
                let poison = state.poison.as_ref().is_some_and(|poison| text.contains(poison));
                let fault = state.script.pop_front();
                fault.or(poison.then_some(Fault::Answer(400, "\r\n")))
            };
            self.shared.arrived.send_modify(|arrived| *arrived += 1);
            let (status, headers) = match fault {
                None => {
                    self.keep(&request);
                    (200, "\r\n")
                }
                Some(Fault::Answer(status, headers)) => (status, headers),
                Some(Fault::Lost) => return self.keep(&request),
                Some(Fault::Dropped) => return,
                Some(Fault::Hangs) => {
                    let mut released = self.shared.released.subscribe();
                    released.wait_for(|released| *released).await.unwrap();
                    self.keep(&request);
                    (200, "\r\n")
                }
            };
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n{headers}\r\n{{}}");
            let answer = answer.replace("\r\n\r\n\r\n", "\r\n\r\n");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// Keeps the records of a request. Repeats must be equal.
    pub(crate) fn keep(&self, request: &Request) {
        let text = std::str::from_utf8(&request.body).unwrap();
        let events: Vec<Line> = match request.header("content-type") {
            "application/json" => {
                let events: Vec<WebhookEvent> = serde_json::from_str(text).unwrap();
                let line = |event: WebhookEvent| {
                    let WebhookEvent { timestamp, topic, body, record } = event;
                    assert_eq!(topic, "custom_audit");
                    let Record { stream, sequence } = record;
                    Line { stream, sequence, timestamp, body }
                };
                events.into_iter().map(line).collect()
            }
            _ => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        };
        let mut state = self.state();
        for Line { stream, sequence, timestamp: time_ms, body } in events {
            let line = Bytes::copy_from_slice(body.get().as_bytes());
            let id = (stream.parse().unwrap(), sequence);
            let new = Stored { line, time_ms, times: 0 };
            let stored = state.records.entry(id).or_insert_with(|| new.clone());
            assert_eq!((&stored.line, stored.time_ms), (&new.line, new.time_ms), "{id:?}");
            stored.times += 1;
        }
    }
}

/// One request, or none if the connection has ended.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Request>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: BTreeMap<String, String> = head.lines().skip(1).filter_map(header).collect();
    let length: usize = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    *buffer = buffer.split_off(end);
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let rest = buffer.split_off(length);
    let body = std::mem::replace(buffer, rest);
    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
    Ok(Some(Request { path, headers, body }))
}

pub(crate) fn batch(time_ms: i64, lines: &[&str]) -> Batch {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Batch::from_lines(time_ms, lines.into()).unwrap()
}

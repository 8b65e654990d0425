//! A host that serves a network, and the logs in its bucket.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use audit_core::testing::MemorySink;
use audit_core::{AuditSink, Clock, SystemClock};
use audit_runtime::{AuditRuntime, Vars};
use audit_sink_s3::S3Sink;
use convex_sync_types::{ClientMessage, ServerMessage, SessionId};
use functions_calls::{FunctionSettings, Functions};
use functions_program::Program;
use functions_server::auth::AuthSettings;
use functions_server::auth::Authenticator;
use functions_server::{NetworkLimits, Server, ServerParts};
use functions_store::Store;
use futures::{SinkExt, StreamExt};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use walkdir::WalkDir;

use crate::support::program;

/// The functions that most tests use.
pub(crate) const MESSAGES: (&str, &str) = ("messages.ts", include_str!("messages.ts"));

pub(crate) const ISSUER: &str = "https://issuer.example";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A host that listens on a port of its own.
pub(crate) struct Served {
    pub(crate) url: String,
    pub(crate) operators_url: String,
    /// The address of HTTP actions.
    pub(crate) site_url: String,
    pub(crate) functions: Functions,
    pub(crate) http: reqwest::Client,
    sink: Arc<dyn AuditSink>,
    directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// The metrics recorder, of which a process has only one.
fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap()).clone()
}

/// The parts of a host that differ between tests.
struct Setup {
    directory: TempDir,
    sink: Arc<dyn AuditSink>,
    bucket: Option<Arc<dyn AuditSink>>,
    program: Program,
    clock: Arc<dyn Clock>,
    limits: NetworkLimits,
    settings: FunctionSettings,
}

impl Setup {
    /// Uses a sink in memory, and defaults for the rest.
    fn new() -> Setup {
        Setup {
            directory: tempfile::tempdir().unwrap(),
            sink: Arc::new(MemorySink::new()),
            bucket: None,
            program: program(&[MESSAGES]),
            clock: Arc::new(SystemClock),
            limits: NetworkLimits::default(),
            settings: FunctionSettings::default(),
        }
    }
}

impl Served {
    pub(crate) async fn start() -> Served {
        Served::with_program(program(&[MESSAGES])).await
    }

    /// Uses a bucket in a directory, and this program.
    pub(crate) async fn with_program(program: Program) -> Served {
        let setup = Setup::new();
        let bucket = setup.directory.path().join("bucket");
        std::fs::create_dir(&bucket).unwrap();
        let settings =
            audit_sink_s3::Settings { linger_ms: 0, ..audit_sink_s3::Settings::default() };
        let url = format!("file://{}", bucket.display());
        let sink: Arc<dyn AuditSink> = Arc::new(S3Sink::open(&url, settings).await.unwrap());
        let bucket = Some(Arc::clone(&sink));
        Served::from(Setup { sink, bucket, program, ..setup }).await
    }

    /// Uses a sink in memory, which can be made to fail.
    pub(crate) async fn with_memory_sink() -> (Served, Arc<MemorySink>) {
        let sink = Arc::new(MemorySink::new());
        let setup = Setup { sink: Arc::clone(&sink) as _, ..Setup::new() };
        (Served::from(setup).await, sink)
    }

    pub(crate) async fn with_sink(sink: Arc<dyn AuditSink>, program: Program) -> Served {
        Served::from(Setup { sink, program, ..Setup::new() }).await
    }

    /// Uses this clock to decide which tokens have expired.
    pub(crate) async fn with_clock(clock: Arc<dyn Clock>) -> Served {
        Served::from(Setup { clock, ..Setup::new() }).await
    }

    pub(crate) async fn with_settings(program: Program, settings: FunctionSettings) -> Served {
        Served::from(Setup { program, settings, ..Setup::new() }).await
    }

    /// Uses limits small enough for a test to reach.
    pub(crate) async fn with_limits(limits: NetworkLimits) -> Served {
        Served::from(Setup { limits, ..Setup::new() }).await
    }

    async fn from(setup: Setup) -> Served {
        let Setup { directory, sink, bucket, program, clock, limits, settings } = setup;
        let metrics = metrics();
        let mut vars = Vars::new();
        vars.register("convexActor", 256).unwrap();
        let runtime = AuditRuntime::builder(Arc::clone(&sink)).with_vars(vars).build();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let functions = Functions::start(runtime, store, program, settings).await.unwrap();
        let secret_file = directory.path().join("secret");
        std::fs::write(&secret_file, SECRET).unwrap();
        let auth = AuthSettings {
            issuer: ISSUER.to_owned(),
            audience: "app".to_owned(),
            jwks: None,
            public_key: None,
            secret_file: Some(secret_file),
        };
        let operators = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let operators_url = format!("http://{}", operators.local_addr().unwrap());
        let site = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site_url = format!("http://{}", site.local_addr().unwrap());
        let parts = ServerParts {
            site: Some(site),
            auth: Authenticator::open(&[auth], clock).unwrap(),
            proxies: "127.0.0.1".parse().unwrap(),
            bucket,
            metrics: Some(metrics),
            operators: Some(operators),
            limits,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let served =
            Server::serve(functions.clone(), parts, listener, async move { drop(stopped.await) });
        let serving = tokio::spawn(async move { served.await.unwrap() });
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Served {
            url,
            operators_url,
            site_url,
            functions,
            http,
            sink,
            directory,
            stop: Some(stop),
            serving,
        }
    }

    /// Posts a body and returns the status, headers and body of the response.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: &Json,
        headers: &[(&str, &str)],
    ) -> (u16, Json) {
        let (status, _, body) = self.post_text(path, body.to_string(), headers).await;
        (status, body)
    }

    pub(crate) async fn post_text(
        &self,
        path: &str,
        body: String,
        headers: &[(&str, &str)],
    ) -> (u16, reqwest::header::HeaderMap, Json) {
        let request = self.http.post(format!("{}{path}", self.url)).body(body);
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.json().await.unwrap())
    }

    /// Sends a message, and waits until it has been processed.
    pub(crate) async fn send(&self, text: &str) {
        let call = json!({ "path": "messages:send", "args": { "text": text } });
        let (status, body) = self.post("/api/mutation", &call, &[]).await;
        assert_eq!(status, 200, "{body}");
    }

    /// A valid token for this host.
    pub(crate) fn token(&self, subject: &str, expires_s: i64) -> String {
        self.token_with(subject, expires_s, &json!({ "role": "reader" }))
    }

    /// A valid token for this host, with other claims too.
    pub(crate) fn token_with(&self, subject: &str, expires_s: i64, others: &Json) -> String {
        let mut claims = others.clone();
        for (name, claim) in [("iss", json!(ISSUER)), ("aud", json!("app"))] {
            claims[name] = claim;
        }
        (claims["sub"], claims["exp"]) = (json!(subject), json!(expires_s));
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    }

    /// A client of the sync protocol whose messages the test chooses.
    pub(crate) async fn socket(&self) -> Socket {
        Socket::connect(&self.url).await
    }

    pub(crate) fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) fn metrics(&self) -> String {
        metrics().render()
    }

    /// Stops the host, and returns the records in its bucket.
    pub(crate) async fn stop(mut self) -> Vec<Json> {
        self.ask_to_stop();
        self.serving.await.unwrap();
        self.sink.close().await.unwrap();
        records(&self.directory.path().join("bucket"))
    }

    /// The records in the bucket now. Without a journal, these are the logs of all answered calls.
    pub(crate) fn records(&self) -> Vec<Json> {
        records(&self.directory.path().join("bucket"))
    }
}

/// The records in a directory, ordered by their sequence numbers, each of which must occur once.
fn records(bucket: &Path) -> Vec<Json> {
    let mut records = BTreeMap::new();
    for entry in WalkDir::new(bucket)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
    {
        let name = entry.file_name().to_str().unwrap();
        let Some((_, first)) =
            name.strip_suffix(".ndjson.zst").and_then(|name| name.split_once('-'))
        else {
            continue;
        };
        let lines =
            String::from_utf8(zstd::decode_all(&std::fs::read(entry.path()).unwrap()[..]).unwrap())
                .unwrap();
        for (number, line) in (first.parse::<u64>().unwrap()..).zip(lines.lines()) {
            let before = records.insert(number, serde_json::from_str(line).unwrap());
            assert!(before.is_none(), "record {number} is there twice");
        }
    }
    assert!(records.keys().copied().eq(0..records.len() as u64), "the records have no gap");
    records.into_values().collect()
}

pub(crate) fn with_action(records: &[Json], action: &str) -> Vec<Json> {
    records.iter().filter(|record| record["action"] == action).cloned().collect()
}

/// A WebSocket that carries messages of the sync protocol, in Convex's own types.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// Any value, as JSON.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Value(pub(crate) Json);

impl TryFrom<Json> for Value {
    type Error = <convex_sync_types::Timestamp as TryFrom<u64>>::Error;

    fn try_from(json: Json) -> Result<Value, Self::Error> {
        Ok(Value(json))
    }
}

impl Socket {
    /// Opens a connection without sending anything.
    pub(crate) async fn silent(url: &str) -> Socket {
        let url = format!("{}/api/1.48.0/sync", url.replace("http:", "ws:"));
        let (stream, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        Socket(stream)
    }

    /// Opens a connection whose network buffers hold little unread data.
    pub(crate) async fn with_small_buffer(url: &str) -> Socket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let address = url.strip_prefix("http://").unwrap();
        let stream = socket.connect(address.parse().unwrap()).await.unwrap();
        let url = format!("ws://{address}/api/sync");
        let (stream, _) =
            tokio_tungstenite::client_async(url, MaybeTlsStream::Plain(stream)).await.unwrap();
        let mut socket = Socket(stream);
        socket.say_connect(8).await;
        socket
    }

    pub(crate) async fn connect(url: &str) -> Socket {
        Socket::connect_as(url, 7).await
    }

    /// Sends `Connect` as the client of a session.
    pub(crate) async fn connect_as(url: &str, session: u128) -> Socket {
        let mut socket = Socket::silent(url).await;
        socket.say_connect(session).await;
        socket
    }

    async fn say_connect(&mut self, session: u128) {
        let session_id = format!("{session:032x}").parse::<SessionId>().unwrap();
        let connect = ClientMessage::Connect {
            session_id,
            connection_count: 0,
            last_close_reason: "InitialConnect".to_owned(),
            max_observed_timestamp: None,
            client_ts: Some(0),
        };
        self.say(Json::try_from(connect).unwrap()).await;
    }

    pub(crate) async fn say(&mut self, message: Json) {
        self.say_text(message.to_string()).await;
    }

    pub(crate) async fn say_text(&mut self, text: String) {
        self.0.send(Message::Text(text.into())).await.unwrap();
    }

    /// Whether the host still accepts messages.
    pub(crate) async fn try_say_text(&mut self, text: String) -> bool {
        self.0.send(Message::Text(text.into())).await.is_ok()
    }

    pub(crate) async fn say_bytes(&mut self, bytes: Vec<u8>) {
        self.0.send(Message::Binary(bytes.into())).await.unwrap();
    }

    /// Follows this query, as the next change of the query set.
    pub(crate) async fn follow(&mut self, query_id: u32, path: &str, args: Json) {
        let add = json!({ "type": "Add", "queryId": query_id, "udfPath": path, "args": [args] });
        let modify = json!({
            "type": "ModifyQuerySet", "baseVersion": query_id, "newVersion": query_id + 1, "modifications": [add],
        });
        self.say(modify).await;
    }

    pub(crate) async fn mutate(&mut self, request_id: u32, path: &str, args: Json) {
        self.say(
            json!({ "type": "Mutation", "requestId": request_id, "udfPath": path, "args": [args] }),
        )
        .await;
    }

    pub(crate) async fn authenticate(&mut self, base_version: u32, token: &str) {
        self.say(json!({ "type": "Authenticate", "baseVersion": base_version, "tokenType": "User", "value": token }))
            .await;
    }

    /// The next message other than a ping, or the reason why the connection was closed.
    pub(crate) async fn receive(&mut self) -> Result<ServerMessage<Value>, String> {
        // The limit only makes a test that would wait forever say what it waited for.
        let received = tokio::time::timeout(Duration::from_secs(600), self.receive_any()).await;
        received.expect("the host says something")
    }

    async fn receive_any(&mut self) -> Result<ServerMessage<Value>, String> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => {
                    let json = serde_json::from_str::<Json>(&text).unwrap();
                    match ServerMessage::try_from(json).unwrap() {
                        ServerMessage::Ping => {}
                        message => return Ok(message),
                    }
                }
                Some(Ok(Message::Ping(_))) => {}
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(format!("{}: {}", u16::from(frame.code), frame.reason));
                }
                other => return Err(format!("{other:?}")),
            }
        }
    }
}

/// A proxy that gives each connection a different client address.
pub(crate) struct Proxy {
    pub(crate) url: String,
    open: watch::Sender<usize>,
}

impl Proxy {
    pub(crate) fn address(number: usize) -> String {
        format!("10.1.{}.{}", number / 200, number % 200 + 1)
    }

    pub(crate) async fn start(upstream: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
        let open = watch::Sender::new(0);
        let connections = open.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                let (upstream, connections) = (upstream.clone(), connections.clone());
                connections.send_modify(|open| *open += 1);
                tokio::spawn(async move {
                    // Either side may disconnect at any time.
                    drop(Proxy::pass_on(client, &upstream, number).await);
                    connections.send_modify(|open| *open -= 1);
                });
            }
        });
        Proxy { url, open }
    }

    async fn pass_on(mut client: TcpStream, upstream: &str, number: usize) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let line = head.windows(2).position(|end| end == b"\r\n").unwrap() + 2;
        let header = format!("X-Forwarded-For: {}\r\n", Proxy::address(number));
        head.splice(line..line, header.into_bytes());
        let mut server = TcpStream::connect(upstream).await?;
        server.write_all(&head).await?;
        copy_bidirectional(&mut client, &mut server).await?;
        Ok(())
    }

    /// Waits until all connections are closed on both sides.
    pub(crate) async fn unused(&self) {
        self.open.subscribe().wait_for(|open| *open == 0).await.unwrap();
    }
}

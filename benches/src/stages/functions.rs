//! The host for JavaScript functions: the cost of `log.audit` within a function, and the rate of
//! cached results over HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use audit_core::{AuditSink, SystemClock};
use audit_host::ServeLimits;
use audit_runtime::http::TrustedProxies;
use audit_runtime::{AuditRuntime, Execution, Query, Vars};
use audit_sink_null::NullSink;
use audit_sink_s3::{Bucket, JournalSettings, S3Sink, Settings};
use functions_calls::{FunctionSettings, Functions, audit_body};
use functions_engine::{Answer, Later, Limits, Seed, SyscallError, Syscalls};
use functions_program::{Env, Program};
use functions_server::auth::Authenticator;
use functions_server::{NetworkLimits, Server, ServerParts};
use functions_store::Store;
use functions_value::ComponentPath;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::contest::{Contest, Row, Side, Target, Unit};

/// A query that logs a body of about 1 KB repeatedly, almost as often as one function may.
const MODULE: &str = r#"
import { log } from "convex/server";
import { query } from "./_generated/server";
export const run = query(async () => {
  for (let i = 0; i < 400; i++) {
    await log.audit({
      action: "document.viewed",
      actor: { userId: "jd7f8s9d8f7s9d8f", authUserId: "user_2b8f9s8d7f9s8d7f", roles: ["editor", "reviewer", "owner"] },
      source: { ip: log.vars.ip, userAgent: log.vars.userAgent, deployment: "tall-tiger-123", functionName: "documents:view" },
      fields: ["title", "text", "owner", "createdAt", "updatedAt", "tags", "attachments", "comments"],
      resource: { type: "document", id: "k17d8f7s9d8f7s9d8f7s9d8f7s9d8f7s", orgId: "org_4f8s7d9f8s7d9f8s7d9f", title: TITLE },
      before: { title: "Quarterly plan, draft 3", tags: ["plan", "draft"], revision: 41, text: TEXT },
      after: { title: "Quarterly plan, draft 4", tags: ["plan", "final"], revision: 42 },
      requestId: log.vars.requestId,
      timestamp: log.vars.now,
    });
  }
  return null;
});
const TITLE = "The quarterly plan of the department of plans";
const TEXT = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor. ".repeat(3);
export const cached = query(async () => {
  await log.audit({ action: "document.viewed", ip: log.vars.ip, userAgent: log.vars.userAgent, at: log.vars.now });
  return { title: TITLE, text: TEXT };
});
"#;

fn directory_of_functions(at: &Path) -> PathBuf {
    let directory = at.join("convex");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("bench.ts"), MODULE).expect("a file");
    directory
}

fn program(directory: &Path) -> Arc<Program> {
    Arc::new(Program::load(directory, &Env::default()).expect("the functions load"))
}

fn runtime(sink: Arc<dyn AuditSink>) -> AuditRuntime {
    let mut vars = Vars::new();
    vars.register("convexActor", 1_024).expect("a variable");
    AuditRuntime::builder(sink).with_vars(vars).build()
}

/// Answers `log.audit`, and records the times of the first and the last call.
struct Host<'a> {
    log: Option<&'a Execution<Query>>,
    first: Option<Instant>,
    last: Option<Instant>,
    calls: u32,
}

impl Syscalls for Host<'_> {
    fn syscall(&mut self, _op: &str, _args: &str) -> Result<String, SyscallError> {
        Ok("null".to_owned())
    }

    fn async_syscall(&mut self, _op: &str, args: &str, _later: Later) -> Answer {
        if let Some(execution) = self.log {
            let body = audit_body(args).expect("a body");
            execution.log().audit_json(body).expect("a log");
        }
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.calls += 1;
        Answer::Now(Ok("null".to_owned()))
    }
}

/// The time of one `log.audit`, from JavaScript to JavaScript. With `auditing` the host does its
/// work, without it nothing.
fn one_audit(program: &Program, auditing: Option<&AuditRuntime>) -> Duration {
    let root = ComponentPath::root();
    let function = program.function(&root, "bench:run").expect("the function");
    let call = program.call(&root, function, "[{}]", "");
    let execution = auditing.map(|runtime| runtime.query("bench:run"));
    let mut host = Host { log: execution.as_ref(), first: None, last: None, calls: 0 };
    let ran = functions_engine::run(
        &call,
        &Seed { random: 1_u64.into(), now_ms: 1.7e12 },
        &Limits::default(),
        &mut host,
    );
    ran.result.expect("it succeeds");
    let (Some(first), Some(last)) = (host.first, host.last) else { panic!("nothing was logged") };
    let each = (last - first) / (host.calls - 1);
    // The logs are not needed.
    if let Some(execution) = execution {
        drop(execution.seal(()));
    }
    each
}

/// `log.audit` of 1 KB. The host has its own module for it, with Convex's package or without.
pub fn contests(directory: &Path) -> Vec<Contest> {
    let auditing = runtime(Arc::new(NullSink::new()));
    let side = |name: &str, program: &Arc<Program>, auditing: Option<&AuditRuntime>| {
        let (program, auditing) = (Arc::clone(program), auditing.cloned());
        Side::timed(name, move || one_audit(&program, auditing.as_ref()))
    };
    let built_in = program(&directory_of_functions(&directory.join("built-in")));
    vec![
        Contest::new("log.audit of 1 KB from JavaScript", side("ours", &built_in, Some(&auditing)))
            .against(side("a host that does nothing", &built_in, None))
            // The baseline also writes 1 KB as text and calls the host, in an interpreter.
            .target(Target::AtMostTimes(1.4)),
    ]
}

/// The number of concurrent clients.
const CLIENTS: usize = 64;

/// Cached results over HTTP, each sent after its log is durable, compared with the same host and a
/// sink that discards logs. The clients run in the same process, on the same cores.
pub fn cache_hits(directory: &Path, time: Duration, rounds: u32) -> Row {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads");
    let (mut durable, mut discarded) = (Vec::new(), Vec::new());
    threads.block_on(async {
        let journal = JournalSettings {
            cut_after_ms: 86_400_000,
            ..JournalSettings::new(directory.join("hits-journal"))
        };
        let settings = Settings { journal: Some(journal), ..Settings::default() };
        let bucket = Bucket::open("memory:///").expect("a bucket");
        let sink = S3Sink::builder(bucket).with_settings(settings).open().await.expect("a sink");
        let journaled = served(&directory.join("hits-durable"), Arc::new(sink)).await;
        let null = served(&directory.join("hits-null"), Arc::new(NullSink::new())).await;
        // Warms up.
        for address in [journaled, null] {
            hits(address, time / 4).await;
        }
        for _ in 0..rounds {
            durable.push(hits(journaled, time).await);
            discarded.push(hits(null, time).await);
        }
    });
    let middle = |rates: Vec<f64>| crate::contest::Spread::of(rates).median;
    Row::counted(
        format!("cache hits over HTTP, logged and durable, {CLIENTS} clients"),
        middle(durable),
        Unit::PerSecond,
    )
    .beside("logs discarded", middle(discarded))
    .with_target(Target::PerSecond(10_000.0))
    .with_note("clients and host share the machine's cores")
}

async fn served(directory: &Path, sink: Arc<dyn AuditSink>) -> SocketAddr {
    let functions = directory_of_functions(directory);
    let program = Program::load(&functions, &Env::default()).expect("the functions load");
    let store = Store::open(&directory.join("store")).expect("a store");
    let functions = Functions::start(runtime(sink), store, program, FunctionSettings::default())
        .await
        .expect("a host");
    let auth = Authenticator::open(&[], Arc::new(SystemClock)).expect("no keys");
    // All clients are on this machine.
    let serve = ServeLimits { max_connections_per_address: usize::MAX, ..ServeLimits::default() };
    let limits = NetworkLimits { serve, ..NetworkLimits::default() };
    let parts = ServerParts {
        auth,
        proxies: TrustedProxies::none(),
        bucket: None,
        metrics: None,
        operators: None,
        site: None,
        limits,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    // Until the process ends.
    tokio::spawn(Server::serve(functions, parts, listener, std::future::pending()));
    address
}

/// The number of responses per second for all clients together.
async fn hits(address: SocketAddr, time: Duration) -> f64 {
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("a connection");
                stream.set_nodelay(true).expect("an option");
                let mut buffer = Vec::with_capacity(4_096);
                while !stop.load(Ordering::Relaxed) {
                    ask(&mut stream, &mut buffer).await;
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client");
    }
    answers.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// Sends one request on a persistent connection and reads the whole response.
async fn ask(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    const BODY: &str = r#"{"path":"bench:cached","args":{},"format":"json"}"#;
    let request = format!(
        "POST /api/query HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nuser-agent: bench\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    buffer.clear();
    loop {
        let read = stream.read_buf(buffer).await.expect("an answer");
        assert!(read > 0, "the host closed the connection");
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end]).expect("text").to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let length: usize = length.trim().parse().expect("a number");
        if buffer.len() >= end + 4 + length {
            assert!(head.starts_with("http/1.1 200"), "{head}");
            return;
        }
    }
}

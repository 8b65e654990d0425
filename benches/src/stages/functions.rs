//! The host for JavaScript functions: the cost of `log.audit` within a function, and the rates of
//! cached results and of mutations over HTTP.

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

use super::release::processor_time;
use crate::contest::{Contest, Row, Side, Spread, Target, Unit};

/// A query that logs a body of about 1 KB repeatedly, almost as often as one function may.
const MODULE: &str = r#"
import { log } from "convex/server";
import { mutation, query } from "./_generated/server";
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
export const create = mutation(async (ctx) => {
  await log.audit({ action: "document.created", ip: log.vars.ip, userAgent: log.vars.userAgent, at: log.vars.now });
  return await ctx.db.insert("documents", { title: TITLE, text: TEXT, tags: ["plan", "draft"] });
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

/// The time of one `log.audit`, from JavaScript to JavaScript. With `auditing` the host logs,
/// without it the host does nothing.
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

/// `log.audit` of 1 KB. The module of `log` is the host's own, whether Convex's package is
/// installed or not.
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

const CLIENTS: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Asked {
    path: &'static str,
    body: &'static str,
}

const CACHED: Asked =
    Asked { path: "/api/query", body: r#"{"path":"bench:cached","args":{},"format":"json"}"# };
const CREATE: Asked =
    Asked { path: "/api/mutation", body: r#"{"path":"bench:create","args":{},"format":"json"}"# };

fn threads() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("threads")
}

/// A sink with a journal in this directory, which delivers nothing during the measurement.
async fn journaled(directory: PathBuf) -> Arc<dyn AuditSink> {
    let journal = JournalSettings { cut_after_ms: 86_400_000, ..JournalSettings::new(directory) };
    let settings = Settings { journal: Some(journal), ..Settings::default() };
    let bucket = Bucket::open("memory:///").expect("a bucket");
    Arc::new(S3Sink::builder(bucket).with_settings(settings).open().await.expect("a sink"))
}

fn median(values: Vec<f64>) -> f64 {
    Spread::of(values).median
}

/// Cached results over HTTP, each sent after its log is durable, compared with the same host and a
/// sink that discards logs. The clients run in the same process, on the same cores.
pub fn cache_hits(directory: &Path, time: Duration, rounds: u32) -> Row {
    let (mut durable, mut discarded) = (Vec::new(), Vec::new());
    threads().block_on(async {
        let sink = journaled(directory.join("hits-journal")).await;
        let settings = FunctionSettings::default;
        let durably = served(&directory.join("hits-durable"), sink, settings()).await;
        let null = Arc::new(NullSink::new());
        let null = served(&directory.join("hits-null"), null, settings()).await;
        // Warms up.
        for address in [durably, null] {
            rate(address, CACHED, time / 4).await;
        }
        for _ in 0..rounds {
            durable.push(rate(durably, CACHED, time).await);
            discarded.push(rate(null, CACHED, time).await);
        }
    });
    Row::counted(
        format!("cache hits over HTTP, logged and durable, {CLIENTS} clients"),
        median(durable),
        Unit::PerSecond,
    )
    .beside("logs discarded", median(discarded))
    .with_target(Target::PerSecond(10_000.0))
    .with_note("clients and host share the machine's cores")
}

/// Mutations over HTTP that log and create a document, compared with the same host when it starts
/// an engine for each call: their rate, and the processor time of one. Clients included.
pub fn mutations(directory: &Path, time: Duration, rounds: u32) -> Vec<Row> {
    let mut rates = [Vec::new(), Vec::new()];
    let mut costs = [Vec::new(), Vec::new()];
    threads().block_on(async {
        let mut hosts = Vec::new();
        for kept_engine_bytes in [FunctionSettings::default().kept_engine_bytes, 0] {
            let at = directory.join(format!("mutations-{kept_engine_bytes}"));
            let sink = journaled(at.join("journal")).await;
            let settings = FunctionSettings { kept_engine_bytes, ..FunctionSettings::default() };
            hosts.push(served(&at, sink, settings).await);
        }
        for round in 0..=rounds {
            for (side, &address) in hosts.iter().enumerate() {
                let before = processor_time();
                let rate = rate(address, CREATE, time).await;
                let took = (processor_time() - before).as_secs_f64();
                // The first round warms up.
                if round > 0 {
                    rates[side].push(rate);
                    costs[side].push(took / (rate * time.as_secs_f64()));
                }
            }
        }
    });
    let [kept, new] = rates.map(median);
    let [kept_cost, new_cost] = costs.map(median);
    let other = "an engine for each call";
    let mut rows = vec![
        Row::counted(
            format!("mutations over HTTP, logged and durable, {CLIENTS} clients"),
            kept,
            Unit::PerSecond,
        )
        .beside(other, new)
        .with_target(Target::TimesAsFast(2.0)),
    ];
    if kept_cost > 0.0 {
        let row = Row::counted("processor time of such a mutation", kept_cost, Unit::Seconds);
        rows.push(row.beside(other, new_cost).with_note("of all cores, clients included"));
    }
    rows
}

async fn served(
    directory: &Path,
    sink: Arc<dyn AuditSink>,
    settings: FunctionSettings,
) -> SocketAddr {
    let functions = directory_of_functions(directory);
    let program = Program::load(&functions, &Env::default()).expect("the functions load");
    let store = Store::open(&directory.join("store")).expect("a store");
    let functions =
        Functions::start(runtime(sink), store, program, settings).await.expect("a host");
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
async fn rate(address: SocketAddr, asked: Asked, time: Duration) -> f64 {
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
                    ask(&mut stream, asked, &mut buffer).await;
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
async fn ask(stream: &mut TcpStream, Asked { path, body }: Asked, buffer: &mut Vec<u8>) {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nuser-agent: bench\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
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

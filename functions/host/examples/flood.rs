//! Measures the latency of one client while three others flood the host over HTTP or WebSocket.
//!
//! ```sh
//! cargo build --release -p functions-host -p audit-service
//! cargo run --release -p functions-host --example flood
//! cargo run --release -p functions-host --example flood -- service
//! ```
//!
//! With `service`, the host is the web service, and clients view documents or change them. A probe
//! beside views shows how much of a view's latency is that of busy processors.
//!
//! One client, in a process of its own, calls a short query repeatedly, with different arguments
//! each time, so that no result comes from the cache. Three flooding clients, each at an address of
//! its own, do the same, and keep 64 calls in flight each: either as short as that query, or of
//! about 20 ms.
//!
//! The clients would be on other machines, where they would not compete with the host for its
//! processors. So the flooding clients have the lowest priority (`AUDIT_FLOOD_NICE=0` gives them
//! the host's) and use as little time as they can, and the measuring client has real-time priority,
//! where this process may give it.
//!
//! Quiet and flooded rounds alternate. Measuring starts once each flooding client has received as
//! many answers as it has calls in flight. Linux only: other systems do not have 127.0.0.2.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

const FUNCTIONS: &str = r#"
import { query, mutation } from "./_generated/server";
import { log } from "convex/server";
export const quick = query(async (_ctx, { n }) => { await log.audit({ action: "quick", n }); return n; });
// The clock stands still during a query, so its length is given as a number of steps.
const work = ({ n, steps }) => { let sum = n; for (let i = 0; i < steps; i++) sum = (sum + i) % 1009; return sum; };
export const slow = query(async (_ctx, args) => work(args));
export const change = mutation(async (_ctx, args) => work(args));
"#;

const ROUNDS: usize = 5;
const CALLS: usize = 1_000;
/// More than a flood makes, so that the results of an earlier one are of no use to it.
const FLOODED_CALLS: usize = 1_000_000_000;
const FLOODERS: u8 = 3;
const IN_FLIGHT: usize = 64;
const STEPS: usize = 400_000;
/// Runs a command with real-time priority where that is permitted.
const FIRST: &str = r#"chrt -f 1 true 2>/dev/null && exec chrt -f 1 "$@"; exec "$@""#;
const PAUSE: Duration = Duration::from_secs(2);

type Failure = Box<dyn Error + Send + Sync>;

struct Host(Child, SocketAddr);

impl Host {
    fn start(directory: &std::path::Path, is_service: bool) -> Result<Host, Failure> {
        // The executable is target/<profile>/examples/flood; the host is one directory up.
        let flood = std::env::current_exe()?;
        let host = flood.parent().and_then(|examples| examples.parent());
        let host = host.ok_or("the example is in no directory")?;
        let host = host.join(if is_service { "audit-service" } else { "functions-host" });
        let functions = directory.join("convex");
        std::fs::create_dir(&functions)?;
        std::fs::write(functions.join("flood.js"), FUNCTIONS)?;
        let mut command = Command::new(&host);
        if !is_service {
            command.arg("serve").arg(&functions);
        }
        let started = command
            .args(["--listen", "127.0.0.1:0", "--operators-listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory.join("data"))
            .stdout(Stdio::piped())
            .spawn();
        let mut child = started.map_err(|error| format!("{}: {error}", host.display()))?;
        let out = child.stdout.take().ok_or("no output")?;
        for line in BufReader::new(out).lines() {
            let line = line?;
            if let Some((_, url)) = line.split_once("listening on http://") {
                return Ok(Host(child, url.trim().parse()?));
            }
        }
        Err("the host did not start: build it first, as this file says".into())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

fn client(last: u8) -> Result<reqwest::Client, Failure> {
    let client = reqwest::Client::builder().no_proxy().local_address(address(last));
    Ok(client.build()?)
}

/// The method, path and body of a call of the function `name` with the nth arguments, or of the nth
/// view or change of a document.
fn request(name: &str, n: usize, steps: usize) -> (Method, String, String) {
    match name {
        // Views are of the first documents, which exist.
        "view" => (Method::GET, format!("/documents/{}", n % CALLS), String::new()),
        "probe" => (Method::GET, "/livez".to_owned(), String::new()),
        "change" => {
            let change = json!({ "title": "A title", "text": "x".repeat(1_000) });
            (Method::PUT, format!("/documents/{n}"), change.to_string())
        }
        _ => {
            let args = json!({ "n": n, "steps": steps });
            let call = json!({ "path": format!("flood:{name}"), "args": args });
            (Method::POST, "/api/query".to_owned(), call.to_string())
        }
    }
}

async fn call(
    http: &reqwest::Client,
    host: SocketAddr,
    name: &str,
    n: usize,
) -> Result<bool, Failure> {
    let (method, path, body) = request(name, n, 0);
    let request = http.request(method, format!("http://{host}{path}"));
    let answer = request.header(CONTENT_TYPE, "application/json").body(body).send().await?;
    let is_ok = answer.status().is_success();
    answer.bytes().await?;
    Ok(is_ok)
}

/// Runs the measuring client in a process of its own, and returns its latencies, sorted.
async fn measure(host: SocketAddr, name: &str, from: usize) -> Result<Vec<Duration>, Failure> {
    let client = tokio::process::Command::new("sh")
        .args(["-c", FIRST, "sh"])
        .arg(std::env::current_exe()?)
        .args([host.to_string(), name.to_owned(), from.to_string()])
        .output()
        .await?;
    if !client.status.success() {
        let why = String::from_utf8_lossy(&client.stderr);
        return Err(format!("the quick client failed: {}", why.trim_end()).into());
    }
    let times = String::from_utf8(client.stdout)?;
    times.lines().map(|us| Ok(Duration::from_micros(us.parse()?))).collect()
}

/// Makes a short call [`CALLS`] times in sequence, and returns the latencies, sorted.
async fn call_quickly(host: SocketAddr, name: &str, from: usize) -> Result<Vec<Duration>, Failure> {
    let http = client(9)?;
    let mut times = Vec::new();
    for n in from..from + CALLS {
        let begin = Instant::now();
        if !call(&http, host, name, n).await? {
            return Err("a quick call was refused".into());
        }
        times.push(begin.elapsed());
    }
    times.sort();
    Ok(times)
}

async fn flood_http(
    host: SocketAddr,
    last: u8,
    name: String,
    steps: usize,
    from: usize,
    answers: Arc<Semaphore>,
) -> Result<(), Failure> {
    let mut calls = JoinSet::new();
    for number in 0..IN_FLIGHT {
        let (answers, name) = (Arc::clone(&answers), name.clone());
        calls.spawn(async move {
            let mut connection = None;
            for n in (from + usize::from(last) * IN_FLIGHT + number..).step_by(1_000) {
                // The next call follows whether or not this one was refused.
                let request = request(&name, n, steps);
                if call_cheaply(&mut connection, host, last, request).await.is_err() {
                    connection = None;
                }
                answers.add_permits(1);
            }
        });
    }
    while calls.join_next().await.is_some() {}
    Ok(())
}

/// Makes a call on a connection of its own, at a small part of a client library's cost.
async fn call_cheaply(
    connection: &mut Option<BufStream<TcpStream>>,
    host: SocketAddr,
    last: u8,
    (method, path, body): (Method, String, String),
) -> Result<(), Failure> {
    if connection.is_none() {
        let socket = TcpSocket::new_v4()?;
        socket.bind((address(last), 0).into())?;
        *connection = Some(BufStream::new(socket.connect(host).await?));
    }
    let stream = connection.as_mut().ok_or("no connection")?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut length = 0;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err("the host closed".into());
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(())
}

async fn flood_socket(
    host: SocketAddr,
    last: u8,
    steps: usize,
    answers: Arc<Semaphore>,
) -> Result<(), Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((address(last), 0).into())?;
    let stream = socket.connect(host).await?;
    let url = format!("ws://{host}/api/sync");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await?;
    // A new session each time: the host answers request numbers that it has seen from memory.
    let session = format!("00000000-0000-4000-8000-{last:04x}{:08x}", std::process::id());
    let connect = json!({ "type": "Connect", "sessionId": session, "connectionCount": 0,
        "lastCloseReason": "InitialConnect", "clientTs": 0 });
    socket.send(Message::text(connect.to_string())).await?;
    for number in 0.. {
        let mutation = json!({ "type": "Mutation", "requestId": number,
            "udfPath": "flood:change", "args": [{ "n": number, "steps": steps }] });
        socket.send(Message::text(mutation.to_string())).await?;
        if number < IN_FLIGHT {
            continue;
        }
        while !socket.next().await.ok_or("the host closed")??.to_text()?.contains("MutationResp") {}
        answers.add_permits(1);
    }
    Ok(())
}

fn shown(sorted: &[Duration], part: f64) -> f64 {
    let at = ((sorted.len() - 1) as f64 * part).round() as usize;
    sorted[at].as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A process with the flooding clients, which ends when it is dropped.
struct Flood(tokio::process::Child);

impl Flood {
    /// Starts the clients, and returns once each has received an answer for each call in flight.
    async fn start(
        host: SocketAddr,
        way: &str,
        name: &str,
        steps: usize,
        from: usize,
    ) -> Result<Flood, Failure> {
        let nice = std::env::var("AUDIT_FLOOD_NICE").unwrap_or_else(|_| "19".into());
        let mut flood = tokio::process::Command::new("nice")
            .args(["-n", &nice])
            .arg(std::env::current_exe()?)
            .args([host.to_string(), way.to_owned(), name.to_owned()])
            .args([steps.to_string(), from.to_string()])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = flood.stdout.take().ok_or("no output")?;
        let mut line = String::new();
        tokio::io::BufReader::new(out).read_line(&mut line).await?;
        match line.trim() {
            "flooding" => Ok(Flood(flood)),
            _ => Err("the flooding clients failed".into()),
        }
    }

    async fn end(mut self) -> Result<(), Failure> {
        if self.0.try_wait()?.is_some() {
            return Err("a flood ended".into());
        }
        Ok(self.0.kill().await?)
    }
}

/// Floods the host until this process is killed.
async fn flood(
    host: SocketAddr,
    way: &str,
    name: String,
    steps: usize,
    from: usize,
) -> Result<(), Failure> {
    let mut flooders = JoinSet::new();
    let mut floods = Vec::new();
    for last in 2..2 + FLOODERS {
        let answers = Arc::new(Semaphore::new(0));
        floods.push(Arc::clone(&answers));
        match way {
            "HTTP" => {
                drop(flooders.spawn(flood_http(host, last, name.clone(), steps, from, answers)))
            }
            _ => drop(flooders.spawn(flood_socket(host, last, steps, answers))),
        }
    }
    for answers in floods {
        answers.acquire_many(u32::try_from(IN_FLIGHT)?).await?.forget();
    }
    println!("flooding");
    flooders.join_next().await.ok_or("no flood")??
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, host, way, name, steps, from] = &arguments[..] {
        let (steps, from) = (steps.parse()?, from.parse()?);
        return flood(host.parse()?, way, name.clone(), steps, from).await;
    }
    if let [_, host, name, from] = &arguments[..] {
        for time in call_quickly(host.parse()?, name, from.parse()?).await? {
            println!("{}", time.as_micros());
        }
        return Ok(());
    }
    let is_service = arguments.get(1).is_some_and(|host| host == "service");
    let directory = tempfile::tempdir()?;
    let host = Host::start(directory.path(), is_service)?;
    let at = host.1;
    let (mut from, mut flooded_from) = (CALLS, 0);
    // How the other clients flood, with which calls of how many steps, and which call is measured.
    let ways: &[(&str, &str, usize, &str)] = match is_service {
        false => &[
            ("HTTP", "slow", 0, "quick"),
            ("WebSocket", "change", 0, "quick"),
            ("HTTP", "slow", STEPS, "quick"),
            ("WebSocket", "change", STEPS, "quick"),
        ],
        true => &[
            ("HTTP", "view", 0, "view"),
            // A probe needs no turn, no database and no log: it shows what the flood takes of the
            // processors alone.
            ("HTTP", "view", 0, "probe"),
            ("HTTP", "change", 0, "view"),
            ("HTTP", "change", 0, "change"),
        ],
    };
    measure(at, if is_service { "change" } else { "quick" }, 0).await?;
    for &(way, flooding, steps, quick) in ways {
        let mut ratios = Vec::new();
        let calls = if steps == 0 { "short calls" } else { "calls of some 20 ms" };
        println!(
            "three clients flood over {way} with {flooding}, {IN_FLIGHT} {calls} in flight each"
        );
        println!("  one calls {quick}");
        for _ in 0..ROUNDS {
            let quiet = measure(at, quick, from).await?;
            let flood = Flood::start(at, way, flooding, steps, flooded_from).await?;
            let flooded = measure(at, quick, from + CALLS).await?;
            flood.end().await?;
            flooded_from += FLOODED_CALLS;
            // Mutations that are running continue without their callers.
            tokio::time::sleep(PAUSE).await;
            from += 2 * CALLS;
            let ratio = shown(&flooded, 0.99) / shown(&quiet, 0.99);
            println!(
                "  quiet p50 {:.1} p99 {:.1} ms, flooded p50 {:.1} p99 {:.1} ms, p99 {ratio:.2} x",
                shown(&quiet, 0.5),
                shown(&quiet, 0.99),
                shown(&flooded, 0.5),
                shown(&flooded, 0.99),
            );
            ratios.push(ratio);
        }
        let (least, most) = ratios.iter().fold((f64::MAX, f64::MIN), |(least, most), ratio| {
            (least.min(*ratio), most.max(*ratio))
        });
        println!("  median {:.2} x ({least:.2} to {most:.2})", median(ratios));
    }
    Ok(())
}

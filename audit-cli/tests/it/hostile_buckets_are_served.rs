//! The commands that run until they are stopped, and those that send records: whatever lies in a
//! bucket, they read everything else, and name what is strange.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Stdio};

use audit_core::{Clock, SystemClock};
use audit_sink_s3::layout::Partition;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::hostile_buckets_are_read::{Ran, Store, restricted, run};
use crate::receiver::Receiver;

/// What a bucket holds and how it is to be read.
pub(crate) struct Expected<'a> {
    pub(crate) store: &'a Store<'a>,
    pub(crate) key: &'a str,
    pub(crate) stream: &'a str,
    /// The numbers of the records that can be read.
    pub(crate) numbers: &'a [usize],
    /// Parts of the names of damaged objects.
    pub(crate) damaged: Vec<String>,
    /// Whether records cannot be read.
    pub(crate) lacks: bool,
    /// Whether evidence cannot be read.
    pub(crate) lacks_evidence: bool,
}

/// A command that runs until this is dropped, or two minutes.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(arguments: &[&str], environment: &[(&'static str, String)]) -> Running {
        let mut command = restricted(arguments, environment);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { child, out }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        if self.out.read_line(&mut line).unwrap() == 0 {
            let mut said = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            return Err(format!("it ended: {said}"));
        }
        Ok(line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The child is `timeout`, which would leave the command behind.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The page of `audit serve`.
pub(crate) struct Page {
    address: String,
    cookie: String,
    _running: Running,
}

pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Whether the body has its end.
    pub(crate) is_whole: bool,
}

impl Page {
    pub(crate) fn open(
        bucket: &str,
        key: &str,
        environment: &[(&'static str, String)],
    ) -> Result<Page, String> {
        let arguments = ["serve", bucket, "--key", key, "--listen", "127.0.0.1:0"];
        let mut running = Running::start(&arguments, environment);
        let first = running.line()?;
        let (_, rest) = first.split_once("http://").ok_or("no address")?;
        let (address, token) = rest.trim().split_once("/?token=").ok_or("no token")?;
        let (address, token) = (address.to_owned(), token.to_owned());
        let mut page = Page { address, cookie: String::new(), _running: running };
        let admitted = page.get(&format!("/?token={token}"));
        let (_, cookie) = admitted.head.split_once("set-cookie: ").ok_or("no cookie")?;
        page.cookie = cookie.split(';').next().unwrap().to_owned();
        Ok(page)
    }

    /// The result of the verification, once it has ended.
    pub(crate) fn integrity(&self) -> Value {
        loop {
            let integrity = self.get("/api/integrity");
            let integrity: Value = serde_json::from_slice(&integrity.body).unwrap();
            if integrity["state"] != "running" {
                return integrity;
            }
            std::thread::yield_now();
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let (host, cookie) = (&self.address, &self.cookie);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The server may cut the connection off.
        let _ = stream.read_to_end(&mut answer);
        let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(answer[..at].to_vec()).unwrap();
        let (body, is_whole) = match head.contains("transfer-encoding: chunked") {
            true => whole(&answer[at..]),
            false => (answer[at..].to_vec(), true),
        };
        Answer { head, body, is_whole }
    }
}

/// The chunks of a body, and whether it has its end.
fn whole(mut chunks: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(at) = chunks.windows(2).position(|two| two == b"\r\n") {
        let length = std::str::from_utf8(&chunks[..at]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return (body, true);
        }
        let Some(chunk) = chunks.get(at + 2..at + 2 + length) else { break };
        body.extend_from_slice(chunk);
        chunks = chunks.get(at + 4 + length..).unwrap_or_default();
    }
    (body, false)
}

pub(crate) fn lines(bytes: &[u8]) -> Vec<Value> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

fn has_all(what: &str, numbers: &[usize], found: impl Iterator<Item = u64>) -> Result<(), String> {
    let found: std::collections::HashSet<u64> = found.collect();
    match numbers.iter().find(|number| !found.contains(&(**number as u64))) {
        None => Ok(()),
        Some(missing) => Err(format!("{what} lacks {missing}")),
    }
}

/// Checks each command. Returns the first fault.
pub(crate) async fn check(expected: Expected<'_>) -> Result<(), String> {
    page(&expected).map_err(|fault| format!("serve: {fault}"))?;
    replay(&expected).await.map_err(|fault| format!("replay: {fault}"))?;
    tail(&expected).map_err(|fault| format!("tail -f: {fault}"))
}

fn page(expected: &Expected<'_>) -> Result<(), String> {
    let Expected { store, numbers, damaged, lacks, .. } = expected;
    let page = Page::open(store.bucket, expected.key, &store.environment)?;
    let overview = page.get("/api/overview");
    if !overview.head.starts_with("HTTP/1.1 200") {
        return Err(format!("overview: {}", overview.head));
    }
    let scanned = page.get("/api/scan?rows=1000&column=/n");
    let scanned = lines(&scanned.body);
    let end = scanned.last().ok_or("no answer")?;
    let is_incomplete = *lacks || !damaged.is_empty();
    if (&end["kind"], &end["incomplete"]) != (&"end".into(), &is_incomplete.into()) {
        return Err(format!("scan: {end}"));
    }
    let of = |kind: &str| {
        let kind = kind.to_owned();
        scanned.iter().filter(move |line| line["kind"] == *kind)
    };
    let rows = of("rows").flat_map(|line| line["rows"].as_array().unwrap());
    has_all("scan", numbers, rows.filter_map(|row| row["cells"][0].as_str()?.parse().ok()))?;
    let named: String = of("damage").map(Value::to_string).collect();
    if let Some(unnamed) = damaged.iter().find(|object| !named.contains(*object)) {
        return Err(format!("scan does not name {unnamed}: {named}"));
    }
    for (partial, name) in [("", "audit.ndjson"), ("&partial=1", "audit-incomplete.ndjson")] {
        let file = page.get(&format!("/api/export?format=ndjson{partial}"));
        if !file.head.contains(&format!("\"{name}\"")) {
            return Err(format!("export{partial}: {}", file.head));
        }
        if file.is_whole != (!is_incomplete || !partial.is_empty()) {
            return Err(format!("export{partial}: whole: {}", file.is_whole));
        }
        if !file.is_whole {
            // The last bytes before the connection is cut off may be lost.
            continue;
        }
        let found = lines(&file.body);
        has_all("export", numbers, found.iter().filter_map(|line| line["n"].as_u64()))?;
    }
    let integrity = page.integrity();
    let says_so = integrity["unread"] != 0 || !integrity["unlisted"].is_null();
    if integrity["state"] != "done" || says_so != (*lacks || expected.lacks_evidence) {
        return Err(format!("integrity: {integrity}"));
    }
    Ok(())
}

async fn replay(expected: &Expected<'_>) -> Result<(), String> {
    let store = expected.store;
    let (receiver, url) = Receiver::start().await;
    receiver.take(u64::MAX, false);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("streams.toml");
    let stream = format!(
        "[[log_stream]]\nname = \"siem\"\nurl = \"{url}\"\nformat = \"ndjson\"\n\
         allow_http = true\nallow_private_addresses = true\n"
    );
    fs::write(&file, stream).unwrap();
    let [file, aside] = [file, directory.path().join("aside")].map(|path| path.into_os_string());
    let from = format!("{}:0", expected.stream);
    let mut arguments = ["replay", store.bucket, "--from", &from].map(Into::into).to_vec();
    arguments.extend(["--log-streams".into(), file, "--dead-letters".into(), aside]);
    let environment = store.environment.clone();
    let ran = tokio::task::spawn_blocking(move || run(&arguments, &environment));
    let ran: Ran = ran.await.unwrap();
    // `replay` reads only the objects of its stream.
    let codes: &[_] = if expected.lacks { &[Some(1)] } else { &[Some(0), Some(1)] };
    if !codes.contains(&ran.code) {
        return Err(format!("{ran:?}"));
    }
    let accepted = receiver.accepted.lock().unwrap();
    let numbers = accepted.iter().flatten().filter_map(|record| record["body"]["n"].as_u64());
    has_all("what arrived", expected.numbers, numbers).map_err(|fault| format!("{fault}: {ran:?}"))
}

/// Prints what is there, and then what comes.
fn tail(expected: &Expected<'_>) -> Result<(), String> {
    let store = expected.store;
    let arguments = ["tail", "-f", "-n", "1000", "--interval-ms", "10", store.bucket];
    let mut running = Running::start(&arguments, &store.environment);
    let mut wanted: std::collections::HashSet<usize> = expected.numbers.iter().copied().collect();
    while !wanted.is_empty() {
        let line: Value = serde_json::from_str(&running.line()?).unwrap_or_default();
        line["n"].as_u64().map(|number| wanted.remove(&(number as usize)));
    }
    let hour = Partition::hour_of(SystemClock.now_ms());
    let key = format!("{hour}/00000000000000000000000099-000000000000.ndjson");
    (store.put)(&key, b"{\"n\":999}\n");
    while !running.line()?.starts_with("{\"n\":999}") {}
    (store.remove)(&key);
    Ok(())
}

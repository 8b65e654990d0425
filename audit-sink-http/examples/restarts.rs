//! A receiver that is killed and restarted under 10,000 records a second misses none, and
//! recognizes every repeated record by its id. Prints the latency of records.
//!
//! ```sh
//! cargo run --release -p audit-sink-http --example restarts -- 20
//! ```
//!
//! The argument is the duration in seconds. The receiver is another process, which writes records
//! to a file before it answers. It is killed three times, for 300 ms each.
#![allow(clippy::unwrap_used, reason = "a measurement fails by panicking")]

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::{AuditSink, Batch, Clock, SystemClock};
use audit_sink_http::{Format, HttpSink, JournalSettings, Settings};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, sleep};

const CALLERS: u64 = 10;
/// The number of records that each caller persists every 10 ms.
const RECORDS: u64 = 10;
const TICK: Duration = Duration::from_millis(10);
const AWAY: Duration = Duration::from_millis(300);
/// Records made within this time after the receiver was killed count as delayed by that.
const DISTURBED_MS: i64 = 1_300;

#[derive(Deserialize)]
struct Line {
    stream: String,
    sequence: u64,
    timestamp: i64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match &arguments[..] {
        [mode, address, file] if mode == "receive" => runtime.block_on(receive(address, file)),
        rest => {
            let seconds = rest.first().map_or(20, |text| text.parse().unwrap());
            runtime.block_on(measure(seconds));
        }
    }
}

/// The receiver, which writes ids and delays to a file before it answers.
async fn receive(address: &str, file: &str) {
    let listener = loop {
        match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    let file = Arc::new(Mutex::new(file));
    while let Ok((mut stream, _)) = listener.accept().await {
        let file = Arc::clone(&file);
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            loop {
                let end = loop {
                    if let Some(at) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                        break at + 4;
                    }
                    if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                        return;
                    }
                };
                let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
                let (_, length) = head.split_once("content-length: ").unwrap();
                let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
                while buffer.len() < end + length {
                    if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let now_ms = SystemClock.now_ms();
                let mut kept = String::new();
                for line in buffer[end..end + length].split(|byte| *byte == b'\n') {
                    if line.is_empty() {
                        continue;
                    }
                    let Line { stream, sequence, timestamp } =
                        serde_json::from_slice(line).unwrap();
                    let lag_ms = now_ms - timestamp;
                    kept.push_str(&format!("{stream} {sequence} {timestamp} {lag_ms}\n"));
                }
                file.lock().unwrap().write_all(kept.as_bytes()).unwrap();
                buffer.drain(..end + length);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn start(address: &str, file: &Path) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new(program).args(["receive", address]).arg(file).spawn().unwrap()
}

async fn measure(seconds: u64) {
    let directory = tempfile::tempdir().unwrap();
    let file: PathBuf = directory.path().join("received");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut receiver = start(&address, &file);
    let settings = Settings {
        allow_private_addresses: true,
        journal: Some(JournalSettings {
            cut_after_ms: 200,
            ..JournalSettings::new(directory.path().join("journal"))
        }),
        dead_letters: Some(directory.path().join("aside")),
        ..Settings::new(format!("http://{address}/"), Format::Ndjson)
    };
    let sink = Arc::new(HttpSink::open(settings).await.unwrap());

    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move {
                let mut ticks = interval(TICK);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let mut places = Vec::new();
                for tick in 0..seconds * 100 {
                    ticks.tick().await;
                    let line = |n| format!("{{\"caller\":{caller},\"tick\":{tick},\"n\":{n}}}\n");
                    let lines: String = (0..RECORDS).map(line).collect();
                    let batch = Batch::from_lines(SystemClock.now_ms(), lines.into()).unwrap();
                    places.push(sink.persist(batch).await.unwrap().place.unwrap());
                }
                places
            })
        })
        .collect();
    let mut deaths = Vec::new();
    for _ in 0..3 {
        sleep(Duration::from_secs(seconds) / 4).await;
        receiver.kill().unwrap();
        receiver.wait().unwrap();
        deaths.push(SystemClock.now_ms());
        sleep(AWAY).await;
        receiver = start(&address, &file);
    }
    let mut acknowledged = Vec::new();
    for caller in callers {
        for place in caller.await.unwrap() {
            let numbers = place.first_sequence..place.first_sequence + u64::from(place.count);
            acknowledged.extend(numbers.map(|number| (place.stream.to_string(), number)));
        }
    }
    sink.close().await.unwrap();
    receiver.kill().unwrap();
    receiver.wait().unwrap();

    let text = std::fs::read_to_string(&file).unwrap();
    let mut received: HashMap<(String, u64), (i64, i64, u64)> = HashMap::new();
    for line in text.lines() {
        let mut parts = line.split(' ');
        let id = (parts.next().unwrap().to_owned(), parts.next().unwrap().parse().unwrap());
        let time_ms = parts.next().unwrap().parse().unwrap();
        let lag_ms = parts.next().unwrap().parse().unwrap();
        received.entry(id).or_insert((time_ms, lag_ms, 0)).2 += 1;
    }
    let missing = acknowledged.iter().filter(|id| !received.contains_key(*id)).count();
    let repeats: u64 = received.values().map(|(_, _, times)| times - 1).sum();
    let lags = |is_wanted: &dyn Fn(i64) -> bool| {
        let wanted = received.values().filter(|(time_ms, ..)| is_wanted(*time_ms));
        let mut lags: Vec<i64> = wanted.map(|(_, lag_ms, _)| *lag_ms).collect();
        lags.sort_unstable();
        let at = |percent: usize| lags.get(lags.len() * percent / 100).copied().unwrap_or(0);
        (lags.len(), at(50), at(99), lags.last().copied().unwrap_or(0))
    };
    let is_disturbed =
        |time_ms: i64| deaths.iter().any(|d| (*d - 1_000..*d + DISTURBED_MS).contains(&time_ms));
    println!("{} records acknowledged, {missing} missing", acknowledged.len());
    println!("{} received, {repeats} repeats, each told by its id", received.len());
    for (what, (count, p50, p99, most)) in [
        ("all", lags(&|_| true)),
        ("not within a second of a death", lags(&|time_ms| !is_disturbed(time_ms))),
    ] {
        println!("lag of {count} records ({what}): p50 {p50} ms, p99 {p99} ms, most {most} ms");
    }
    assert_eq!(missing, 0, "records are missing");
    assert_eq!(received.len(), acknowledged.len(), "records that nobody logged");
}

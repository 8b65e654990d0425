//! A load, a receiver that is killed under it, and what must hold afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::{AuditSink, Batch, Clock, SystemClock};
use audit_sink_http::{Format, HttpSink, JournalSettings, Settings};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

const DEATHS: u64 = 3;
const CALLERS: u64 = 10;
/// The number of records that each caller persists every 10 ms.
const RECORDS: u64 = 10;
const TICK: Duration = Duration::from_millis(10);
/// Records made within this time after the receiver was killed count as delayed by that.
const DISTURBED_MS: i64 = 1_300;
const TARGET_MS: i64 = 1_000;
/// The end of each line that the receiver has written as a whole.
const END: &str = " .";

/// Stream and sequence.
type Id = (String, u64);

#[derive(Deserialize)]
struct Record {
    stream: String,
    sequence: u64,
    timestamp: i64,
    body: Box<RawValue>,
}

/// The receiver. It writes records to a file before it answers. Once it reads a line of standard
/// input, it writes the records of the next request, says how many there are, and never answers.
/// It ends with standard input.
pub(crate) async fn receive(address: &str, file: &Path) {
    let listener = loop {
        match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => break listener,
            // Another process may have been given the port for a moment.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    // The receiver before may have died within a line.
    file.write_all(b"\n").unwrap();
    let (file, holds) = (Arc::new(Mutex::new(file)), Arc::new(AtomicBool::new(false)));
    let (ended, end) = oneshot::channel::<()>();
    let told = Arc::clone(&holds);
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lines();
        while let Some(Ok(_)) = lines.next() {
            told.store(true, Ordering::SeqCst);
        }
        drop(ended);
    });
    let serving = async {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&file), Arc::clone(&holds)));
        }
    };
    tokio::select! {
        _ = end => {}
        () = serving => {}
    }
}

async fn serve(mut stream: TcpStream, file: Arc<Mutex<std::fs::File>>, holds: Arc<AtomicBool>) {
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
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let length: usize = header("content-length: ").trim().parse().unwrap();
        let request = header("webhook-id: ").trim();
        while buffer.len() < end + length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let now_ms = SystemClock.now_ms();
        let (mut kept, mut count) = (String::new(), 0);
        for line in buffer[end..end + length].split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let Record { stream, sequence, timestamp, body } =
                serde_json::from_slice(line).unwrap();
            let lag_ms = now_ms - timestamp;
            kept += &format!("{stream} {sequence} {timestamp} {lag_ms} {request} {body}{END}\n");
            count += 1;
        }
        file.lock().unwrap().write_all(kept.as_bytes()).unwrap();
        if holds.load(Ordering::SeqCst) {
            // On a line of its own, whatever a test has printed before.
            println!("\nheld {count}");
            return std::future::pending().await;
        }
        buffer.drain(..end + length);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// Starts a receiver with this address and file.
type Start<'a> = &'a dyn Fn(&str, &Path) -> Command;

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Kills a receiver after it has read a request and before it answers. Returns the number of
/// records in that request.
async fn kill(mut receiver: Child) -> u64 {
    receiver.stdin.as_mut().unwrap().write_all(b"hold\n").unwrap();
    let out = receiver.stdout.take().unwrap();
    let told = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(out).lines().map_while(Result::ok);
        lines.find_map(|line| line.strip_prefix("held ").map(|count| count.parse().unwrap()))
    });
    let held = told.await.unwrap().expect("the receiver reads a request");
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    held
}

/// The first arrival of a record.
#[derive(Debug)]
struct Arrived {
    time_ms: i64,
    lag_ms: i64,
    /// The `webhook-id` of the request.
    request: String,
    body: String,
    times: u64,
}

/// What was logged and what was received.
#[derive(Debug)]
pub(crate) struct Run {
    /// The body of each acknowledged record.
    acknowledged: BTreeMap<Id, String>,
    received: BTreeMap<Id, Arrived>,
    /// How long it took until the last record was acknowledged.
    elapsed: Duration,
    deaths_ms: Vec<i64>,
    /// The number of records that were read and not answered.
    held: u64,
}

impl Run {
    /// Logs for this number of ticks, while the receiver is killed several times and is away each
    /// time.
    pub(crate) async fn of(ticks: u64, away: Duration, command: Start<'_>) -> Run {
        let directory = tempfile::tempdir().unwrap();
        let file: PathBuf = directory.path().join("received");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut receiver = start(&mut command(&address, &file));
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
        let (progress, mut persisted) = watch::channel(0);
        let started = Instant::now();
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| tokio::spawn(log(caller, ticks, Arc::clone(&sink), progress.clone())))
            .collect();
        let (mut deaths_ms, mut held) = (Vec::new(), 0);
        for death in 1..=DEATHS {
            let batches = CALLERS * ticks * death / (DEATHS + 1);
            persisted.wait_for(|count| *count >= batches).await.unwrap();
            held += kill(receiver).await;
            deaths_ms.push(SystemClock.now_ms());
            sleep(away).await;
            receiver = start(&mut command(&address, &file));
        }
        let mut acknowledged = BTreeMap::new();
        for caller in callers {
            acknowledged.extend(caller.await.unwrap());
        }
        let elapsed = started.elapsed();
        sink.close().await.unwrap();
        receiver.kill().unwrap();
        receiver.wait().unwrap();
        let received = received(&std::fs::read_to_string(&file).unwrap());
        Run { acknowledged, received, elapsed, deaths_ms, held }
    }

    fn missing(&self) -> usize {
        self.acknowledged.keys().filter(|id| !self.received.contains_key(*id)).count()
    }

    fn repeats(&self) -> u64 {
        self.received.values().map(|arrived| arrived.times - 1).sum()
    }

    pub(crate) fn print(&self) {
        let (records, seconds) = (self.acknowledged.len(), self.elapsed.as_secs_f64());
        let rate = records as f64 / seconds;
        println!("{records} records acknowledged in {seconds:.1} s: {rate:.0}/s");
        println!(
            "{DEATHS} times a receiver died after it had read {} records and before it answered",
            self.held
        );
        let (received, repeats) = (self.received.len(), self.repeats());
        println!("{received} received, {} missing, {repeats} repeats", self.missing());
        let disturbed = |time_ms: i64| {
            self.deaths_ms.iter().any(|d| (*d - 1_000..*d + DISTURBED_MS).contains(&time_ms))
        };
        let all = self.lags(|_| true);
        let undisturbed = self.lags(|time_ms| !disturbed(time_ms));
        for (what, lags) in [("all", &all), ("not within a second of a death", &undisturbed)] {
            println!(
                "lag of {} records ({what}): p50 {} ms, p99 {} ms, most {} ms",
                lags.len(),
                percentile(lags, 50),
                percentile(lags, 99),
                percentile(lags, 100)
            );
        }
        let is_met = if percentile(&all, 99) <= TARGET_MS { "met" } else { "missed" };
        println!("target of a p99 of at most {TARGET_MS} ms for all: {is_met}");
    }

    /// The lags of records made at these times, in order.
    fn lags(&self, is_wanted: impl Fn(i64) -> bool) -> Vec<i64> {
        let wanted = self.received.values().filter(|arrived| is_wanted(arrived.time_ms));
        let mut lags: Vec<i64> = wanted.map(|arrived| arrived.lag_ms).collect();
        lags.sort_unstable();
        lags
    }

    /// Checks that no record is missing, each has the id under which it was acknowledged, and those
    /// whose request was not answered were repeated under it.
    pub(crate) fn check(&self) {
        assert_eq!(self.missing(), 0, "records are missing");
        assert_eq!(self.received.len(), self.acknowledged.len(), "records that nobody logged");
        for (id, body) in &self.acknowledged {
            assert_eq!(self.received[id].body, *body, "{id:?} is another record");
        }
        let bodies: BTreeSet<&String> = self.acknowledged.values().collect();
        assert_eq!(bodies.len(), self.acknowledged.len(), "each record is logged once");
        assert!(self.held >= DEATHS && self.repeats() >= self.held, "{} repeats", self.repeats());
    }
}

/// Logs a batch at every tick. Returns the body of each record.
async fn log(
    caller: u64,
    ticks: u64,
    sink: Arc<HttpSink>,
    progress: watch::Sender<u64>,
) -> Vec<(Id, String)> {
    let mut due = interval(TICK);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut logged = Vec::new();
    for tick in 0..ticks {
        due.tick().await;
        let body = |n| format!("{{\"caller\":{caller},\"tick\":{tick},\"n\":{n}}}");
        let bodies: Vec<String> = (0..RECORDS).map(body).collect();
        let lines = bodies.join("\n") + "\n";
        let batch = Batch::from_lines(SystemClock.now_ms(), lines.into()).unwrap();
        let place = sink.persist(batch).await.unwrap().place.unwrap();
        let ids = (place.first_sequence..).map(|number| (place.stream.to_string(), number));
        logged.extend(ids.zip(bodies));
        progress.send_modify(|count| *count += 1);
    }
    logged
}

/// The records in the file. Arrivals of one record must be equal, and in the same request.
fn received(text: &str) -> BTreeMap<Id, Arrived> {
    let mut received = BTreeMap::<Id, Arrived>::new();
    // A line without its end is of a request that was not answered.
    for line in text.lines().filter_map(|line| line.strip_suffix(END)) {
        let [stream, sequence, time_ms, lag_ms, request, body] =
            line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let (time_ms, lag_ms) = (time_ms.parse().unwrap(), lag_ms.parse().unwrap());
        let id = (stream.to_owned(), sequence.parse().unwrap());
        let first = received.entry(id).or_insert_with(|| {
            let (request, body) = (request.to_owned(), body.to_owned());
            Arrived { time_ms, lag_ms, request, body, times: 0 }
        });
        assert_eq!((first.time_ms, &*first.request, &*first.body), (time_ms, request, body));
        first.times += 1;
    }
    received
}

fn percentile(sorted: &[i64], percent: usize) -> i64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0)
}

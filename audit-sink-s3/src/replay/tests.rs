//! A replay is killed at each step and continued: no record is noted before it has arrived, and in
//! the end all records have arrived, in the same requests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use audit_core::{BufferPool, async_trait};
use audit_journal::{Destination, Encoded, Link, Unsealed};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutOptions};
use tokio::sync::Notify;

use super::*;
use crate::health::HealthBoard;
use crate::object::encoded::EncodedObject;
use crate::{Compression, ObjectKey};

/// 2023-11-14T22:00Z.
const HOUR: i64 = 1_699_999_200_000;
const LINES: Encoding = Encoding::new(*b"test");

fn stream(n: u64) -> UniqueId {
    UniqueId::from_bits(u128::from(HOUR.unsigned_abs()) << 80 | u128::from(n))
}

fn line(stream: UniqueId, sequence: u64) -> String {
    format!("{{\"of\":\"{stream}\",\"n\":{sequence}}}")
}

/// A bucket with two streams. Record 7 of the first one is the host's own.
async fn bucket() -> Bucket {
    let bucket = Bucket::from_store(Arc::new(InMemory::new()), "logs");
    let objects = [(1, 0, 7), (1, 8, 5), (1, 13, 9), (2, 0, 4), (2, 4, 4), (2, 8, 1)];
    for (n, first, count) in objects {
        let stream = stream(n);
        let lines: String = (first..first + count).fold(String::new(), |mut lines, sequence| {
            writeln!(lines, "{}", line(stream, sequence)).unwrap();
            lines
        });
        let compression = if n == 1 { Compression::Zstd } else { Compression::None };
        let object = EncodedObject::of_lines(lines.as_bytes(), first, count, compression);
        let time_ms = HOUR + i64::try_from(first).unwrap() * 20 * 60 * 1_000;
        let key = ObjectKey::new(time_ms, stream, first, compression);
        let options = PutOptions { attributes: object.attributes(), ..PutOptions::default() };
        let path = bucket.path(&key.to_string());
        bucket.store().put_opts(&path, object.payload.clone(), options).await.unwrap();
    }
    let system = bucket.path(&ObjectKey::system(HOUR, stream(1), 7).to_string());
    bucket.store().put(&system, "{\"$audit\":{}}\n".into()).await.unwrap();
    bucket
}

/// Kills the process at one of its steps.
#[derive(Debug, Default)]
struct Steps {
    done: Mutex<u64>,
    stop_at: u64,
    stopped: Notify,
}

impl Steps {
    /// Whether the process dies at this step, or is dead.
    fn dies(&self) -> bool {
        let mut done = self.done.lock().unwrap();
        let dies = *done >= self.stop_at;
        *done += 1;
        if dies {
            self.stopped.notify_one();
        }
        dies
    }
}

/// The requests by the place of their first record.
type Requests = BTreeMap<(UniqueId, u64), Vec<u8>>;

#[derive(Debug)]
struct Receiver {
    steps: Steps,
    received: Arc<Mutex<Requests>>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap()
}

#[async_trait]
impl Destination for Receiver {
    fn encoding(&self) -> Encoding {
        LINES
    }

    fn accepts(&self, encoding: Encoding) -> bool {
        encoding == LINES
    }

    fn encode(
        &self,
        _: &Plan,
        link: Option<&Link>,
        records: Records<'_>,
        _: &BufferPool,
    ) -> Unsealed {
        assert!(link.is_none());
        let pieces = vec![bytes::Bytes::copy_from_slice(records.lines)];
        Unsealed { pieces, sha256: [0; 32], seal: None }
    }

    async fn send(&self, plan: &Plan, object: Encoded) -> Delivery {
        if self.steps.dies() {
            std::future::pending::<()>().await;
        }
        let body = object.pieces.concat();
        let place = (plan.stream, plan.first_sequence);
        let before = lock(&self.received).insert(place, body.clone());
        assert!(before.is_none_or(|before| before == body), "another request at {place:?}");
        // The response may be lost.
        if self.steps.dies() {
            std::future::pending::<()>().await;
        }
        Delivery::Delivered
    }

    fn backoff_after_panic(&self, _: u32) -> Duration {
        Duration::ZERO
    }
}

/// The durable state of a replay.
type Log = Mutex<Vec<StreamRecords>>;

/// The wanted records that are not noted as sent.
fn left(wanted: &[StreamRecords], log: &Log) -> Vec<StreamRecords> {
    let log = lock(log);
    let left = wanted.iter().flat_map(|(stream, records)| {
        let noted = log.iter().filter(|(of, _)| of == stream);
        let noted: Vec<_> = noted.map(|(_, noted)| noted.clone()).collect();
        without(records, &noted).into_iter().map(|left| (*stream, left))
    });
    left.collect()
}

/// Replays the remaining records, until it ends or dies at a step.
async fn attempt(
    bucket: &Bucket,
    wanted: &[StreamRecords],
    log: &Log,
    received: &Arc<Mutex<Requests>>,
    (stop_at, at_once, is_hasty): (u64, usize, bool),
) -> Option<Replayed> {
    let steps = Steps { stop_at, ..Steps::default() };
    let receiver = Arc::new(Receiver { steps, received: Arc::clone(received) });
    let follower = Follower {
        name: "siem".to_owned(),
        destination: Arc::<Receiver>::clone(&receiver),
        health: HealthBoard::new("siem".to_owned()),
        max_object_bytes: 150,
        cut_after_ms: 0,
        max_in_flight: at_once,
        max_kept_bytes: None,
    };
    let left = left(wanted, log);
    let steps = &receiver.steps;
    let note = |records: &[StreamRecords]| {
        let died = || io::Error::other("the process has died");
        // The process may die before or after the note is durable.
        let is_dead = steps.dies();
        if is_dead {
            return Err(died());
        }
        lock(log).extend_from_slice(records);
        if steps.dies() { Err(died()) } else { Ok(()) }
    };
    tokio::select! {
        biased;
        replayed = run(bucket, &follower, &left, note, is_hasty) => replayed.ok(),
        () = steps.stopped.notified() => None,
    }
}

fn sequences(ranges: &[StreamRecords]) -> BTreeSet<(UniqueId, u64)> {
    let all = ranges.iter().flat_map(|(stream, records)| records.clone().map(|n| (*stream, n)));
    all.collect()
}

/// The records at the receiver, determined without code of the replay.
fn arrived(received: &Requests) -> Result<BTreeSet<(UniqueId, u64)>, String> {
    let mut arrived = BTreeSet::new();
    for ((stream, first), body) in received {
        for (sequence, sent) in (*first..).zip(std::str::from_utf8(body).unwrap().lines()) {
            if sent != line(*stream, sequence) {
                return Err(format!("{sent} is not record {sequence} of {stream}"));
            }
            if !arrived.insert((*stream, sequence)) {
                return Err(format!("record {sequence} of {stream} is in two requests"));
            }
        }
    }
    Ok(arrived)
}

/// Dies at each step in turn, and continues. Returns the number of steps, or what is wrong.
async fn die_at_each_step(at_once: usize, is_hasty: bool) -> Result<u64, String> {
    let bucket = bucket().await;
    let wanted = [(stream(1), 3..20), (stream(2), 0..9)];
    let own = (stream(1), 7);
    for stop_at in 0.. {
        let (log, received) = (Log::default(), Arc::default());
        let parts = (stop_at, at_once, is_hasty);
        let first = attempt(&bucket, &wanted, &log, &received, parts).await;
        let unnoted = sequences(&left(&wanted, &log));
        let noted = sequences(&wanted).into_iter().filter(|place| !unnoted.contains(place));
        let has = arrived(&lock(&received))?;
        if let Some(early) = noted.into_iter().find(|place| !has.contains(place) && *place != own) {
            return Err(format!("{early:?} is noted, and has not arrived: stopped at {stop_at}"));
        }
        let parts = (u64::MAX, at_once, is_hasty);
        let last = attempt(&bucket, &wanted, &log, &received, parts).await.unwrap();
        let mut expected = sequences(&wanted);
        expected.remove(&own);
        let has = arrived(&lock(&received))?;
        if has != expected || !last.left.is_empty() || !last.unread.is_empty() {
            return Err(format!("stopped at {stop_at}: {last:?}, {has:?} are there"));
        }
        if first.is_some() {
            return if last.records == 0 { Ok(stop_at) } else { Err("sent twice".to_owned()) };
        }
    }
    unreachable!("it ends")
}

#[tokio::test]
async fn replays_that_die_at_any_step_miss_nothing() {
    for at_once in [1, 4] {
        let steps = die_at_each_step(at_once, false).await.unwrap();
        // Two steps for the system record, and four for each request.
        assert!(steps > 30, "{steps} steps with {at_once} at once");
    }
}

#[tokio::test]
async fn a_replay_that_notes_too_early_is_caught() {
    let error = die_at_each_step(1, true).await.unwrap_err();
    assert!(error.contains("is noted, and has not arrived"), "{error}");
}

async fn whole(bucket: &Bucket, wanted: &[StreamRecords]) -> (Replayed, Requests) {
    let (log, received) = (Log::default(), Arc::default());
    let parts = (u64::MAX, 4, false);
    let replayed = attempt(bucket, wanted, &log, &received, parts).await.unwrap();
    let received = lock(&received).clone();
    (replayed, received)
}

#[tokio::test]
async fn records_that_cannot_be_sent_are_named() {
    let bucket = bucket().await;
    let key = |first| {
        let time_ms = HOUR + i64::try_from(first).unwrap() * 20 * 60 * 1_000;
        ObjectKey::new(time_ms, stream(2), first, Compression::None).to_string()
    };
    // One object is missing, and another contradicts its metadata.
    bucket.store().delete(&bucket.path(&key(8))).await.unwrap();
    let path = bucket.path(&key(0));
    let attributes = bucket.store().get(&path).await.unwrap().attributes;
    let options = PutOptions { attributes, ..PutOptions::default() };
    bucket.store().put_opts(&path, "{}\n{}\n{}\n{}\n".into(), options).await.unwrap();
    let (replayed, received) = whole(&bucket, &[(stream(2), 0..9), (stream(3), 2..u64::MAX)]).await;
    assert_eq!(replayed.left, [(stream(2), 0..4), (stream(2), 8..9), (stream(3), 2..u64::MAX)]);
    assert_eq!((replayed.records, replayed.objects), (4, 1));
    assert_eq!(replayed.unread[0].0, key(0));
    assert_eq!(arrived(&received).unwrap().len(), 4);

    // The end of a stream is its last record.
    let (replayed, received) = whole(&bucket, &[(stream(1), 20..u64::MAX)]).await;
    assert_eq!((replayed.records, replayed.left), (2, Vec::new()));
    assert_eq!(received.len(), 1);
}

/// A small object that expands to gigabytes is not held in memory: it is reported, and the records
/// of other objects are sent.
#[tokio::test]
async fn an_object_that_expands_without_end_is_left() {
    let bucket = bucket().await;
    for compression in [Compression::Zstd, Compression::Gzip] {
        // 16 million lines: 48 MB, which would take several hundred MB as separate lines.
        let lines = b"{}\n".repeat(1 << 24);
        let bomb = match compression {
            Compression::Zstd => zstd::encode_all(&lines[..], 3).unwrap(),
            Compression::Gzip | Compression::None => {
                let level = flate2::Compression::default();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                std::io::Write::write_all(&mut encoder, &lines).unwrap();
                encoder.finish().unwrap()
            }
        };
        assert!(bomb.len() < 1 << 20);
        let key = ObjectKey::new(HOUR, stream(1), 0, compression);
        drop(bucket.store().delete(&bucket.path(&key.to_string())).await);
        bucket.store().put(&bucket.path(&key.to_string()), bomb.into()).await.unwrap();
        let (replayed, received) = whole(&bucket, &[(stream(1), 0..22), (stream(2), 0..9)]).await;
        let unread = format!("{:?}", replayed.unread);
        assert!(unread.contains("more than 268435456 bytes"), "{unread}");
        assert!(received.contains_key(&(stream(2), 8)), "{received:?}");
        bucket.store().delete(&bucket.path(&key.to_string())).await.unwrap();
    }
}

//! Writes the buckets with which the page is tested: `desk <directory> [<logs of the large one>]`.
//!
//! - `sound`: three days of a service, with evidence, outcomes and hostile records;
//! - `tampered`: the same with one altered object;
//! - `empty`: nothing;
//! - `large`: a million logs, or the given number, without evidence.
//!
//! Prints the host's verifier key.
#![allow(clippy::unwrap_used, reason = "an example ends with what went wrong")]

use std::fs;
use std::path::Path;

use audit_core::{AuditSink, Batch, UniqueId};
use audit_sink_s3::layout::Compression;
use audit_sink_s3::{Bucket, EvidenceSettings, S3Sink, Settings};
use serde_json::{Value, json};

const HOUR_MS: i64 = 60 * 60 * 1_000;

/// 2026-11-20T00:00:00Z.
const BEGIN_MS: i64 = 1_795_132_800_000;

const HOURS: i64 = 3 * 24;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(arguments.first().expect("desk <directory> [<logs>]"));
    let large: i64 = arguments.get(1).map_or(1_000_000, |logs| logs.parse().unwrap());
    fs::create_dir_all(root.join("empty")).unwrap();

    let evidence = EvidenceSettings {
        key_file: Some(root.join("host.key")),
        ..EvidenceSettings::new("example.com/clinic")
    };
    let settings = Settings {
        linger_ms: 0,
        compression: Compression::None,
        evidence: Some(evidence),
        ..Settings::default()
    };
    let sink = open(&root.join("sound"), settings).await;
    for hour in 0..HOURS {
        let begin_ms = BEGIN_MS + hour * HOUR_MS;
        // Most calls are made during office hours.
        let busy = if (8..18).contains(&(hour % 24)) { 40 } else { 6 };
        let records = (0..busy).flat_map(|n| call(hour * 100 + n, begin_ms + n * HOUR_MS / 41));
        let hostile = (hour == 30).then(|| hostile(begin_ms)).into_iter().flatten();
        persist(&sink, begin_ms, records.chain(hostile)).await;
    }
    sink.close().await.unwrap();
    println!("{}", sink.verifier_key().unwrap());

    copy(&root.join("sound"), &root.join("tampered"));
    let hour = root.join("tampered/dt=2026-11-21/hour=10");
    let object = fs::read_dir(hour).unwrap().next().unwrap().unwrap().path();
    let lines = fs::read_to_string(&object).unwrap();
    fs::write(&object, lines.replacen("\"user3\"", "\"user4\"", 1)).unwrap();

    let settings = Settings { linger_ms: 0, ..Settings::default() };
    let sink = open(&root.join("large"), settings).await;
    const OBJECTS: i64 = 480;
    for object in 0..OBJECTS {
        let begin_ms = BEGIN_MS + object * HOUR_MS / 4;
        let logs = large * object / OBJECTS..large * (object + 1) / OBJECTS;
        let records = logs.map(|n| record(n, begin_ms + n % 900_000, "documents.view", "shown"));
        persist(&sink, begin_ms, records).await;
    }
    sink.close().await.unwrap();
}

async fn open(directory: &Path, settings: Settings) -> S3Sink {
    fs::create_dir_all(directory).unwrap();
    let directory = directory.canonicalize().unwrap();
    let bucket = Bucket::open(&format!("file://{}", directory.display())).unwrap();
    S3Sink::builder(bucket).with_settings(settings).open().await.unwrap()
}

async fn persist(sink: &S3Sink, time_ms: i64, records: impl Iterator<Item = Value>) {
    let lines: String = records.map(|record| format!("{record}\n")).collect();
    if let Ok(batch) = Batch::from_lines(time_ms, lines.into()) {
        sink.persist(batch).await.unwrap();
    }
}

fn record(n: i64, at: i64, action: &str, outcome: &str) -> Value {
    let mixed = n.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    json!({
        "action": action,
        "document": format!("doc{}", mixed / 500 % 40),
        "outcome": outcome,
        "user": format!("user{}", mixed % 9),
        "client": {
            "ip": format!("10.0.{}.{}", mixed % 3, mixed / 7 % 12),
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64)",
            "requestId": format!("{mixed:026X}"),
        },
        "at": at,
    })
}

/// The records of one call, and its outcome.
fn call(n: i64, at: i64) -> Vec<Value> {
    let execution = UniqueId::from_bits(0x0001_9000_0000_0000 + n.cast_unsigned() as u128);
    let execution = execution.to_string();
    let (function, kind) = match n % 4 {
        0 => ("documents:update", "mutation"),
        _ => ("documents:view", "query"),
    };
    let mut shown = match n % 4 {
        0 => record(n, at, "documents.update", "to be committed"),
        _ if n % 13 == 7 => record(n, at, "documents.view", "not found"),
        _ => record(n, at, "documents.view", "shown"),
    };
    shown["$audit"] = json!({
        "execution": execution, "attempt": 1, "function": function, "kind": kind, "replay": false,
    });
    let mut records = vec![shown];
    if kind == "mutation" {
        let mut check = record(n, at, "documents.check", "shown");
        check["$audit"] = records[0]["$audit"].clone();
        records.push(check);
        let outcome = if n % 20 == 0 { "conflict" } else { "committed" };
        let audit = json!({ "execution": execution, "attempt": 1, "outcome": outcome });
        records.push(json!({ "$audit": audit }));
    }
    records
}

/// Records that would harm a page that did not treat them as plain text.
fn hostile(at: i64) -> Vec<Value> {
    let texts = [
        "<img src=x onerror=\"document.title='harmed'\">".to_owned(),
        "</script><script>document.title='harmed'</script>".to_owned(),
        "\u{1b}]0;harmed\u{7}\u{1b}[31mred".to_owned(),
        "\u{202e}gnp.exe\u{2066}\u{200b}".to_owned(),
        "javascript:document.title='harmed'".to_owned(),
        "=HYPERLINK(\"http://example.com\",\"harmed\")".to_owned(),
        "x".repeat(900_000),
    ];
    let records = texts.into_iter().enumerate().map(|(n, text)| {
        let mut record = record(9_999, at + n as i64, "hostile", "shown");
        record["user"] = json!(text);
        record[&text[..text.len().min(40)].to_owned()] = json!(text);
        record
    });
    let mut records: Vec<Value> = records.collect();
    let at = at + i64::try_from(records.len()).unwrap();
    let mut wide = record(9_999, at, "hostile", "shown");
    for n in 0..1_000 {
        wide[format!("member {n:04}")] = json!({ "<b>of</b>": [n, "\u{2066}"] });
    }
    let mut long = record(9_999, at + 1, "hostile", "shown");
    long["<i>".repeat(2_000) + "\u{202e}"] = json!("a long name");
    records.extend([wide, long]);
    records
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => _ = fs::copy(entry.path(), to).unwrap(),
        }
    }
}

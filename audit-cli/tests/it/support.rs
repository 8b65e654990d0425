//! Buckets that the real sink wrote, and the command to run on them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use audit_core::{AuditSink, Batch, Place};
use audit_sink_s3::{Bucket, JournalSettings, S3Sink, Settings};
use s3_testserver::S3TestServer;
use serde_json::Value;

pub(crate) const HOUR_MS: i64 = 60 * 60 * 1_000;

/// 2023-11-14T00:00:00Z.
pub(crate) const DAY: i64 = 1_699_920_000_000;

pub(crate) fn environment(server: &S3TestServer) -> Vec<(&'static str, String)> {
    server.environment().into()
}

pub(crate) fn url(server: &S3TestServer) -> String {
    format!("s3://{}/logs", server.bucket())
}

pub(crate) fn bucket(server: &S3TestServer) -> Bucket {
    let options =
        environment(server).into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    Bucket::open_with(&url(server), options).unwrap()
}

/// The command, with an empty environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_audit"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs `audit` to its end.
pub(crate) async fn audit(environment: &[(&'static str, String)], arguments: &[&str]) -> Ran {
    let mut command = command();
    command.args(arguments).envs(environment.iter().cloned());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    Ran::of(output)
}

#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Ran {
        let Output { status, stdout, stderr } = output;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let ran = Ran { code: status.code(), out: text(stdout), err: text(stderr) };
        assert_eq!(one_in_plural(&ran.out), None);
        assert_eq!(one_in_plural(&ran.err), None);
        ran
    }

    /// The lines of the output. Fails if the run failed.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<&str> {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out.lines().collect()
    }

    pub(crate) fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Finds a count of one with a noun in the plural, such as "1 records".
fn one_in_plural(text: &str) -> Option<(&str, &str)> {
    let words = text
        .lines()
        .filter(|line| !line.starts_with('{'))
        .flat_map(|line| line.split([' ', '(']).zip(line.split([' ', '(']).skip(1)));
    let is_plural = |word: &str| word.len() > 3 && word.ends_with('s') && !word.ends_with("ss");
    words
        .map(|(count, noun)| (count, noun.trim_end_matches([',', ';', '.', ':', ')'])))
        .find(|(count, noun)| *count == "1" && is_plural(noun))
}

/// The smallest segments: each opening writes and reads whole ones.
pub(crate) fn journal(directory: impl Into<PathBuf>) -> JournalSettings {
    JournalSettings { segment_bytes: 33 << 20, ..JournalSettings::new(directory) }
}

pub(crate) fn batch(time_ms: i64, user: &str, count: u32) -> Batch {
    let line =
        |i| format!("{{\"action\":\"view\",\"user\":\"{user}\",\"i\":{i},\"at\":{time_ms}}}\n");
    Batch::from_lines(time_ms, (0..count).map(line).collect::<String>().into()).unwrap()
}

pub(crate) fn object_for_each_batch() -> Settings {
    Settings { linger_ms: 0, ..Settings::default() }
}

/// Writes each batch as an object of one stream. Returns their places.
pub(crate) async fn write(bucket: Bucket, settings: Settings, batches: Vec<Batch>) -> Vec<Place> {
    let sink = S3Sink::builder(bucket).with_settings(settings).open().await.unwrap();
    let mut places = Vec::new();
    for batch in batches {
        places.push(sink.persist(batch).await.unwrap().place.unwrap());
    }
    sink.close().await.unwrap();
    places
}

/// A server whose bucket has `objects` objects of ten records, one for each hour from [`DAY`] on.
pub(crate) async fn hourly(objects: i64) -> (S3TestServer, Vec<Place>) {
    let server = S3TestServer::start().await;
    let batches =
        (0..objects).map(|hour| batch(DAY + hour * HOUR_MS, &format!("user{}", hour % 5), 10));
    let places = write(bucket(&server), object_for_each_batch(), batches.collect()).await;
    (server, places)
}

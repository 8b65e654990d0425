//! Fills a bucket with audit logs like the service's, through the real sink: `fill <bucket URL or
//! "serve"> <logs> [<batches at once>]`. Or fills the journal of a host that is killed before it
//! has delivered any of them: `fill journal:<directory> <logs>`.
//!
//! The logs are spread over thirty days, four batches an hour. Batches written one at a time are an
//! object each; of the usual eight at once, some share an object. With `serve`, the bucket is that
//! of an S3 server in this process, which prints the environment variables for its clients and runs
//! until its standard input ends.
#![allow(clippy::unwrap_used, reason = "an example ends with what went wrong")]

use std::io::Read;

use audit_core::{AuditSink, Batch};
use audit_sink_s3::{Bucket, JournalSettings, S3Sink, Settings};
use futures::{StreamExt, TryStreamExt};
use s3_testserver::S3TestServer;

const HOUR_MS: i64 = 60 * 60 * 1_000;
const OBJECTS: i64 = 30 * 24 * 4;

/// 2026-10-01T00:00:00Z.
const BEGIN_MS: i64 = 1_790_812_800_000;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, logs, at_once @ ..] = &arguments[..] else {
        panic!("fill <bucket URL or \"serve\"> <logs> [<batches at once>]")
    };
    let logs: i64 = logs.parse().unwrap();
    let at_once: usize = at_once.first().map_or(8, |at_once| at_once.parse().unwrap());
    if let Some(directory) = url.strip_prefix("journal:") {
        // Nothing listens on port 1, so no record is delivered.
        let options = [
            ("aws_endpoint", "http://127.0.0.1:1"),
            ("aws_allow_http", "true"),
            ("aws_region", "us-east-1"),
        ];
        let keys = [("aws_access_key_id", "nobody"), ("aws_secret_access_key", "nobody")];
        let nowhere =
            Bucket::open_with("s3://nowhere/logs", options.into_iter().chain(keys)).unwrap();
        let settings =
            Settings { journal: Some(JournalSettings::new(directory)), ..Settings::default() };
        let sink = S3Sink::builder(nowhere).with_settings(settings).open().await.unwrap();
        persist_all(&sink, logs, at_once).await;
        // Ends without closing the sink, as if the process were killed.
        std::process::exit(0);
    }
    if url != "serve" {
        return fill(Bucket::open(url).unwrap(), logs, at_once).await;
    }
    let server = S3TestServer::start().await;
    let url = format!("s3://{}/logs", server.bucket());
    let variables = server.environment();
    let options = variables.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    fill(Bucket::open_with(&url, options).unwrap(), logs, at_once).await;
    for (name, value) in variables {
        println!("export {name}={value}");
    }
    println!("export AUDIT_BUCKET={url}\n");
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap();
}

async fn fill(bucket: Bucket, logs: i64, at_once: usize) {
    let settings = Settings { linger_ms: 0, ..Settings::default() };
    let sink = S3Sink::builder(bucket).with_settings(settings).open().await.unwrap();
    persist_all(&sink, logs, at_once).await;
    sink.close().await.unwrap();
}

async fn persist_all(sink: &S3Sink, logs: i64, at_once: usize) {
    let batches = (0..OBJECTS)
        .map(|object| batch(object, logs * object / OBJECTS..logs * (object + 1) / OBJECTS));
    let persisted =
        futures::stream::iter(batches.flatten()).map(|batch| sink.persist(batch)).buffered(at_once);
    persisted.try_for_each(|_| async { Ok(()) }).await.unwrap();
}

fn batch(object: i64, logs: std::ops::Range<i64>) -> Option<Batch> {
    let time_ms = BEGIN_MS + object * HOUR_MS / 4;
    let lines: String = logs.map(|n| line(n, time_ms + n % 900_000)).collect();
    Batch::from_lines(time_ms, lines.into()).ok()
}

/// A log of about 330 bytes: one of 500 users views one of 2,000 documents, and one view in fifty
/// fails.
fn line(n: i64, at: i64) -> String {
    let mixed = (n.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 16;
    let (user, document) = (mixed % 500, mixed / 500 % 2_000);
    let action = if n % 10 == 0 { "documents.update" } else { "documents.view" };
    let outcome = if n % 50 == 7 { "the document is at revision 3, not at 2" } else { "shown" };
    format!(
        "{{\"action\":\"{action}\",\"document\":\"doc{document}\",\"revision\":{},\"outcome\":\"{outcome}\",\"user\":\"user{user}\",\
         \"client\":{{\"ip\":\"10.{}.{}.{}\",\"userAgent\":\"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/131.0.0.0 Safari/537.36\",\"requestId\":\"{mixed:026X}\"}},\"at\":{at}}}\n",
        mixed % 40,
        mixed % 200,
        mixed / 7 % 250,
        mixed / 11 % 250,
    )
}

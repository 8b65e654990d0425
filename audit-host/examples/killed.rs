//! Persists the lines of standard input as audit logs of `<time>`, in milliseconds, and ends as if
//! it were killed: `killed <directory> <log streams> <time> < lines`.
//!
//! The directory holds the bucket and its journal, which the log streams of the file follow. What
//! they get is sent by `audit journal deliver`, unless they got it before the end.
#![allow(clippy::unwrap_used, reason = "an example ends with what went wrong")]

use std::io::Read;
use std::path::Path;

use audit_core::Batch;
use audit_host::{Destinations, LogStreamsFile};
use audit_sink_s3::{JournalSettings, Settings};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, log_streams, time_ms] = &arguments[..] else {
        panic!("killed <directory> <log streams> <time>")
    };
    let directory = Path::new(directory).canonicalize().unwrap();
    let journal = Some(JournalSettings::new(directory.join("journal")));
    let settings = Settings { journal, ..Settings::default() };
    let bucket = format!("file://{}/bucket", directory.display());
    let destinations =
        Destinations { bucket: Some((bucket, settings.into())), ..Destinations::default() };
    let LogStreamsFile { log_stream } = LogStreamsFile::read(Path::new(log_streams)).unwrap();
    let opened =
        destinations.with_log_streams(log_stream, None, None, 20_000, &directory).open().await;
    let sink = opened.unwrap().sink.unwrap();
    let mut lines = Vec::new();
    std::io::stdin().read_to_end(&mut lines).unwrap();
    let batch = Batch::from_lines(time_ms.parse().unwrap(), lines.into()).unwrap();
    sink.persist(batch).await.unwrap();
    // Without closing the sink.
    std::process::exit(0);
}

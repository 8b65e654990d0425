//! One cached result for many subscribers, with one durable write.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{AuditSink, SystemClock, SystemRandom};
use audit_runtime::{AuditRuntime, Audited, RequestContext};
use audit_sink_null::NullSink;
use audit_sink_s3::{JournalSettings, S3Sink, Settings};
use audit_vars::{RequestId, UserAgent};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::bodies::{USER_AGENT, View};
use crate::contest::{Contest, Side};
use crate::rivals::RawLog;
use crate::store::FarStore;

/// A runtime like a service's.
pub fn tokio_runtime(threads: usize) -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().build().expect("threads")
}

/// Subscribers with an address, a User-Agent and an id each.
pub fn subscribers(count: u32) -> Vec<RequestContext> {
    let user_agent = UserAgent::from(USER_AGENT);
    (0..count)
        .map(|n| {
            RequestContext::new(RequestId::generate(&SystemClock, &SystemRandom))
                .with_ip((0x0a00_0000 + n).to_be_bytes().into())
                .with_user_agent(user_agent.clone())
        })
        .collect()
}

/// A cached result with one log of 1.2 KB.
pub fn cached(sink: Arc<dyn AuditSink>) -> Audited<()> {
    let query = AuditRuntime::new(sink).query("documents:view");
    query.log().audit(&View::of_one_kilobyte()).expect("a body compiles");
    query.seal(())
}

/// Settings of a journal that delivers nothing, since only writing to it is measured.
pub fn undelivered(directory: &Path) -> Settings {
    // Enough room that nothing waits for a segment.
    let journal = JournalSettings { max_bytes: 32 << 30, ..JournalSettings::new(directory) };
    Settings { persist_timeout_ms: 60_000, journal: Some(journal), ..Settings::default() }
}

/// Opens a journal in which nothing is delivered.
pub async fn open_undelivered(directory: &Path) -> Arc<S3Sink> {
    let opening = S3Sink::builder(FarStore::silent_bucket()).with_settings(undelivered(directory));
    Arc::new(opening.open().await.expect("a journal"))
}

/// Releases into a sink that discards: rendering, metering and calls.
pub fn contests() -> Vec<Contest> {
    const COUNT: u32 = 1_000;
    let runtime = tokio_runtime(1);
    let (audited, requests) = (cached(Arc::new(NullSink::new())), subscribers(COUNT));
    let ours = Side::timed("release_all, discarded", move || {
        let began = Instant::now();
        runtime.block_on(audited.release_all(&requests)).expect("discarded");
        began.elapsed() / COUNT
    });
    let mut line = Vec::new();
    super::templates::compiled(&View::of_one_kilobyte())
        .render(&super::templates::Request::common().values(), &mut line);
    let memcpy = Side::timed("memcpy into a new buffer", move || {
        let began = Instant::now();
        // The buffer has the size of a batch, and is freed like one.
        let mut out = Vec::with_capacity(COUNT as usize * (line.len() + 1));
        (0..COUNT).for_each(|_| out.extend_from_slice(std::hint::black_box(&line)));
        drop(std::hint::black_box(out));
        began.elapsed() / COUNT
    });
    vec![Contest::new("release to 1,000 subscribers, 1.2 KB, for one", ours).against(memcpy)]
}

/// The processor time of this process's threads so far, by name.
fn computed() -> Vec<(String, Duration)> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.ok()?.path();
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        let times = std::fs::read_to_string(path.join("schedstat")).ok()?;
        let ns = times.split(' ').next()?.parse().ok()?;
        Some((name.trim().to_owned(), Duration::from_nanos(ns)))
    };
    tasks.filter_map(of).collect()
}

/// The processor time of all threads of this process so far. Zero if the system does not report it.
pub(super) fn processor_time() -> Duration {
    computed().into_iter().map(|(_, time)| time).sum()
}

/// The time that one record takes on one core, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct OfOneCore {
    /// The processor time of all threads except the one that prepares segments.
    pub seconds: f64,
    /// The processor time of the thread that prepares segments.
    pub preparing: f64,
    /// The elapsed time.
    pub elapsed: f64,
    /// The time to write the same bytes in pieces of 4 MiB to a file in the same directory.
    pub raw: f64,
}

/// Repeatedly releases one result to 10,000 subscribers, into a journal in this directory. It
/// should be on a file system in memory, where a sync costs nothing.
pub fn into_journal(directory: &Path, rounds: u32) -> Vec<OfOneCore> {
    const COUNT: u32 = 10_000;
    // Everything runs on one thread, except commits, which have their own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sink = runtime.block_on(open_undelivered(&directory.join("journal")));
    let (audited, requests) = (cached(sink), subscribers(COUNT));
    let mut raw = RawLog::create(&directory.join("raw"), 64 << 20);
    let piece = vec![b'x'; 4 << 20];
    // The first releases fill the object whose put never ends, after which nothing is delivered.
    let release = || {
        let (before, began) = (computed(), Instant::now());
        runtime.block_on(audited.release_all(&requests)).expect("a journal");
        let elapsed = began.elapsed();
        let after = computed();
        let sum = |times: &[(String, Duration)], preparing: bool| {
            let chosen =
                times.iter().filter(|(name, _)| name.starts_with("audit-prepare") == preparing);
            chosen.map(|(_, time)| *time).sum::<Duration>()
        };
        let of_one = |time: Duration| time.as_secs_f64() / f64::from(COUNT);
        let seconds = of_one(sum(&after, false).saturating_sub(sum(&before, false)));
        let preparing = of_one(sum(&after, true).saturating_sub(sum(&before, true)));
        (seconds, preparing, of_one(elapsed))
    };
    for _ in 0..5 {
        release();
    }
    (0..rounds)
        .map(|_| {
            let (seconds, preparing, elapsed) = release();
            let began = Instant::now();
            (0..4).for_each(|_| raw.write(&piece));
            let bytes = f64::from(COUNT) * super::RECORD_BYTES as f64;
            let raw = began.elapsed().as_secs_f64() / (4.0 * piece.len() as f64) * bytes
                / f64::from(COUNT);
            OfOneCore { seconds, preparing, elapsed, raw }
        })
        .collect()
}

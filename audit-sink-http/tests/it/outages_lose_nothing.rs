//! A receiver may be unreachable for long: records wait in the journal, and arrive afterwards.

use std::sync::mpsc::channel;
use std::time::Duration;

use audit_core::{AuditSink, HealthState};
use audit_sink_http::{Format, HttpSink, JournalSettings, Settings};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::receiver::{Fault, Receiver, batch};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const BATCHES: u64 = 144;

/// Waits for the disk in real time: the paused clock does not advance while a thread blocks.
async fn in_real_time<T>(work: impl Future<Output = T>) -> T {
    let (done, until_done) = channel::<()>();
    let blocked = spawn_blocking(move || until_done.recv());
    let value = work.await;
    drop(done);
    assert!(blocked.await.unwrap().is_err(), "nothing is sent");
    value
}

/// Time advances automatically, so a day takes as long as its retries.
#[tokio::test(start_paused = true)]
async fn a_day_without_a_receiver_loses_nothing() {
    let (receiver, directory) = (Receiver::start().await, tempfile::tempdir().unwrap());
    let settings = Settings {
        journal: Some(JournalSettings {
            cut_after_ms: 0,
            segment_bytes: 33 << 20,
            ..JournalSettings::new(directory.path().join("journal"))
        }),
        dead_letters: Some(directory.path().join("aside")),
        retry_base_ms: 1_000,
        retry_cap_ms: 10 * 60 * 1_000,
        blocked_retry_cap_ms: 10 * 60 * 1_000,
        ..receiver.settings(Format::Ndjson)
    };
    let sink = HttpSink::open(settings).await.unwrap();
    receiver.script(std::iter::repeat_n(Fault::Dropped, 1_000_000));
    let began = Instant::now();
    let mut expected = Vec::new();
    for n in 0..BATCHES {
        let time_ms = i64::try_from(began.elapsed().as_millis()).unwrap();
        let persisted = in_real_time(sink.persist(batch(time_ms, &["{}"]))).await;
        let place = persisted.unwrap().place.unwrap();
        assert_eq!(place.first_sequence, n);
        expected.push((n, time_ms, "{}".to_owned()));
        sleep(DAY / u32::try_from(BATCHES).unwrap()).await;
    }
    assert!(began.elapsed() >= DAY);
    assert!(matches!(sink.health().state, HealthState::Retrying { .. }), "{:?}", sink.health());
    assert!(receiver.stored().is_empty() && receiver.requests().len() > 50);

    receiver.clear();
    sink.close().await.unwrap();
    let told = receiver.told().into_iter().map(|(n, time_ms, line, _)| (n, time_ms, line));
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(sink.health().state, HealthState::Ok);
}

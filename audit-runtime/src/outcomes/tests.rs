use audit_core::testing::{ManualClock, MemoryFault, MemorySink, SeededRandom};

use super::*;

fn outcomes() -> (Arc<MemorySink>, Outcomes) {
    let sink = Arc::new(MemorySink::new());
    let (clock, random) = (Arc::new(ManualClock::at(7)), Arc::new(SeededRandom::new(7)));
    let outcomes = Outcomes::new(Arc::clone(&sink) as _, clock, random, Metrics::new());
    (sink, outcomes)
}

fn ended(attempt: u32) -> Ended {
    Ended { execution: UniqueId::from_bits(1), attempt, outcome: AttemptOutcome::RolledBack }
}

fn attempts(sink: &MemorySink) -> Vec<u64> {
    let attempt = |line: String| {
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        record["$audit"]["attempt"].as_u64().unwrap()
    };
    sink.lines().into_iter().map(attempt).collect()
}

#[test]
fn a_record_fits_its_bound() {
    let mut record = Vec::new();
    ended(u32::MAX).append(&mut record);
    assert_eq!(record.len() + 1, RECORD_BYTES);
    let expected = r#"{"$audit":{"execution":"00000000000000000000000001","attempt":4294967295,"outcome":"rolled back"}}"#;
    assert_eq!(String::from_utf8(record).unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn outcomes_share_a_batch_within_a_second() {
    let (sink, outcomes) = outcomes();
    for attempt in 0..3 {
        outcomes.queue(ended(attempt));
        sleep(LINGER / 4).await;
    }
    assert!(sink.lines().is_empty());
    sleep(LINGER).await;
    assert_eq!((attempts(&sink), sink.batches().len()), (vec![0, 1, 2], 1));
    // The next outcome starts another task.
    outcomes.queue(ended(3));
    sleep(2 * LINGER).await;
    assert_eq!((attempts(&sink).len(), sink.batches().len()), (4, 2));
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_does_not_wait() {
    let (sink, outcomes) = outcomes();
    let began = tokio::time::Instant::now();
    (0..BATCH_OUTCOMES as u32).for_each(|attempt| outcomes.queue(ended(attempt)));
    while sink.lines().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!((sink.lines().len(), began.elapsed()), (BATCH_OUTCOMES, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn batches_are_retried_until_stored_once() {
    let (sink, outcomes) = outcomes();
    sink.script([MemoryFault::FailBefore; 20]);
    outcomes.queue(ended(1));
    outcomes.drain().await;
    assert_eq!(attempts(&sink), [1]);
    // The sink may have the outcome, so it is not retried: it could be stored twice.
    sink.script([MemoryFault::FailAfter]);
    outcomes.queue(ended(2));
    outcomes.drain().await;
    assert_eq!(attempts(&sink), [1, 2]);
    sink.close().await.unwrap();
    outcomes.queue(ended(3));
    outcomes.drain().await;
    assert_eq!(attempts(&sink), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_sink_leaves_the_queue_bounded() {
    let (sink, outcomes) = outcomes();
    sink.script([MemoryFault::HangBefore]);
    outcomes.queue(ended(0));
    sink.hanging(1).await;
    (0..MAX_QUEUED as u32 + 100).for_each(|attempt| outcomes.queue(ended(attempt)));
    assert_eq!(outcomes.state().queue.len(), MAX_QUEUED);
    let drained = timeout(Duration::from_secs(3_600), outcomes.drain()).await;
    assert!(drained.is_err(), "it waits for the sink");
    assert_eq!(outcomes.state().drains, 0, "and stops when its caller does");
}

#[test]
fn waiting_outcomes_survive_their_executor() {
    let (sink, outcomes) = outcomes();
    let run = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    outcomes.queue(ended(1));
    // This executor ends before the outcomes are due.
    run().block_on(async { outcomes.queue(ended(2)) });
    assert!(sink.lines().is_empty());
    run().block_on(outcomes.drain());
    assert_eq!(attempts(&sink), [1, 2]);
}

/// What is logged on this thread.
#[derive(Default, Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn losses_are_reported_once_until_the_sink_has_caught_up() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    // `tracing` caches whether anybody listens to a log statement. Without a global subscriber, a
    // test on another thread that reaches it first would turn it off for all threads.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    let _log = tracing::subscriber::set_default(subscriber.finish());
    let (sink, outcomes) = outcomes();
    for episode in 1..3 {
        // The sink takes one batch after another, each at the second attempt.
        sink.script([MemoryFault::FailBefore, MemoryFault::None].repeat(20));
        for _ in 0..5 {
            let (queued, stored) = (outcomes.state().queue.len(), sink.batches().len());
            (queued..MAX_QUEUED + 10).for_each(|_| outcomes.queue(ended(1)));
            while sink.batches().len() == stored {
                sleep(Duration::from_millis(1)).await;
            }
        }
        outcomes.drain().await;
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2 * episode, "{text}");
        assert!(lines[2 * episode - 2].contains("are lost: too many wait"), "{text}");
        assert!(lines[2 * episode - 1].ends_with("lost=50"), "{text}");
    }
}

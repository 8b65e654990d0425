//! A tee is a sink like any other, whose outcome is that of all its sinks together.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::testing::conformance::{self, Destination};
use audit_core::testing::{MemoryFault, MemorySink, StoredRecord};
use audit_core::{
    Batch, Commits, Durability, Health, Outcome, Receipt, SinkError, SinkErrorKind, async_trait,
};
use audit_runtime::{AuditSink, Tee};

use MemoryFault::{FailAfter, FailBefore, HangAfter, HangBefore, None};

/// Two sinks that must have every batch and one that may, for each opening.
#[derive(Default)]
struct Tees(Mutex<Vec<[Arc<MemorySink>; 3]>>);

fn tee(sinks: &[Arc<MemorySink>; 3]) -> Tee {
    let [first, required, optional] = sinks.clone();
    Tee::new(first).with_required(required).with_optional(optional)
}

#[async_trait]
impl Destination for Tees {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let sinks = std::array::from_fn(|_| Arc::new(MemorySink::new()));
        let tee = tee(&sinks);
        self.0.lock().unwrap().push(sinks);
        Arc::new(tee)
    }

    /// In the first sinks, whose receipts the tees give.
    async fn stored(&self) -> Vec<StoredRecord> {
        self.0.lock().unwrap().iter().flat_map(|[first, ..]| first.records()).collect()
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }

    async fn fault(&self, number: u32) -> bool {
        let number = number as usize;
        let fault = [FailBefore, FailAfter][number % 2];
        let sinks = self.0.lock().unwrap();
        let sink = sinks.last().unwrap().get(number / 2);
        sink.inspect(|sink| sink.script([fault])).is_some()
    }
}

#[tokio::test(start_paused = true)]
async fn a_tee_conforms() {
    let tees = Tees::default();
    conformance::run(&tees).await;
    let sinks = tees.0.into_inner().unwrap();
    assert!(sinks.iter().any(|[first, ..]| !first.lines().is_empty()));
}

fn batch() -> Batch {
    Batch::from_lines(0, "{}\n".into()).unwrap()
}

/// The answer where the sinks go wrong in these ways.
async fn persist(faults: [MemoryFault; 3]) -> (Result<(), Outcome>, [usize; 3]) {
    let sinks = std::array::from_fn(|_| Arc::new(MemorySink::new()));
    sinks.iter().zip(faults).for_each(|(sink, fault)| sink.script([fault]));
    let answer = tee(&sinks).persist(batch()).await;
    let answer = answer.map(|_| ()).map_err(|error| error.outcome());
    (answer, sinks.each_ref().map(|sink| sink.lines().len()))
}

#[tokio::test(start_paused = true)]
async fn the_outcome_is_that_of_all_sinks_together() {
    let (absent, unknown) = (Err(Outcome::NotPersisted), Err(Outcome::Indeterminate));
    for (faults, answer, stored) in [
        ([None, None, None], Ok(()), [1, 1, 1]),
        ([FailBefore, FailBefore, FailBefore], absent, [0, 0, 0]),
        ([FailBefore, FailBefore, None], unknown, [0, 0, 1]),
        ([FailBefore, None, FailBefore], unknown, [0, 1, 0]),
        ([None, FailBefore, FailBefore], unknown, [1, 0, 0]),
        ([FailBefore, FailAfter, FailBefore], unknown, [0, 1, 0]),
        ([FailBefore, FailBefore, HangBefore], unknown, [0, 0, 0]),
        ([None, None, FailBefore], Ok(()), [1, 1, 0]),
        ([None, None, HangBefore], Ok(()), [1, 1, 0]),
        ([None, None, HangAfter], Ok(()), [1, 1, 1]),
    ] {
        assert_eq!(persist(faults).await, (answer, stored), "{faults:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_optional_sink_delays_a_batch_no_longer_than_set() {
    let (first, optional) = (Arc::new(MemorySink::new()), Arc::new(MemorySink::new()));
    optional.script([HangBefore]);
    let tee = Tee::new(first.clone()).with_optional(optional.clone());
    let tee = tee.with_optional_timeout(Duration::from_millis(20));
    let began = tokio::time::Instant::now();
    tee.persist(batch()).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_millis(20));
    tee.flush().await.unwrap();
    tee.close().await.unwrap();
    for sink in [&tee as &dyn AuditSink, &first, &optional] {
        assert_eq!(sink.persist(batch()).await.unwrap_err().kind(), SinkErrorKind::Closed);
    }
    assert_eq!(tee.to_string(), format!("Tee({first}, optional {optional})"));
}

/// A sink that takes nothing more before a restart.
#[derive(Debug)]
struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopped")
    }
}

#[async_trait]
impl AuditSink for Stopped {
    async fn persist(&self, _: Batch) -> Result<Receipt, SinkError> {
        Err(SinkError::closed())
    }

    async fn flush(&self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), SinkError> {
        Ok(())
    }

    fn health(&self) -> Health {
        Health { commits: Commits::Stopped { reason: "disk".to_owned() }, ..Health::default() }
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
        Box::pin(std::future::ready("disk".to_owned()))
    }
}

#[tokio::test]
async fn a_required_sink_that_stopped_stops_the_tee() {
    let good = || Arc::new(MemorySink::new());
    let stopped = Commits::Stopped { reason: "disk".to_owned() };
    for tee in [Tee::new(Arc::new(Stopped)), Tee::new(good()).with_required(Arc::new(Stopped))] {
        assert_eq!(tee.health().commits, stopped);
        assert_eq!(tee.stopped().await, "disk");
    }
    let tee = Tee::new(good()).with_optional(Arc::new(Stopped));
    assert_eq!(tee.health().commits, Commits::Accepted);
    assert!(futures::FutureExt::now_or_never(tee.stopped()).is_none());
}

//! A tee conforms to the contract of a sink, and combines the outcomes of its sinks.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::testing::conformance::{self, Destination};
use audit_core::testing::{MemoryFault, MemorySink, StoredRecord};
use audit_core::{
    Batch, Commits, Durability, Health, HealthState, Mirror, Outcome, Place, Receipt, SinkError,
    SinkErrorKind, async_trait,
};
use audit_runtime::{AuditSink, Tee};

use MemoryFault::{FailAfter, FailBefore, HangAfter, HangBefore, None};

/// Two required sinks and an optional one, for each opening.
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

    /// The records of the first sinks, whose receipts the tees return.
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

/// The tee's result with these faults of its sinks.
async fn persist(faults: [MemoryFault; 3]) -> (Result<(), Outcome>, [usize; 3]) {
    let sinks = std::array::from_fn(|_| Arc::new(MemorySink::new()));
    sinks.iter().zip(faults).for_each(|(sink, fault)| sink.script([fault]));
    let answer = tee(&sinks).persist(batch()).await;
    let answer = answer.map(|_| ()).map_err(|error| error.outcome());
    (answer, sinks.each_ref().map(|sink| sink.lines().len()))
}

#[tokio::test(start_paused = true)]
async fn the_outcome_combines_all_sinks() {
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
async fn optional_sinks_delay_at_most_their_timeout() {
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

/// A sink with this name and this health, which has stopped if the health says so.
#[derive(Debug)]
struct Telling(&'static str, Health);

impl fmt::Display for Telling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[async_trait]
impl AuditSink for Telling {
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
        self.1.clone()
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
        match &self.1.commits {
            Commits::Stopped { reason } => Box::pin(std::future::ready(reason.clone())),
            Commits::Accepted | Commits::Refused { .. } => Box::pin(std::future::pending()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_health_of_a_tee_combines_all_sinks() {
    let health = |commits: &Commits, state: &HealthState, amount: u64| Health {
        state: state.clone(),
        commits: commits.clone(),
        pending_bytes: amount,
        journal_bytes: (amount > 0).then_some(amount),
        create_only: Some(true),
        ..Health::default()
    };
    let reason = || "disk".to_owned();
    let ok = Health { create_only: Some(true), ..Health::default() };
    let (refused, stopped) =
        (Commits::Refused { reason: reason() }, Commits::Stopped { reason: reason() });
    let retrying = HealthState::Retrying { reason: reason() };
    let blocked = HealthState::Blocked { reason: reason() };
    let tee = |first: Health, required: Health, optional: Health| {
        Tee::new(Arc::new(Telling("first", first)))
            .with_required(Arc::new(Telling("required", required)))
            .with_optional(Arc::new(Telling("optional", optional)))
    };
    assert_eq!(tee(ok.clone(), ok.clone(), ok.clone()).health(), ok);

    let stops = tee(ok.clone(), health(&stopped, &blocked, 2), health(&refused, &retrying, 3));
    assert_eq!(stops.health().commits, stopped);
    let blocks = HealthState::Blocked { reason: "required: disk".to_owned() };
    assert_eq!(stops.health().state, blocks);
    assert_eq!((stops.health().pending_bytes, stops.health().journal_bytes), (5, Some(5)));
    assert_eq!(stops.stopped().await, "disk");

    // The tee accepts batches even if an optional sink refuses them.
    let goes_on = tee(ok.clone(), health(&Commits::Accepted, &retrying, 0), {
        Health { create_only: Option::None, ..health(&stopped, &blocked, 1) }
    });
    assert_eq!(goes_on.health().commits, Commits::Accepted);
    let blocks = HealthState::Blocked { reason: "optional: disk".to_owned() };
    assert_eq!(goes_on.health().state, blocks);
    assert_eq!(goes_on.health().create_only, Option::None);
    let stops = tokio::time::timeout(Duration::from_secs(1), goes_on.stopped()).await;
    assert!(stops.is_err(), "only a required sink stops the tee");
}

/// A sink that calls this function in each method.
#[derive(Debug)]
struct Strange(fn() -> Result<Receipt, SinkError>);

impl fmt::Display for Strange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Strange")
    }
}

#[async_trait]
impl AuditSink for Strange {
    async fn persist(&self, _: Batch) -> Result<Receipt, SinkError> {
        (self.0)()
    }

    async fn flush(&self) -> Result<(), SinkError> {
        (self.0)().map(drop)
    }

    async fn close(&self) -> Result<(), SinkError> {
        (self.0)().map(drop)
    }
}

#[async_trait]
impl Mirror for Strange {
    async fn persist_at(&self, _: Batch, _: Place) -> Result<(), SinkError> {
        (self.0)().map(drop)
    }
}

#[tokio::test]
async fn an_optional_sink_panics_alone() {
    let first = Arc::new(MemorySink::new());
    let tee = Tee::new(first.clone()).with_optional(Arc::new(Strange(|| panic!("as tests do"))));
    tee.persist(batch()).await.unwrap();
    assert_eq!(first.lines().len(), 1);
    tee.flush().await.unwrap();
    tee.close().await.unwrap();
}

#[tokio::test]
async fn a_mirror_of_a_sink_without_ids_fails_every_batch() {
    let without_ids = Arc::new(Strange(|| Ok(Receipt::DISCARDED)));
    let mirror = Arc::new(Strange(|| unreachable!("there is no place")));
    let tee = Tee::new(without_ids).with_mirror(mirror);
    let error = tee.persist(batch()).await.unwrap_err();
    assert_eq!((error.outcome(), error.kind()), (Outcome::Indeterminate, SinkErrorKind::Blocked));
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(
        source,
        "Strange gives records no ids, so Strange cannot keep them: make it the first sink"
    );
}

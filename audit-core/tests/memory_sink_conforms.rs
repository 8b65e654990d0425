//! The suite's own reference: `MemorySink` keeps the contract, and sinks that break it are caught.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt;
use std::sync::{Arc, Mutex};

use audit_core::testing::conformance::{self, Destination};
use audit_core::testing::{MemoryFault, MemorySink, StoredRecord};
use audit_core::{
    AuditSink, Batch, Durability, Observed, Outcome, Place, Receipt, SinkError, async_trait,
};

/// Every sink opened so far; what they hold together is the destination.
#[derive(Default)]
struct Memory(Mutex<Vec<Arc<MemorySink>>>);

#[async_trait]
impl Destination for Memory {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let sink = Arc::new(MemorySink::new());
        self.0.lock().unwrap().push(Arc::clone(&sink));
        sink
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.0.lock().unwrap().iter().flat_map(|sink| sink.records()).collect()
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }

    async fn fault(&self, number: u32) -> bool {
        let faults = [MemoryFault::FailBefore, MemoryFault::FailAfter, MemoryFault::None];
        let fault = faults.get(number as usize);
        self.0.lock().unwrap().last().unwrap().script(fault.copied());
        fault.is_some()
    }
}

#[tokio::test]
async fn memory_sink_passes_the_suite() {
    conformance::run(&Memory::default()).await;
}

/// The same sink behind an observer.
#[derive(Default)]
struct ObservedMemory {
    memory: Memory,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

#[async_trait]
impl Destination for ObservedMemory {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let (sink, seen) = (self.memory.open().await, Arc::clone(&self.seen));
        Arc::new(Observed::new(sink, move |batch, place| {
            assert_eq!(place.count, batch.count());
            seen.lock().unwrap().extend(batch.records().map(|record| record.to_vec()));
        }))
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.memory.stored().await
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }

    async fn fault(&self, number: u32) -> bool {
        self.memory.fault(number).await
    }
}

#[tokio::test]
async fn observed_sinks_pass_the_suite() {
    let observed = ObservedMemory::default();
    conformance::run(&observed).await;
    let stored = observed.stored().await.into_iter().map(|record| record.line.to_vec());
    let (mut stored, mut seen) =
        (stored.collect::<Vec<_>>(), observed.seen.lock().unwrap().clone());
    stored.sort();
    seen.sort();
    assert!(!stored.is_empty());
    // The suite drops futures: batches that became durable afterwards were not observed.
    assert!(seen.iter().all(|line| stored.binary_search(line).is_ok()));
    assert!(seen.len() * 2 > stored.len(), "{} of {}", seen.len(), stored.len());
}

#[tokio::test]
async fn observers_see_exactly_the_durable_batches() {
    let (sink, seen) = (Arc::new(MemorySink::new()), Arc::new(Mutex::new(Vec::new())));
    let shown = Arc::clone(&seen);
    let observed = Observed::new(Arc::clone(&sink), move |batch: &Batch, place: Place| {
        shown.lock().unwrap().push((place.first_sequence, batch.count()));
    });
    let batch = |text: &'static str| Batch::from_lines(0, text.into()).unwrap();
    observed.persist(batch("{}\n{}\n")).await.unwrap();
    sink.script([MemoryFault::FailBefore, MemoryFault::FailAfter]);
    observed.persist(batch("{}\n")).await.unwrap_err();
    observed.persist(batch("{}\n")).await.unwrap_err();
    observed.persist(batch("{}\n")).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [(0, 2), (3, 1)]);
    assert_eq!(observed.to_string(), sink.to_string());
}

#[tokio::test]
async fn scripted_faults_store_and_fail_as_documented() {
    let batch = |text: &'static str| Batch::from_lines(0, text.into()).unwrap();
    let sink = Arc::new(MemorySink::seeded(1));
    sink.script([
        MemoryFault::FailBefore,
        MemoryFault::FailAfter,
        MemoryFault::HangAfter,
        MemoryFault::HangBefore,
    ]);

    let error = sink.persist(batch("1\n")).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotPersisted);
    let error = sink.persist(batch("2\n")).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Indeterminate);
    for text in ["3\n", "4\n"] {
        let (sink, batch) = (Arc::clone(&sink), batch(text));
        tokio::spawn(async move { sink.persist(batch).await });
    }
    sink.hanging(2).await;
    sink.persist(batch("5\n")).await.unwrap();
    assert_eq!(sink.lines(), ["2", "3", "5"]);
}

/// How a broken sink breaks the contract.
#[derive(Debug, Clone, Copy)]
enum Broken {
    AcknowledgesAndForgets,
    StoresTwice,
    LosesTheLastRecord,
    NumbersFromOne,
    AcceptsAfterClose,
    SharesOneStream,
    /// Stores the batch and reports that it did not.
    DeniesWhatItStored,
    /// Stores part of a batch and reports an indeterminate outcome.
    StoresAPart,
}

#[derive(Debug)]
struct BrokenSink {
    how: Broken,
    inner: MemorySink,
}

impl fmt::Display for BrokenSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokenSink({:?})", self.how)
    }
}

#[async_trait]
impl AuditSink for BrokenSink {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        match self.how {
            Broken::AcknowledgesAndForgets => {
                let place = Place {
                    stream: audit_core::UniqueId::from_bits(1),
                    first_sequence: 0,
                    count: batch.count(),
                };
                Ok(Receipt { durability: Durability::Delivered, place: Some(place) })
            }
            Broken::StoresTwice => {
                self.inner.persist(batch.clone()).await?;
                self.inner.persist(batch).await
            }
            Broken::LosesTheLastRecord => {
                let end = batch.lines()[..batch.lines().len() - 1]
                    .iter()
                    .rposition(|byte| *byte == b'\n');
                let lines = batch.lines().slice(..end.map_or(batch.lines().len(), |end| end + 1));
                let shorter = Batch::from_lines(batch.time_ms(), lines).unwrap();
                let receipt = self.inner.persist(shorter).await?;
                let place = receipt.place.map(|place| Place { count: batch.count(), ..place });
                Ok(Receipt { place, ..receipt })
            }
            Broken::NumbersFromOne => {
                let receipt = self.inner.persist(batch).await?;
                let place =
                    receipt.place.map(|p| Place { first_sequence: p.first_sequence + 1, ..p });
                Ok(Receipt { place, ..receipt })
            }
            Broken::AcceptsAfterClose | Broken::SharesOneStream => self.inner.persist(batch).await,
            Broken::DeniesWhatItStored => {
                let persisted = self.inner.persist(batch).await;
                persisted.map_err(|error| SinkError::not_persisted(error.kind(), "denied"))
            }
            Broken::StoresAPart => match self.inner.persist(batch.clone()).await {
                Err(error) if error.outcome() == Outcome::NotPersisted => {
                    let end = batch.lines().iter().position(|byte| *byte == b'\n').unwrap() + 1;
                    let part = batch.lines().slice(..end);
                    self.inner.persist(Batch::from_lines(batch.time_ms(), part).unwrap()).await?;
                    Err(SinkError::indeterminate(error.kind(), "stored a part"))
                }
                answer => answer,
            },
        }
    }

    async fn flush(&self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), SinkError> {
        if matches!(self.how, Broken::AcceptsAfterClose) {
            Ok(())
        } else {
            self.inner.close().await
        }
    }
}

struct BrokenDestination(Broken, Mutex<Vec<Arc<BrokenSink>>>);

#[async_trait]
impl Destination for BrokenDestination {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let BrokenDestination(how, sinks) = self;
        let inner = if matches!(how, Broken::SharesOneStream) {
            MemorySink::seeded(9)
        } else {
            MemorySink::new()
        };
        let sink = Arc::new(BrokenSink { how: *how, inner });
        sinks.lock().unwrap().push(Arc::clone(&sink));
        sink
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.1.lock().unwrap().iter().flat_map(|sink| sink.inner.records()).collect()
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }

    async fn fault(&self, number: u32) -> bool {
        let faults = [MemoryFault::FailBefore, MemoryFault::FailAfter];
        let fault = faults.get(number as usize);
        self.1.lock().unwrap().last().unwrap().inner.script(fault.copied());
        fault.is_some()
    }
}

#[tokio::test]
async fn the_suite_catches_each_broken_sink() {
    for how in [
        Broken::AcknowledgesAndForgets,
        Broken::StoresTwice,
        Broken::LosesTheLastRecord,
        Broken::NumbersFromOne,
        Broken::AcceptsAfterClose,
        Broken::SharesOneStream,
        Broken::DeniesWhatItStored,
        Broken::StoresAPart,
    ] {
        let broken = BrokenDestination(how, Mutex::default());
        let caught = tokio::spawn(async move { conformance::run(&broken).await }).await;
        assert!(caught.is_err_and(|error| error.is_panic()), "{how:?} passes the suite");
    }
}

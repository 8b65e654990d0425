//! A sink in memory, with faults.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::SeededRandom;
use crate::{
    AuditSink, Batch, Durability, Place, Receipt, SinkError, SinkErrorKind, SystemClock,
    SystemRandom, UniqueId,
};

/// A sink that keeps batches in memory, and fails as scripted.
pub struct MemorySink {
    stream: UniqueId,
    state: Mutex<State>,
    hanging: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    batches: Vec<Batch>,
    records: u64,
    faults: VecDeque<MemoryFault>,
    closed: bool,
}

/// How one call of `persist` goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryFault {
    /// No fault: the batch is stored and a receipt returned. For scripts in which a later call
    /// fails.
    None,
    /// Fails, and nothing is stored.
    FailBefore,
    /// Stores the batch, then fails as indeterminate: the write happened, its response was lost.
    FailAfter,
    /// Never returns, and nothing is stored.
    HangBefore,
    /// Stores the batch and never returns.
    HangAfter,
}

/// A record and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// The stream it belongs to.
    pub stream: UniqueId,
    /// Its number in that stream.
    pub sequence: u64,
    /// The record, without its line feed.
    pub line: Bytes,
}

impl Default for MemorySink {
    fn default() -> MemorySink {
        MemorySink::new()
    }
}

impl MemorySink {
    /// An empty sink that accepts everything, with a stream of its own.
    pub fn new() -> MemorySink {
        MemorySink {
            stream: UniqueId::generate(&SystemClock, &SystemRandom),
            state: Mutex::default(),
            hanging: watch::Sender::new(0),
        }
    }

    /// An empty sink whose stream has the same id for the same `seed`.
    pub fn seeded(seed: u64) -> MemorySink {
        let stream = UniqueId::generate(&super::ManualClock::at(0), &SeededRandom::new(seed));
        MemorySink { stream, ..MemorySink::new() }
    }

    /// The next calls of `persist` have these faults, in this order. Later calls succeed.
    pub fn script(&self, faults: impl IntoIterator<Item = MemoryFault>) {
        self.state().faults.extend(faults);
    }

    /// The batches that were stored, in order.
    pub fn batches(&self) -> Vec<Batch> {
        self.state().batches.clone()
    }

    /// The records that were stored, in order.
    pub fn records(&self) -> Vec<StoredRecord> {
        let lines =
            self.batches().into_iter().flat_map(|batch| batch.records().collect::<Vec<_>>());
        (0..)
            .zip(lines)
            .map(|(sequence, line)| StoredRecord { stream: self.stream, sequence, line })
            .collect()
    }

    /// The stored records as text, in order.
    ///
    /// # Panics
    ///
    /// If one is not UTF-8.
    pub fn lines(&self) -> Vec<String> {
        let text = |line: Bytes| String::from_utf8(line.into()).expect("a record is UTF-8");
        self.records().into_iter().map(|record| text(record.line)).collect()
    }

    /// Waits until `calls` calls of `persist` in total hang.
    pub async fn hanging(&self, calls: u64) {
        let reached = self.hanging.subscribe().wait_for(|count| *count >= calls).await.is_ok();
        assert!(reached, "the sender lives as long as self");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, batch: Batch) -> Receipt {
        let mut state = self.state();
        let place =
            Place { stream: self.stream, first_sequence: state.records, count: batch.count() };
        state.records += u64::from(batch.count());
        state.batches.push(batch);
        Receipt { durability: Durability::Delivered, place: Some(place) }
    }

    async fn hang(&self) -> ! {
        self.hanging.send_modify(|count| *count += 1);
        pending().await
    }
}

#[async_trait]
impl AuditSink for MemorySink {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        let fault = {
            let mut state = self.state();
            if state.closed {
                return Err(SinkError::closed());
            }
            state.faults.pop_front().unwrap_or(MemoryFault::None)
        };
        match fault {
            MemoryFault::None => Ok(self.store(batch)),
            MemoryFault::FailBefore => Err(SinkError::not_persisted(
                SinkErrorKind::Unavailable,
                "scripted to fail before persisting",
            )),
            MemoryFault::FailAfter => {
                self.store(batch);
                Err(SinkError::indeterminate(
                    SinkErrorKind::Unavailable,
                    "scripted to fail after persisting",
                ))
            }
            MemoryFault::HangBefore => self.hang().await,
            MemoryFault::HangAfter => {
                self.store(batch);
                self.hang().await
            }
        }
    }

    async fn flush(&self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.state().closed = true;
        Ok(())
    }
}

impl fmt::Display for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemorySink({})", self.stream)
    }
}

impl fmt::Debug for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("MemorySink")
            .field("stream", &self.stream)
            .field("records", &state.records)
            .field("faults", &state.faults)
            .field("closed", &state.closed)
            .finish()
    }
}

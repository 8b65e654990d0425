//! The nouns of the audit log engine, and the contract between a runtime and its sinks.
//!
//! A function's effects are held back until its audit logs are durable. This crate defines the
//! types and the contract that make this possible:
//!
//! - [`Batch`]: resolved logs of one execution, the unit that is persisted whole or not at all.
//! - [`AuditSink`]: makes batches durable; its documentation is the contract. A [`Receipt`] says
//!   how durable and where, a [`SinkError`] whether the batch may have been persisted anyway, and
//!   what to do.
//! - [`OpenError`]: why a sink cannot be opened, and what to do.
//! - [`Health`]: how a sink is doing, for probes and for operators.
//! - [`Limits`], the [`Budget`] that enforces them, and metered [`Usage`].
//! - [`Clock`], [`Random`] and the [`UniqueId`]s made from them: tests control time and randomness.
//!
//! [`Observed`] reports what a sink makes durable to an observer.
//!
//! A sink needs only this crate, and `audit-runtime` takes any sink. Functions and hosts usually
//! meet these nouns through `audit-runtime`, which re-exports them.
//!
//! # Example: a sink of your own
//!
//! ```
//! use std::{fmt, io::Write, sync::Mutex};
//! use audit_core::{async_trait, AuditSink, Batch, Durability, Outcome, Place, Receipt, SinkError, SinkErrorKind};
//! use audit_core::{SystemClock, SystemRandom, UniqueId};
//!
//! /// Appends records to one local file. Durable on this host alone.
//! #[derive(Debug)]
//! struct FileSink {
//!     stream: UniqueId,
//!     open: Mutex<Option<(std::fs::File, u64)>>,
//! }
//!
//! impl fmt::Display for FileSink {
//!     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
//!         write!(f, "FileSink({})", self.stream)
//!     }
//! }
//!
//! #[async_trait]
//! impl AuditSink for FileSink {
//!     async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
//!         let mut open = self.open.lock().unwrap();
//!         let Some((mut file, records)) = open.take() else { return Err(SinkError::closed()) };
//!         // After a failed write or sync the file's state is unknown: it stays closed, and the error says
//!         // that the batch may or may not be there.
//!         file.write_all(batch.lines()).and_then(|()| file.sync_data()).map_err(|error| {
//!             SinkError::indeterminate(SinkErrorKind::Closed, "the log file failed").with_source(error)
//!         })?;
//!         *open = Some((file, records + u64::from(batch.count())));
//!         let place = Place { stream: self.stream, first_sequence: records, count: batch.count() };
//!         Ok(Receipt { durability: Durability::Delivered, place: Some(place) })
//!     }
//!
//!     async fn flush(&self) -> Result<(), SinkError> {
//!         Ok(())
//!     }
//!
//!     async fn close(&self) -> Result<(), SinkError> {
//!         self.open.lock().unwrap().take();
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = tempfile()?;
//! let stream = UniqueId::generate(&SystemClock, &SystemRandom);
//! let sink = FileSink { stream, open: Mutex::new(Some((file, 0))) };
//!
//! let batch = Batch::from_lines(1_700_000_000_000, "{\"event\":\"login\"}\n".into())?;
//! let receipt = sink.persist(batch.clone()).await?;
//! assert_eq!(receipt.place.map(|place| place.first_sequence), Some(0));
//!
//! sink.close().await?;
//! assert_eq!(sink.persist(batch).await.unwrap_err().outcome(), Outcome::NotPersisted);
//! # Ok(())
//! # }
//! # fn tempfile() -> std::io::Result<std::fs::File> {
//! #     let path = std::env::temp_dir().join(format!("audit-core-doc-{}", std::process::id()));
//! #     let file = std::fs::File::create(&path)?;
//! #     std::fs::remove_file(path)?;
//! #     Ok(file)
//! # }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

mod backoff;
mod batch;
mod buffers;
mod clock;
#[cfg(feature = "disk")]
mod disk;
#[cfg(feature = "disk")]
mod disk_fault;
#[cfg(feature = "disk")]
pub mod durable;
mod error;
#[cfg(feature = "disk")]
mod file_lock;
mod health;
mod id;
#[cfg(feature = "disk")]
mod input_file;
mod limits;
mod observed;
mod open_error;
#[cfg(feature = "disk")]
mod placed_directory;
mod random;
#[cfg(feature = "disk")]
mod regular_file;
mod shared;
mod sink;
mod sources;
#[cfg(feature = "test-util")]
pub mod testing;
mod threads;
mod usage;

pub use async_trait::async_trait;
pub use backoff::full_jitter;
pub use batch::{Batch, BatchBuilder, InvalidBatch, MAX_ADDED_BYTES, MAX_BATCH_BYTES};
#[doc(hidden)]
pub use buffers::{Buffer, BufferPool};
pub use clock::{Clock, SystemClock};
#[cfg(feature = "disk")]
pub use disk::free_bytes;
#[cfg(feature = "disk")]
pub use disk_fault::DiskFault;
pub use error::{Outcome, SinkError, SinkErrorKind};
#[cfg(feature = "disk")]
pub use file_lock::FileLock;
pub use health::{Commits, FollowerHealth, Health, HealthState, WitnessHealth};
pub use id::{InvalidId, UniqueId};
#[cfg(feature = "disk")]
pub use input_file::{InputLines, read_bytes, read_input, read_private_text, read_text};
pub use limits::{Budget, InvalidLimits, Limit, LimitExceeded, Limits};
pub use observed::Observed;
pub use open_error::{OpenError, OpenErrorKind};
#[cfg(feature = "disk")]
pub use placed_directory::PlacedDirectory;
pub use random::{Random, SystemRandom};
#[cfg(feature = "disk")]
pub use regular_file::{is_not_regular, open_regular, open_regular_with};
#[doc(hidden)]
pub use shared::Shared;
pub use sink::{AuditSink, Durability, Mirror, Place, Receipt};
pub use sources::{descriptors_advice, followed_by, sources, with_sources};
pub use threads::{THREADS_ADVICE, start_thread};
pub use usage::Usage;

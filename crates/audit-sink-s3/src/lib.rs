//! An audit sink that delivers each record once to a bucket: S3 and what speaks its protocol, Google Cloud Storage,
//! Azure Blob Storage, a local directory.
//!
//! It works in *direct mode*: nothing is kept on this host, and [`persist`](audit_core::AuditSink::persist) returns once
//! the object that holds the batch is in the bucket. That suits hosts without a disk to trust, and many hosts: they share
//! nothing but the bucket.
//!
//! # Nouns
//!
//! - [`S3Sink`]: an [`AuditSink`](audit_core::AuditSink) on one bucket. Each opening starts a stream, in which records are
//!   numbered from 0.
//! - [`Bucket`]: a store and a prefix, from a URL and the environment, or from a store that the host made.
//! - [`Settings`]: how it groups, sends and waits; every default has its reason there.
//! - [`Health`]: how it is doing, and why.
//! - [`ObjectKey`], [`ObjectMetadata`], [`Compression`]: how objects are called, what they say about themselves, and how they
//!   are written. Readers use them too.
//!
//! It depends on `audit-core` alone. Hosts open a sink and hand it to their runtime.
//!
//! # Example
//!
//! ```
//! use audit_core::{AuditSink, Batch, Durability};
//! use audit_sink_s3::{Compression, ObjectKey, S3Sink, Settings};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let root = directory.path().display();
//! // In production s3://bucket/prefix, with AWS_REGION and credentials in the environment.
//! let sink = S3Sink::open(&format!("file://{root}/logs"), Settings::default()).await?;
//!
//! let batch = Batch::from_lines(1_700_000_000_000, "{\"event\":\"login\"}\n".into())?;
//! let receipt = sink.persist(batch).await?;
//! assert_eq!(receipt.durability, Durability::Delivered);
//!
//! // `zstd -dc` shows it, and engines read it where it is.
//! let key = ObjectKey::new(1_700_000_000_000, sink.stream(), 0, Compression::Zstd);
//! assert!(key.to_string().starts_with("dt=2023-11-14/hour=22/"));
//! assert!(directory.path().join("logs").join(key.to_string()).exists());
//!
//! sink.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is in the bucket
//!
//! Objects of lines, one JSON object each, under `<prefix>/dt=YYYY-MM-DD/hour=HH/<stream>-<first sequence>.ndjson.zst`, day
//! and hour in UTC of the first record: Hive partitions that Athena, Trino, Spark and DuckDB read as they are. In the
//! object's metadata stand `lastsequence`, `count`, `sha256` (of the uncompressed lines) and `format`
//! ([`FORMAT_VERSION`]); a directory keeps no metadata. Beside them lies one small object, `_audit/probe`, which engines
//! skip for its underscore.
//!
//! # How a batch is delivered
//!
//! Batches that come within [`linger_ms`](Settings::linger_ms) of each other share an object, up to
//! [`max_object_bytes`](Settings::max_object_bytes); a batch is never divided. The object is encoded once and its bytes are
//! put, with the condition that nothing stands under the key, until what became of it is certain:
//!
//! | answer | meaning | next |
//! |---|---|---|
//! | success | delivered | receipts |
//! | timeout, reset, 5xx, 429 | unknown | the same bytes again, after a pause with full jitter, for ever |
//! | already exists | ours? | compare its hash: the same is delivered, another is a *conflict* |
//! | 409 of S3 | contention | compare, then again |
//! | 403, 404, credentials, encryption key, full disk | blocked | again, slowly, for ever; an error in the log, and in [`Health`] |
//!
//! A key is never used for other bytes, so no answer, however late or lost, can store a record twice. What a caller hears:
//!
//! | `persist` | the batch |
//! |---|---|
//! | receipt | is in the bucket, once, where the receipt says |
//! | *not persisted*, `Unavailable` or `Blocked` | was not sent in [`persist_timeout_ms`](Settings::persist_timeout_ms), and was taken back; or met a conflict |
//! | *indeterminate*, `Unavailable` or `Blocked` | was sent and is not certain yet. The sink goes on with it, so that it may arrive, once |
//! | *not persisted*, `Closed` | came after `close` |
//!
//! The message ends with the bucket's last answer. Dropping the future of `persist` takes nothing back.
//!
//! A conflict means that somebody else wrote under a key of this sink's stream. That object is left alone, the batches
//! that were meant for it fail, and their sequence numbers are not used again: the one way in which a stream has a gap.
//!
//! # What the bucket must allow
//!
//! To put and to get objects under the prefix: on AWS `s3:PutObject` and `s3:GetObject` (HEAD needs the latter), with
//! `kms:GenerateDataKey` and `kms:Decrypt` where a customer's key encrypts. Neither listing nor deleting. Opening a sink
//! [checks](S3Sink::open) that, and whether the store refuses to overwrite what exists (AWS, GCS, Azure, Ceph on buckets
//! without versions, MinIO and R2 do; Garage does not). Where it does not, each record is still delivered once, and
//! nothing protects it from others with the same credentials: see [`require_create_only`](Settings::require_create_only).
//!
//! On `file://` a receipt means synced, file and directories. An error of a sync is retried like any other, though the
//! operating system may then claim a success that is none; a directory is for development and for file systems that do
//! not fail.

mod answer;
mod bucket;
mod deliver;
mod direct;
mod encode;
mod error;
mod health;
mod journal;
mod key;
mod probe;
mod settings;
mod sink;

pub use bucket::Bucket;
pub use encode::{Compression, FORMAT_VERSION, ObjectMetadata};
pub use error::{OpenError, OpenErrorKind};
pub use health::{Health, HealthState};
pub use key::{InvalidKey, ObjectKey};
pub use settings::{InvalidSettings, JournalSettings, Settings};
pub use sink::{S3Sink, S3SinkBuilder};

//! An audit sink that delivers each record once to a bucket: S3 and stores with its protocol,
//! Google Cloud Storage, Azure Blob Storage, or a local directory.
//!
//! It makes a batch durable in one of two ways:
//!
//! - With a **journal** ([`Settings::journal`]), [`persist`](audit_core::AuditSink::persist)
//!   returns after one sync of a file on this host, and delivery to the bucket follows within
//!   seconds. A commit takes as long as the disk does, and succeeds while the bucket is
//!   unreachable. For hosts with a disk that outlives the process.
//! - **Direct** is the default, since it needs no decision about a disk. Nothing is kept on this
//!   host, and `persist` returns once the object with the batch is in the bucket. For hosts without
//!   a durable disk.
//!
//! # Nouns
//!
//! - [`S3Sink`]: an [`AuditSink`](audit_core::AuditSink) on one bucket. Each opening starts a
//!   stream, in which records are numbered from 0.
//! - [`S3Route`]: a sink that shares the journal of an [`S3Sink`], on a bucket of its own, such as
//!   a customer's.
//! - [`Bucket`]: a store and a prefix, from a URL and the environment, or from a store that the
//!   host made.
//! - [`Settings`]: grouping, requests and timeouts, with the reason for each default.
//! - [`EvidenceSettings`]: the host's name and key, which sign its objects.
//! - [`JournalSettings`]: the journal's directory, size and delivery.
//! - [`rescue`]: delivers the journal of a host that is gone.
//! - [`replay`]: sends records of a bucket to a follower that misses them.
//! - [`layout`]: the keys, metadata and lines of objects, for programs that read a bucket.
//!
//! [`AuditSink::health`](audit_core::AuditSink::health) reports the sink's state and its cause.
//! Metrics go to the `metrics` facade, under names that begin with `audit_`.
//!
//! The crate depends on `audit-core`, `audit-journal` and `audit-evidence`. Hosts open a sink and
//! pass it to their runtime.
//!
//! # Example
//!
//! ```
//! use audit_core::{AuditSink, Batch, Durability};
//! use audit_sink_s3::layout::{Compression, ObjectKey};
//! use audit_sink_s3::{S3Sink, Settings};
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
//! # The contents of the bucket
//!
//! Objects of lines, one JSON object each, under `<prefix>/dt=YYYY-MM-DD/hour=HH/<stream>-<first
//! sequence>.ndjson.zst`. Day and hour are those of the first record, in UTC: Hive partitions,
//! which Athena, Trino, Spark and DuckDB read directly. The metadata of an object has the members
//! `lastsequence`, `count`, `sha256` (of the uncompressed lines) and `format` (the version of the
//! layout); a directory keeps no metadata. One small object, `_audit/probe`, holds no records;
//! query engines skip it because of its underscore.
//!
//! # The delivery of a batch
//!
//! In direct mode, batches that arrive within [`linger_ms`](Settings::linger_ms) of each other
//! share an object, up to [`max_object_bytes`](Settings::max_object_bytes); a batch is never
//! divided. The object is encoded once. Its bytes are sent, on condition that the key is free,
//! until the outcome is certain. With a journal an object is cut when it is full or
//! [`cut_after_ms`](JournalSettings::cut_after_ms) have passed. It is durable in a file, with its
//! key, before the first request, so that the next process that opens the journal sends the same
//! bytes. In both modes:
//!
//! | response | meaning | next |
//! |---|---|---|
//! | success | delivered | receipts |
//! | timeout, reset, 5xx, 429 | unknown | the same bytes are retried without end, after a backoff with full jitter |
//! | 2xx that no store gives to a PUT: with a body, or neither 200 nor 201 | unknown | the same |
//! | already exists | delivered before, or a conflict | the object's hash is compared: the same is *delivered*, another is a *conflict* |
//! | 409 of S3 | contention | compared, then retried |
//! | a panic of the client or of a delivery task | unknown | retried slowly without end; counted, an error in the log and in the health |
//! | 403, 404, credentials, a role that is not given, certificate, encryption key, full disk | blocked | retried slowly without end; an error in the log and in the health |
//!
//! A request that takes longer than 95% of the last 64 successful ones gets a second one beside it,
//! with the same bytes for the same key. The first certain response counts.
//!
//! A key is never used for other bytes, so no late or lost response can store a record twice. In
//! direct mode a caller gets:
//!
//! | result of `persist` | the batch |
//! |---|---|
//! | receipt | is in the bucket, once, at the place in the receipt |
//! | *not persisted*, `Unavailable` or `Blocked` | was not sent within [`persist_timeout_ms`](Settings::persist_timeout_ms) and was withdrawn, or met a conflict |
//! | *indeterminate*, `Unavailable` or `Blocked` | was sent, and its outcome is not certain yet. The sink continues with it, so it may still arrive, once |
//! | *not persisted*, `Closed` | came after `close` |
//!
//! The message ends with the last response: its cause, and what to do. Dropping the future of
//! `persist` withdraws nothing.
//!
//! A conflict means that another program wrote under a key of this sink's stream. That object is
//! left alone, the batches of this key fail, and their sequence numbers are not reused: the stream
//! has a gap. In direct mode a crash may leave a gap too, of unacknowledged records before records
//! that had arrived.
//!
//! # The journal
//!
//! | result of `persist` | the batch |
//! |---|---|
//! | receipt, *journaled* | is synced to this host's disk, and will be in the bucket once, even if this process dies now |
//! | *not persisted*, `Unavailable` | found no room within [`persist_timeout_ms`](Settings::persist_timeout_ms): the bucket has been unreachable for long, or the disk is full. No acknowledged record is dropped to make room: functions fail until there is room again |
//! | *indeterminate*, `Unavailable` | ran out of disk space while it was written. The next opening may find it, if no later batch becomes durable first. The journal continues by itself once there is space |
//! | *indeterminate*, `Closed` | met another failure of a write or sync, or a panic of the thread that commits. Only the next opening can tell whether it is durable; until then nothing more is accepted |
//! | *not persisted*, `Closed` | came after `close`, or after such a failure. [`Commits::Stopped`](audit_core::Commits::Stopped) reports the failure, and the process must be restarted |
//!
//! One process has a journal open at a time. The next process delivers what an earlier one left,
//! each record under the stream and number in its receipt. A write that a crash tore was never
//! acknowledged, and is skipped. If acknowledged records are damaged or missing, opening fails with
//! [`Damaged`](OpenErrorKind::Damaged), names file and offset, and changes nothing. An object that
//! meets a conflict is kept in the directory as `<stream>-<first sequence>.conflict`, and later
//! ones are delivered.
//!
//! [`flush`](audit_core::AuditSink::flush) and [`close`](audit_core::AuditSink::close) wait until
//! everything is in the bucket. Put a time limit on `close`: what is not in the bucket by then
//! stays in the journal, and is delivered after the next opening.
//!
//! The files are text, except for compressed and signed parts. The project's `docs/FORMAT.md`
//! describes them.
//!
//! # Evidence
//!
//! With [`evidence`](Settings::evidence), the metadata of each object (`format` 2) has the signed
//! root of a Merkle tree over all records of its stream. Anyone with the host's
//! [public key](S3Sink::verifier_key) can then verify what was logged. In a directory a file beside
//! the object holds the metadata; it is written first. System records of the host, in
//! `_audit/dt=…/hour=…/<stream>-<number>.system`, say when a stream began, that the host is alive,
//! which records met a conflict, and that the stream ended. They have numbers of the stream, so its
//! first batch begins at 1.
//!
//! In direct mode a process that dies may leave a gap: missing records before others that arrived.
//! None of the missing records was acknowledged, and each object states the number below which all
//! records were acknowledged. To an auditor such a gap is therefore *unproven*, and never *tampered
//! with*. After a day at most another stream begins, and the private key of the previous one is
//! destroyed.
//!
//! With a journal, the private key of a stream is in `<stream>.secret` in the journal's directory
//! until the stream is delivered. The state that the next signature depends on is durable together
//! with what was signed before, so that no crash can lead to two histories. The next opening, or
//! [`rescue::deliver`] without the host's key, continues where a host ended and closes its streams.
//!
//! The checkpoints of these roots go to [witnesses](EvidenceSettings::witnesses), if there are any,
//! once their system record is in the bucket. The next system record holds the cosignatures that
//! were received by then.
//!
//! # Required permissions
//!
//! To put and get objects under the prefix: on AWS `s3:PutObject` and `s3:GetObject` (HEAD needs
//! the latter), with `kms:GenerateDataKey` and `kms:Decrypt` where a customer's key encrypts.
//! Permissions to list or delete are not needed. If a role in the account of the bucket's owner is
//! [assumed](Bucket::open), the role needs these permissions, and the host's own identity needs
//! `sts:AssumeRole` for the role.
//! Opening a sink [checks](S3Sink::open) these, and whether the store refuses to overwrite objects
//! (AWS, GCS, Azure, Ceph on buckets without versions, MinIO and R2 do; Garage does not). On other
//! stores each record is still delivered once, but is not protected from holders of the same
//! credentials: see [`require_create_only`](Settings::require_create_only).
//!
//! On `file://` a receipt means that file and directories are synced; only their owner can access
//! them. An object is written under `_audit/unfinished/` and then renamed; opening the directory
//! removes the leftovers of writers that died ([`is_leftover`]). A failed sync is retried like any
//! other error, although the operating system may then falsely report success: use a directory for
//! development, or on reliable file systems.

#[cfg(feature = "bench_internals")]
#[doc(hidden)]
pub mod bench_internals;
mod bucket;
mod destination;
mod direct;
mod evidence;
pub mod layout;
mod object;
pub mod replay;
pub mod rescue;
mod route;
#[cfg(test)]
mod scale;
mod settings;
#[cfg(test)]
mod simulation;
mod sink;
#[cfg(test)]
#[path = "../tests/it/support/store_double.rs"]
mod store_double;
mod witness;

pub use audit_core::{OpenError, OpenErrorKind};
pub(crate) use audit_journal::health;
pub(crate) use audit_journal::shared::{bounds, executor, one_line, panic, take_once};
pub use audit_journal::{InvalidSettings, JournalSettings};
pub use bucket::Bucket;
pub use bucket::response::status;
pub use evidence::settings::EvidenceSettings;
pub use object::compression::Compression;
pub(crate) use object::encoded::ObjectMetadata;
pub(crate) use object::key::{ObjectKey, is_leftover};
pub(crate) use object::partition::Partition;
pub use route::S3Route;
pub use settings::Settings;
pub use sink::{S3Sink, S3SinkBuilder};
pub use witness::WitnessSettings;

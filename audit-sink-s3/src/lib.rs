//! An audit sink that delivers each record once to a bucket: S3 and what speaks its protocol,
//! Google Cloud Storage, Azure Blob Storage, a local directory.
//!
//! It makes a batch durable in one of two ways:
//!
//! - With a **journal** ([`Settings::journal`]): [`persist`](audit_core::AuditSink::persist)
//!   returns after one sync of a file on this host, and delivery to the bucket follows within
//!   seconds. A commit costs what the disk takes, and goes on while the bucket is away. For hosts
//!   with a disk that outlives them.
//! - **Direct**, which is the default since it needs no decision about a disk: nothing is kept on
//!   this host, and `persist` returns once the object that holds the batch is in the bucket. For
//!   hosts without a disk to trust, and for many hosts: they share nothing but the bucket.
//!
//! # Nouns
//!
//! - [`S3Sink`]: an [`AuditSink`](audit_core::AuditSink) on one bucket. Each opening starts a
//!   stream, in which records are numbered from 0.
//! - [`Bucket`]: a store and a prefix, from a URL and the environment, or from a store that the
//!   host made.
//! - [`Settings`]: how it groups, sends and waits; every default has its reason there.
//! - [`EvidenceSettings`]: under which name and with which key it signs what it writes.
//! - [`JournalSettings`]: where the journal is, how much it may take, how soon it is delivered.
//! - [`rescue`]: the delivery of a journal whose host is gone.
//! - [`Health`]: how it is doing, and why. The same goes to the `metrics` facade, under names that
//!   begin with `audit_`.
//! - [`layout`]: the keys, metadata and lines of objects, for programs that read a bucket.
//!
//! It rests on `audit-core` and `audit-journal`. Hosts open a sink and hand it to their runtime.
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
//! # What is in the bucket
//!
//! Objects of lines, one JSON object each, under
//! `<prefix>/dt=YYYY-MM-DD/hour=HH/<stream>-<first sequence>.ndjson.zst`, day and hour in UTC of
//! the first record: Hive partitions that Athena, Trino, Spark and DuckDB read as they are. In the
//! object's metadata stand `lastsequence`, `count`, `sha256` (of the uncompressed lines) and
//! `format` (the version of the layout); a directory keeps no metadata. Beside
//! them lies one small object, `_audit/probe`, which engines skip for its underscore.
//!
//! # How a batch is delivered
//!
//! In direct mode, batches that come within [`linger_ms`](Settings::linger_ms) of each other share
//! an object, up to [`max_object_bytes`](Settings::max_object_bytes); a batch is never divided. The
//! object is encoded once and its bytes are put, with the condition that nothing stands under the
//! key, until what became of it is certain. With a journal the object is cut when it is full or
//! [`cut_after_ms`](JournalSettings::cut_after_ms) have passed, and is durable in a file, with its
//! key, before the first request: whoever opens the journal next sends those very bytes. Either
//! way:
//!
//! | answer | meaning | next |
//! |---|---|---|
//! | success | delivered | receipts |
//! | timeout, reset, 5xx, 429 | unknown | the same bytes again, after a pause with full jitter, for ever |
//! | already exists | ours? | compare its hash: the same is delivered, another is a *conflict* |
//! | 409 of S3 | contention | compare, then again |
//! | a panic of the client or of a delivery task | unknown | retried slowly, for ever; counted, an error in the log, and in [`Health`] |
//! | 403, 404, credentials, certificate, encryption key, full disk | blocked | again, slowly, for ever; an error in the log, and in [`Health`] |
//!
//! A request that takes longer than 95% of the last 64 successful ones did gets a second one beside
//! it, with the same bytes for the same key: the first certain answer counts.
//!
//! A key is never used for other bytes, so no answer, however late or lost, can store a record
//! twice. What a caller hears in direct mode:
//!
//! | `persist` | the batch |
//! |---|---|
//! | receipt | is in the bucket, once, where the receipt says |
//! | *not persisted*, `Unavailable` or `Blocked` | was not sent in [`persist_timeout_ms`](Settings::persist_timeout_ms), and was taken back; or met a conflict |
//! | *indeterminate*, `Unavailable` or `Blocked` | was sent and is not certain yet. The sink goes on with it, so that it may arrive, once |
//! | *not persisted*, `Closed` | came after `close` |
//!
//! The message ends with the last response: who refused, why, and what to do. Dropping the future
//! of `persist` takes nothing back.
//!
//! A conflict means that somebody else wrote under a key of this sink's stream. That object is left
//! alone, the batches that were meant for it fail, and their sequence numbers are not used again.
//! So a stream has a gap after that, and after a crash in direct mode: objects may have been on
//! their way that nobody was told of, before ones that had arrived.
//!
//! # The journal
//!
//! | `persist` with a journal | the batch |
//! |---|---|
//! | receipt, *journaled* | is synced to this host's disk, and will be in the bucket once, also if this process dies now |
//! | *not persisted*, `Unavailable` | found no room in [`persist_timeout_ms`](Settings::persist_timeout_ms): the bucket has been away for long, or the disk is full. There is none to be dropped: functions fail until there is room again, and then go on |
//! | *indeterminate*, `Unavailable` | found no space on the disk while it was written. It may be found by the next opening, if no later batch becomes durable before. The journal goes on by itself once there is space |
//! | *indeterminate*, `Closed` | met a write or sync that failed otherwise, or a panic of the thread that commits. Whether it is durable only the next opening can tell; until then nothing more is taken |
//! | *not persisted*, `Closed` | came after `close`, or after such a failure: [`Commits::Stopped`] then says so, and the process must be restarted |
//!
//! One process has a journal open at a time. What one process left, killed or not, the next one
//! delivers, each record under the stream and number that its receipt named. A write that a crash
//! tore was never acknowledged, and is left out; if records that were acknowledged are damaged or
//! missing, opening fails as [`Damaged`](OpenErrorKind::Damaged), naming file and offset, and
//! changes nothing. An object that meets a conflict is kept in the directory as
//! `<stream>-<first sequence>.conflict`, and later ones go on.
//!
//! [`flush`](audit_core::AuditSink::flush) and [`close`](audit_core::AuditSink::close) wait until
//! everything is in the bucket. Put a limit on `close`: what is not there by then stays in the
//! journal, and is delivered when it is opened next.
//!
//! The files are text but for what is compressed and signed, and are described in the project's
//! `docs/FORMAT.md`.
//!
//! # Evidence
//!
//! With [`evidence`](Settings::evidence), each object carries in its metadata (`format` 2) the
//! signed root of a Merkle tree over all records of its stream, so that whoever
//! has the host's [public key](S3Sink::verifier_key) can prove what was logged. In a directory it
//! stands in a file beside the object, which is written first. The host says in records of its own,
//! in `_audit/dt=…/hour=…/<stream>-<number>.system`, when a stream began, that it lives, which
//! records met a conflict, and that the stream ended: they have numbers of the stream, so that its
//! first batch begins at 1.
//!
//! In direct mode a process that dies may leave out records before ones that arrived; none of them
//! was acknowledged, and each object says below which number all were. So such a gap is *unproven*
//! to an auditor, and never *tampered with*. After a day at most, another stream begins, and the
//! private key of the one before is gone.
//!
//! With a journal, a stream's private key is in `<stream>.secret` in the journal's directory until
//! the stream is delivered, and what the next signature depends on is durable with what was signed
//! before: no crash can leave two histories. The next opening, or [`rescue::deliver`] without the
//! host's key, goes on where a host ended, and closes its streams.
//!
//! # What the bucket must allow
//!
//! To put and to get objects under the prefix: on AWS `s3:PutObject` and `s3:GetObject` (HEAD needs
//! the latter), with `kms:GenerateDataKey` and `kms:Decrypt` where a customer's key encrypts.
//! Neither listing nor deleting. Opening a sink [checks](S3Sink::open) that, and whether the store
//! refuses to overwrite what exists (AWS, GCS, Azure, Ceph on buckets without versions, MinIO and
//! R2 do; Garage does not). Where it does not, each record is still delivered once, and nothing
//! protects it from others with the same credentials: see
//! [`require_create_only`](Settings::require_create_only).
//!
//! On `file://` a receipt means synced, file and directories; both are for their owner alone. An
//! object is written under `_audit/unfinished/` until it has its name; opening the directory
//! removes what writers that died left there ([`is_leftover`]). An error of a
//! sync is retried like any other, though the operating system may then claim a success that is
//! none; a directory is for development and for file systems that do not fail.

#[cfg(feature = "bench_internals")]
#[doc(hidden)]
pub mod bench_internals;
mod bucket;
mod destination;
mod direct;
mod error;
mod evidence;
pub mod layout;
mod object;
pub mod rescue;
#[cfg(test)]
mod scale;
mod settings;
#[cfg(test)]
mod simulation;
mod sink;

pub(crate) use audit_journal::health;
pub use audit_journal::{InvalidSettings, JournalSettings};
// Shared with the journal.
pub(crate) use audit_journal::shared::{bounds, executor, one_line, panic, take_once};
pub use bucket::Bucket;
pub use bucket::response::status;
pub use error::{OpenError, OpenErrorKind};
pub use evidence::settings::EvidenceSettings;
pub use object::compression::Compression;
pub(crate) use object::encode::ObjectMetadata;
pub(crate) use object::key::{ObjectKey, is_leftover};
pub(crate) use object::partition::Partition;
pub use settings::Settings;
pub use sink::{S3Sink, S3SinkBuilder};

//! An audit sink that delivers to log streams over HTTP: signed webhooks, and the intakes of
//! Splunk, OpenTelemetry, Datadog, Axiom, CloudEvents and OCSF.
//!
//! It makes a batch durable in one of two ways:
//!
//! - **Direct**: [`persist`](audit_core::AuditSink::persist) returns once the receiver has answered
//!   with success. Alone, or behind `Tee` with a bucket, whose ids the records then keep.
//! - With a **journal** ([`Settings::journal`]): `persist` returns after one sync of a file on this
//!   host, and delivery follows. For a log stream alone, without a bucket.
//!
//! # Nouns
//!
//! - [`HttpSink`]: an [`AuditSink`](audit_core::AuditSink) on one receiver.
//! - [`Settings`]: the receiver and how to send to it, with a reason for every default.
//! - [`Format`]: the format of requests.
//! - [`SecretSource`]: the location of a secret. Secrets are in the environment or in files, and
//!   never in errors, logs or `Debug`.
//! - [`DeadLetter`]: a record that the receiver will never accept.
//! - [`LogStream`]: a receiver for sending by hand.
//!
//! # Example
//!
//! ```no_run
//! use audit_core::{AuditSink, Batch, Durability};
//! use audit_sink_http::{Format, HttpSink, Settings};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings {
//!     secrets: vec!["env:AUDIT_STREAM_SECRET".parse()?],
//!     ..Settings::new("https://siem.example.com/audit", Format::Webhook)
//! };
//! let sink = HttpSink::open(settings).await?;
//! let batch = Batch::from_lines(1_700_000_000_000, "{\"event\":\"login\"}\n".into())?;
//! assert_eq!(sink.persist(batch).await?.durability, Durability::Delivered);
//! sink.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # At least once, each time with the same id
//!
//! A record's id, its stream and sequence, is in every envelope. HTTP has no condition that makes a
//! receiver accept a record only once, so a request whose response is lost is sent again: a
//! receiver that wants each record once compares ids. A repeated request has the same `webhook-id`,
//! which names the stream and the range of its records.
//!
//! | answer | meaning | next |
//! |---|---|---|
//! | 2xx | delivered; with [`Settings::indexer_ack_ms`] once Splunk's indexers have it, else *unknown* | |
//! | 2xx before the whole request was sent | unknown | as below |
//! | 207, whose body may say that records were not taken | blocked | as below |
//! | 2xx with a body that no receiver of the format sends, as a page to sign in at (Splunk, OTLP, Datadog, Axiom) | blocked; unknown if it is cut off | as below |
//! | timeout, reset, 408, 5xx | unknown | the same request is retried indefinitely, after a backoff with full jitter |
//! | 429, and any `Retry-After` | later | the same, after the time that the receiver asks for |
//! | 400, 422; 413 | rejected | divided; a single record is set aside, or the batch fails |
//! | a redirect, other 4xx, a certificate, a private address | blocked | retried slowly and indefinitely; an error in the log and in `Health` |
//!
//! With a journal, or behind a bucket, a rejected record is *set aside* in a file of
//! [`Settings::dead_letters`], and the others are delivered. Without either, `persist` fails, with
//! *not persisted* if no part of the batch can have arrived. A batch that is larger than a request
//! is sent in several, so a part of it may have arrived.
//!
//! A record that exceeds the receiver's limit is replaced by
//! `{"tooLarge":{"stream","sequence","bytes","sha256"}}`: the record itself is in the bucket, or
//! set aside. Without either, `persist` refuses it.
//!
//! | `persist` without a journal | the batch |
//! |---|---|
//! | receipt | is at the receiver |
//! | *not persisted* | was not sent within [`Settings::persist_timeout_ms`], is too large, or was rejected |
//! | *indeterminate* | was sent, and its outcome is not certain yet: the sink continues with it; or was rejected in part |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod acknowledgment;
mod dead_letters;
mod delivery;
mod destination;
mod direct;
mod envelope;
mod event;
mod format;
mod members;
mod ocsf;
mod receiver;
mod response;
mod secret;
mod settings;
mod signature;
mod sink;

pub use audit_core::{OpenError, OpenErrorKind};
pub use audit_journal::{Follower, InvalidSettings, JournalSettings};

pub use self::dead_letters::{DeadLetter, SetAside};
pub use self::format::{Format, RequestLimits};
pub use self::secret::SecretSource;
pub use self::settings::{Origin, Settings};
pub use self::sink::{HttpSink, LogStream, follower, follower_of_route};

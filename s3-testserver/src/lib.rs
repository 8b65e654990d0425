//! An in-process S3 or Google Cloud Storage server for tests that can fail on purpose.
//!
//! It speaks real HTTP on a loopback port chosen by the operating system, checks every SigV4
//! signature and every checksum, and lets exactly one of many racing `If-None-Match: *` writers
//! win. Unlike a real store, each request can be made to fail in a chosen way, the test can inspect
//! the stored objects without HTTP, and it can prove that a fault happened.
//!
//! # Nouns
//!
//! - [`S3TestServer`]: one bucket behind one port, of S3 or
//!   [of GCS](S3TestServer::start_gcs). It can be [paused](S3TestServer::pause)
//!   (connections refused and cut) and [resumed](S3TestServer::resume) on the same port with the
//!   same data.
//! - [`StoredObject`]: an object, as an independent checker sees it ([`S3TestServer::objects`]).
//!   [`S3TestServer::put_object`] and [`S3TestServer::delete_object`] change it behind the client's
//!   back.
//! - [`S3TestServer::set_policies`], [`set_versioning`](S3TestServer::set_versioning),
//!   [`set_object_lock`](S3TestServer::set_object_lock),
//!   [`ignore_checksums`](S3TestServer::ignore_checksums),
//!   [`set_clock_offset`](S3TestServer::set_clock_offset): the configuration of the bucket, good or
//!   bad.
//! - [`S3TestServer::set_role`], [`expire_sessions`](S3TestServer::expire_sessions), [`Session`]: a
//!   role in the bucket's account, which STS gives to the server's keys at the same address.
//! - [`Faults`], [`Fault`], [`ErrorAnswer`]: which requests fail, and how.
//! - [`RequestInfo`]: one request as it arrived; [`S3TestServer::requests`] lists all of them.
//!
//! # What it is not
//!
//! `s3s` parses the protocol and checks signatures. The store is a map in memory under one lock, so
//! writes are atomic whatever the client does: an object exists completely with its metadata or not
//! at all, and a failed checksum leaves nothing behind. One bucket; PUT, GET (ranges too), HEAD,
//! DELETE and listing; versions as far as deletion needs them, and a default retention. Encryption,
//! storage class and tags are accepted but only recorded in [`RequestInfo::headers`]. Everything
//! else (multipart, copies, retention of single objects, conditional reads, headers that would have
//! to be stored) is refused, never ignored. An emulator proves how a client behaves, not how any
//! vendor's store does.
//!
//! # Example
//!
//! ```
//! use object_store::aws::AmazonS3Builder;
//! use object_store::{ObjectStoreExt, RetryConfig, path::Path};
//! use s3_testserver::{ErrorAnswer, Fault, S3TestServer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> object_store::Result<()> {
//! let server = S3TestServer::start().await;
//! let store = AmazonS3Builder::new()
//!     .with_endpoint(server.endpoint())
//!     .with_allow_http(true)
//!     .with_bucket_name(server.bucket())
//!     .with_access_key_id(server.access_key())
//!     .with_secret_access_key(server.secret_key())
//!     .with_retry(RetryConfig { max_retries: 0, ..Default::default() })
//!     .build()?;
//!
//! // The first PUT is stored, but the client is told that it failed.
//! let fault = Fault::StoredThenError(ErrorAnswer::INTERNAL_ERROR);
//! server.faults().next_puts([fault]);
//! assert!(store.put(&Path::from("a"), "1".into()).await.is_err());
//! assert_eq!(server.objects()["a"].bytes, "1");
//! assert_eq!(server.faults().fired(), [fault]);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod connection;
mod faults;
mod policy;
mod requests;
mod server;
mod store;
mod sts;

pub use faults::{ErrorAnswer, Fault, Faults};
pub use requests::RequestInfo;
pub use server::S3TestServer;
pub use store::{RetentionMode, StoredObject};
pub use sts::Session;

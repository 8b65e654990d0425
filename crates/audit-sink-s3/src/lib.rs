//! An audit sink that delivers each record once to a bucket: S3 and what speaks its protocol, Google Cloud Storage,
//! Azure Blob Storage, a local directory.
//!
//! mod docs to come

mod answer;
mod bucket;
mod deliver;
mod direct;
mod encode;
mod error;
mod health;
mod key;
mod probe;
mod settings;
mod sink;

pub use bucket::Bucket;
pub use encode::{Compression, FORMAT_VERSION, ObjectMetadata};
pub use error::{OpenError, OpenErrorKind};
pub use health::{Health, HealthState};
pub use key::{InvalidKey, ObjectKey};
pub use settings::{InvalidSettings, Settings};
pub use sink::{S3Sink, S3SinkBuilder};

//! The layout of a bucket, for programs that read it.
//!
//! A reader opens a [`Bucket`] with [`Bucket::open_to_read`], lists the days and hours that it
//! needs ([`Bucket::level`], [`Partition`]), lists their objects ([`Bucket::list`], [`ObjectKey`])
//! and decodes each ([`LineDecoder`]). [`ObjectMetadata`] must then match its content.
//! `docs/FORMAT.md` specifies the bytes for readers in other languages.
//!
//! Skip everything that is not an object of records: [`Listed::Other`], which includes the
//! [leftovers](is_leftover) of crashed writers, and everything below [`SYSTEM_PREFIX`], where hosts
//! write about their streams.
//!
//! ```
//! use audit_core::{AuditSink, Batch};
//! use audit_sink_s3::layout::{LineDecoder, Listed};
//! use audit_sink_s3::{Bucket, S3Sink, Settings};
//! use futures::TryStreamExt;
//! use object_store::ObjectStoreExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let url = format!("file://{}", directory.path().display());
//! # let sink = S3Sink::open(&url, Settings::default()).await?;
//! # sink.persist(Batch::from_lines(0, "{\"event\":\"login\"}\n".into())?).await?;
//! # sink.close().await?;
//! let bucket = Bucket::open_to_read(&url, Bucket::READ_RETRY)?;
//! let mut records = Vec::new();
//! for day in bucket.level(None).await?.partitions {
//!     let mut listed = bucket.list(&day);
//!     while let Some(found) = listed.try_next().await? {
//!         let Listed::Object(object) = found else { continue };
//!         let bytes = bucket.store().get(&object.location).await?.bytes().await?;
//!         let mut decoder = LineDecoder::new(object.key.compression());
//!         decoder.push(&bytes, |line| records.push(line.to_vec()))?;
//!         decoder.finish()?;
//!     }
//! }
//! assert_eq!(records, [b"{\"event\":\"login\"}"]);
//! # Ok(())
//! # }
//! ```

use audit_core::is_not_regular;
use audit_evidence::Sidecar;
use object_store::{Attribute, Attributes, GetOptions, ObjectStore};

use crate::Bucket;

pub use crate::bucket::listing::{Level, Listed, ListedObject};
pub use crate::object::compression::Compression;
pub use crate::object::decode::{DecodedLines, LineDecoder};
pub use crate::object::decompress::{DecodeError, MAX_OBJECT_BYTES};
pub use crate::object::encoded::ObjectMetadata;
pub use crate::object::key::{InvalidKey, ObjectKey, SYSTEM_PREFIX, is_leftover};
pub use crate::object::partition::{InvalidPartition, Partition};

/// The metadata of an object: its attributes in the store or, in a directory, its metadata file.
#[derive(Debug, Clone)]
pub struct Metadata(Members);

#[derive(Debug, Clone)]
enum Members {
    Attributes(Attributes),
    /// `None` if the file is missing or malformed.
    Sidecar(Option<Sidecar>),
}

impl Metadata {
    /// The value of a member. `None` if the object does not have it.
    pub fn get(&self, name: &str) -> Option<&str> {
        match &self.0 {
            Members::Attributes(attributes) => {
                let name = Attribute::Metadata(name.to_owned().into());
                attributes.get(&name).map(AsRef::as_ref)
            }
            Members::Sidecar(sidecar) => sidecar.as_ref()?.get(name),
        }
    }
}

impl Bucket {
    /// The metadata of the object at `key`, for which the store returned `attributes`. In a
    /// directory this reads one small file; elsewhere it makes no request.
    ///
    /// # Errors
    ///
    /// If that file exists but cannot be read.
    pub async fn metadata(
        &self,
        key: &ObjectKey,
        attributes: Attributes,
    ) -> object_store::Result<Metadata> {
        if !self.is_directory() {
            return Ok(Metadata(Members::Attributes(attributes)));
        }
        let path = self.path(&Sidecar::key_of(&key.to_string()));
        let sidecar = match self.store().get_opts(&path, GetOptions::new()).await {
            Ok(found) if found.meta.size > Sidecar::MAX_BYTES => None,
            Ok(found) => Sidecar::parse(&found.bytes().await?),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) if is_not_regular(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Metadata(Members::Sidecar(sidecar)))
    }
}

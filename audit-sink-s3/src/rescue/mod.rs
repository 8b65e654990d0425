//! Journals whose host is gone: what is in one is delivered, or delivered again.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use audit_journal::OrphanedJournal;
//! use audit_sink_s3::{Bucket, Settings, rescue};
//!
//! let journal = OrphanedJournal::open("/mnt/rescued/journal").await?;
//! println!("{} records are not known to be in the bucket", journal.state().undelivered());
//! let bucket = Bucket::open("s3://bucket/prefix")?;
//! let delivering = rescue::deliver(journal, bucket, Settings::default()).await?;
//! assert_eq!(delivering.finished().await?.conflicts, 0);
//! # Ok(())
//! # }
//! ```

mod redelivery;

use std::sync::Arc;

use audit_core::{Random, SystemRandom};
use audit_journal::{JournalDelivering, OrphanedJournal};

use self::redelivery::Redelivery;
pub use self::redelivery::{ForeignObject, GoneRecords, JournalRedelivered};
use crate::bucket::probe::probe;
use crate::bucket::put::Put;
use crate::destination::BucketDestination;
use crate::health::HealthBoard;
use crate::{Bucket, OpenError, Settings};

/// Begins to bring to the bucket what is not there yet, each record under the stream and number
/// that its receipt named: objects that were planned byte by byte as they were, and what was not
/// cut into objects yet. Streams with evidence are closed, with their keys, which the journal holds
/// until then; the host's own key is not needed. It must be the bucket that the host wrote to, or
/// records stand in another place than those before them.
///
/// The settings' `journal` is not used.
///
/// # Errors
///
/// When the settings are not valid or the bucket refuses, as when a sink is opened; and when the
/// journal holds objects for something else than a bucket.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn deliver(
    journal: OrphanedJournal,
    bucket: Bucket,
    settings: Settings,
) -> Result<JournalDelivering, OpenError> {
    let max_object_bytes = settings.max_object_bytes;
    let put = probed(bucket, settings).await?;
    let health = Arc::clone(&put.health);
    let destination = Arc::new(BucketDestination::new(put, None, Arc::new(SystemRandom)));
    journal.deliver(destination, max_object_bytes, health).map_err(OpenError::of_journal)
}

/// Begins to bring to the bucket what was delivered once, is still in the journal, and is missing
/// from the bucket: somebody deleted it, or brought back an older state. It lists the bucket and
/// looks at every object that holds records of the journal, so the credentials must be allowed to
/// list. What [`deliver`] would deliver is left to that.
///
/// An object that is missing between two others comes back under its key, byte for byte, if the
/// settings have the host's `max_object_bytes`. Where several in a row are missing, nothing says
/// any more how they were cut: their records come back in objects of that size, compressed as those
/// beside them are, or else as the settings say. Records that are in the bucket are never put there
/// a second time, wherever they are; and no object is overwritten.
///
/// What a host wrote about its streams does not come back, and objects of streams with evidence
/// come back without it: the keys that could sign them are destroyed. `audit verify` says so.
///
/// It can be stopped and begun again at any time, with the same settings. Besides the reasons of
/// any delivery, it ends with an error when the journal cannot be read, and when the bucket refuses
/// to be listed or read.
///
/// # Errors
///
/// When the settings are not valid or the bucket refuses, as when a sink is opened.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn deliver_again(
    journal: &OrphanedJournal,
    bucket: Bucket,
    settings: Settings,
) -> Result<JournalDelivering<JournalRedelivered>, OpenError> {
    let put = probed(bucket, settings.clone()).await?;
    let health = Arc::clone(&put.health);
    let work = Redelivery { journal: journal.kept(), put: Arc::new(put), settings };
    Ok(JournalDelivering::new(health, tokio::spawn(work.run())))
}

/// What puts objects into this bucket, after a look at whether it takes any.
async fn probed(bucket: Bucket, settings: Settings) -> Result<Put, OpenError> {
    settings.check().map_err(|error| {
        OpenError::configuration("the settings of the audit sink are not valid").with_source(error)
    })?;
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let health = HealthBoard::new(bucket.to_string());
    probe(&bucket, &settings, &*random).await?;
    Ok(Put::new(bucket, health, random, settings))
}

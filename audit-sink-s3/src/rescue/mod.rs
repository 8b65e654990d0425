//! Delivers the journal of a host that is gone, or delivers it again.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use audit_journal::OrphanedJournal;
//! use audit_sink_s3::{Bucket, Settings, rescue};
//!
//! let journal = OrphanedJournal::open("/mnt/rescued/journal").await?;
//! println!("{} records are not known to be in the bucket", journal.state().undelivered());
//! let bucket = Bucket::open("s3://bucket/prefix")?;
//! // Each of the customers that share the journal has a bucket of its own.
//! let settings = Settings::default();
//! let acme = rescue::route("acme", Bucket::open("s3://acme-audit")?, &settings).await?;
//! let delivering = rescue::deliver(journal, bucket, vec![acme], Vec::new(), settings).await?;
//! assert_eq!(delivering.finished().await?.conflicts, 0);
//! # Ok(())
//! # }
//! ```

mod redelivery;

use std::sync::Arc;

use audit_core::{Random, SystemRandom};
use audit_journal::{Follower, JournalDelivering, OrphanedJournal, RouteOpening};

use self::redelivery::Redelivery;
pub use self::redelivery::{ForeignObject, GoneRecords, JournalRedelivered};
use crate::bucket::probe::probe;
use crate::bucket::put::Put;
use crate::destination::BucketDestination;
use crate::health::HealthBoard;
use crate::route::{self, RouteParts};
use crate::{Bucket, OpenError, Settings};

/// Begins to deliver the records that are not in the bucket yet, each under the stream and number
/// in its receipt: planned objects with the same bytes, and records that are not in objects yet.
/// Streams with evidence, also of routes, are closed, with their keys, which the journal holds
/// until then; the host's own key is not needed. The bucket must be the one that the host wrote to:
/// otherwise a stream is divided between two buckets.
///
/// The given followers, which the journal must know by name, get the records that they do not have
/// yet. Other followers get none. If segments are removed, the files of these followers list the
/// records that they miss.
///
/// The given [routes](route()), which the journal must know by name too, get the records that they
/// do not have yet, and so do their [followers](RouteOpening::followers). Routes are delivered
/// concurrently and independently of each other. Records of other routes stay in the journal. Keep
/// the [`health`](RouteOpening::health) of each route to learn how its delivery went: the returned
/// value reports on `bucket` only, but waits for all routes.
///
/// The settings' `journal` is not used.
///
/// # Errors
///
/// Those of opening a sink, and if the journal contains objects for another kind of destination,
/// knows no follower or route of a name, or cannot be read or written.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn deliver(
    journal: OrphanedJournal,
    bucket: Bucket,
    routes: Vec<RouteOpening>,
    followers: Vec<Follower>,
    settings: Settings,
) -> Result<JournalDelivering, OpenError> {
    let max_object_bytes = settings.max_object_bytes;
    let put = probed(bucket, settings).await?;
    let health = Arc::clone(&put.health);
    let destination = Arc::new(BucketDestination::new(put, None, Arc::new(SystemRandom)));
    journal.deliver(destination, routes, followers, max_object_bytes, health).await
}

/// A route of a journal that is [delivered](deliver), with the bucket that gets its records: the
/// one that the host wrote them to, unless that is gone.
///
/// Probes the bucket, as opening a sink does. A refusal is an error.
///
/// # Errors
///
/// Those of opening a sink.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn route(
    name: &str,
    bucket: Bucket,
    settings: &Settings,
) -> Result<RouteOpening, OpenError> {
    check(settings)?;
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let bucket = bucket.for_route(name);
    let health = HealthBoard::new(bucket.to_string());
    route::probe_of(&bucket, settings, &random, &health).await?;
    let parts = RouteParts { settings, random: &random, evidence: None };
    Ok(route::opening(name, bucket, parts, health))
}

/// Begins to restore records that were delivered once, are still in the journal, and are missing
/// from the bucket: they were deleted, or an older state of the bucket was restored. It lists the
/// bucket and reads every object with records of the journal, so the credentials must be allowed to
/// list. Undelivered records are left to [`deliver`], and those of routes to
/// [`deliver_route_again`].
///
/// A single missing object between two others is restored under its key, byte for byte, if the
/// settings have the host's `max_object_bytes`. If several in a row are missing, their boundaries
/// are unknown: their records are restored in objects of that size, compressed as their neighbours
/// are, or else as the settings say. No record is stored twice, and no object is overwritten.
///
/// System records are not restored, and objects of streams with evidence are restored without it:
/// the keys that could sign them are destroyed. `audit verify` reports this.
///
/// It can be stopped and restarted at any time, with the same settings. It ends with an error for
/// the same reasons as any delivery, and if the journal, a listing or an object of the bucket
/// cannot be read.
///
/// # Errors
///
/// Those of opening a sink.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn deliver_again(
    journal: &OrphanedJournal,
    bucket: Bucket,
    settings: Settings,
) -> Result<JournalDelivering<JournalRedelivered>, OpenError> {
    again(journal, 0, bucket, settings).await
}

/// Like [`deliver_again`], for the records of the route with this
/// [number](audit_journal::JournalRoute::number), retired or not. The bucket must be the one that
/// the host wrote them to.
///
/// # Errors
///
/// Those of opening a sink.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn deliver_route_again(
    journal: &OrphanedJournal,
    route: u32,
    bucket: Bucket,
    settings: Settings,
) -> Result<JournalDelivering<JournalRedelivered>, OpenError> {
    again(journal, route, bucket, settings).await
}

async fn again(
    journal: &OrphanedJournal,
    route: u32,
    bucket: Bucket,
    settings: Settings,
) -> Result<JournalDelivering<JournalRedelivered>, OpenError> {
    let put = probed(bucket, settings.clone()).await?;
    let health = Arc::clone(&put.health);
    let work = Redelivery { journal: journal.kept(route), put: Arc::new(put), settings };
    Ok(JournalDelivering::new(health, tokio::spawn(work.run())))
}

/// Probes the bucket, and returns a [`Put`] that creates objects in it.
async fn probed(bucket: Bucket, settings: Settings) -> Result<Put, OpenError> {
    check(&settings)?;
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let health = HealthBoard::new(bucket.to_string());
    probe(&bucket, &settings, &*random).await?;
    Ok(Put::new(bucket, health, random, settings))
}

fn check(settings: &Settings) -> Result<(), OpenError> {
    settings.check().map_err(|error| {
        OpenError::configuration("the settings of the audit sink are not valid").with_source(error)
    })
}

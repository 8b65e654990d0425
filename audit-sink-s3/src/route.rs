//! Routes: sinks that share a journal, each on a bucket of its own.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use audit_core::{AuditSink, Batch, Health, Random, Receipt, SinkError, UniqueId, async_trait};
use audit_journal::{Follower, Journal, Route, RouteOpening};

use crate::bucket::probe::{Probe, probe};
use crate::bucket::put::Put;
use crate::destination::BucketDestination;
use crate::evidence::Evidence;
use crate::health::HealthBoard;
use crate::{Bucket, OpenError, OpenErrorKind, Settings};

/// A sink on the journal of an [`S3Sink`](crate::S3Sink), and on a bucket of its own: see
/// [`S3Sink::open_route`](crate::S3Sink::open_route).
///
/// - [`persist`](AuditSink::persist) returns once the batch is synced. A receipt names the route's
///   own [stream](Self::stream), whose records are numbered from 0.
/// - With [evidence](crate::Settings::evidence), each of its streams has a key of its own, which
///   the host's key certifies: `audit verify` needs the route's bucket and the host's public key.
///   A stream opens with its first record, and ends when the route is closed or after a day.
/// - The route has a share of [`max_bytes`](crate::JournalSettings::max_bytes): half of it, divided
///   among the routes that are not retired. When its undelivered records use it up, its `persist`
///   waits and then fails as *not persisted*, `Unavailable`; other routes go on.
/// - [`flush`](AuditSink::flush) waits for the route's records alone.
/// - [`close`](AuditSink::close) accepts nothing more, and returns once everything is in the
///   bucket. The journal still knows the route, and it can be opened again.
/// - [`retire`](Self::retire) closes it for good.
/// - [`health`](AuditSink::health) has its followers too, which nothing waits for.
///
/// Dropping it loses nothing: what was accepted is delivered in the background.
///
/// # Example
///
/// ```
/// use audit_core::{AuditSink, Batch};
/// use audit_sink_s3::{Bucket, JournalSettings, S3Sink, Settings};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let root = directory.path().display();
/// let journal = Some(JournalSettings::new(directory.path().join("journal")));
/// let settings = Settings { journal, ..Settings::default() };
/// let sink = S3Sink::open(&format!("file://{root}/own"), settings).await?;
///
/// let acme = sink.open_route("acme", Bucket::open(&format!("file://{root}/acme"))?).await?;
/// acme.persist(Batch::from_lines(1_700_000_000_000, "{\"event\":\"login\"}\n".into())?).await?;
/// acme.flush().await?;
/// assert!(directory.path().join("acme/dt=2023-11-14/hour=22").exists());
///
/// acme.retire().await?;
/// sink.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct S3Route {
    bucket: Bucket,
    route: Route,
    /// For conditions that stop all routes.
    journal: Arc<Journal>,
}

impl S3Route {
    pub(crate) async fn open(
        journal: &Arc<Journal>,
        name: &str,
        bucket: Bucket,
        followers: Vec<Follower>,
        parts: RouteParts<'_>,
    ) -> Result<S3Route, OpenError> {
        let RouteParts { settings, random, .. } = parts;
        let bucket = bucket.for_route(name);
        let health = HealthBoard::new(bucket.to_string());
        match probe_of(&bucket, settings, random, &health).await {
            // As long as the bucket refuses, the route's records wait in the journal, and other
            // routes go on.
            Err(error) if error.kind() == OpenErrorKind::Blocked => {
                let error = audit_core::with_sources(&error);
                tracing::error!(
                    route = name,
                    error,
                    "the bucket of a route refuses requests: its records wait in the journal"
                );
            }
            probed => probed?,
        }
        let opening = opening(name, bucket.clone(), parts, health);
        let opening = RouteOpening { followers, ..opening };
        let route = journal.open_route(opening).await?;
        Ok(S3Route { bucket, route, journal: Arc::clone(journal) })
    }

    /// Its name in the journal.
    pub fn name(&self) -> &str {
        self.route.name()
    }

    /// The bucket it delivers to.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The stream of its records in this opening of the journal, part of the key of every object.
    /// With evidence, the first of its streams; receipts name the stream of each record.
    pub fn stream(&self) -> UniqueId {
        self.route.stream()
    }

    /// [Closes](AuditSink::close) the route, and then retires it durably. A later route of this
    /// name is a new one, with streams of its own. The route's followers are retired too, and get
    /// at most five seconds to receive the records that they lack. Put a time limit on this call:
    /// it waits as long as the bucket is unreachable.
    ///
    /// # Errors
    ///
    /// If the journal has stopped, its disk fails, or a write of the route's batches failed with an
    /// unknown outcome, which the next opening settles. The route is then closed and not retired.
    /// Also if the route was opened again meanwhile: it then stays in use.
    ///
    /// # Cancellation
    ///
    /// The route is closed. It may be retired or not.
    pub async fn retire(&self) -> Result<(), SinkError> {
        self.route.retire().await
    }
}

/// Probes the bucket of a route, and notes in `health` whether it protects objects.
pub(crate) async fn probe_of(
    bucket: &Bucket,
    settings: &Settings,
    random: &Arc<dyn Random>,
    health: &HealthBoard,
) -> Result<(), OpenError> {
    health.create_only(match probe(bucket, settings, &**random).await? {
        Probe::CreateOnly => Some(true),
        Probe::Overwrites => Some(false),
        Probe::Unknown(_) => None,
    });
    Ok(())
}

/// What a route has from the sink whose journal it shares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouteParts<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) random: &'a Arc<dyn Random>,
    /// `None` if the sink writes no evidence, and in a rescue, which has no key.
    pub(crate) evidence: Option<&'a Evidence>,
}

pub(crate) fn opening(
    name: &str,
    bucket: Bucket,
    parts: RouteParts<'_>,
    health: Arc<HealthBoard>,
) -> RouteOpening {
    let RouteParts { settings, random, evidence } = parts;
    let evidence = evidence.map(|evidence| Arc::new(evidence.in_bucket(&bucket)));
    if let Some(evidence) = &evidence {
        health.verifier_key(evidence.verifier().to_string());
    }
    let (board, dice, place) = (Arc::clone(&health), Arc::clone(random), bucket.to_string());
    let put = Put::new(bucket, board, dice, settings.clone());
    let destination = Arc::new(BucketDestination::new(put, evidence, Arc::clone(random)));
    RouteOpening { name: name.to_owned(), destination, place, health, followers: Vec::new() }
}

#[async_trait]
impl AuditSink for S3Route {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        self.route.persist(batch).await
    }

    async fn flush(&self) -> Result<(), SinkError> {
        self.route.flush().await
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.route.close().await
    }

    fn health(&self) -> Health {
        self.route.health()
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
        Box::pin(self.journal.when_stopped())
    }
}

impl fmt::Display for S3Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Route({} to {})", self.route.name(), self.bucket)
    }
}

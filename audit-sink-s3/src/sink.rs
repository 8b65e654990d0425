//! The sink for a bucket, in direct mode or with a journal.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use audit_core::{
    AuditSink, Batch, Clock, Health, Random, Receipt, SinkError, SystemClock, SystemRandom,
    UniqueId, async_trait,
};
use audit_evidence::VerifierKey;
use audit_journal::{Bounds, Follower, Journal, JournalRoute, Opening};

use crate::bucket::probe::{Probe, probe};
use crate::bucket::put::Put;
use crate::destination::BucketDestination;
use crate::direct::{Direct, Parts};
use crate::evidence::Evidence;
use crate::executor::BlockingThreads;
use crate::health::HealthBoard;
use crate::route::{RouteParts, S3Route};
use crate::witness::Witnesses;
use crate::{Bucket, OpenError, Settings};

/// Delivers batches to a bucket; see the [crate's documentation](crate).
///
/// Dropping it without [`close`](AuditSink::close) loses nothing while the runtime lives: accepted
/// batches are delivered in the background.
#[derive(Debug)]
pub struct S3Sink {
    bucket: Bucket,
    stream: UniqueId,
    /// Routes derive their evidence from it.
    evidence: Option<Arc<Evidence>>,
    witnesses: Option<Arc<Witnesses>>,
    health: Arc<HealthBoard>,
    mode: Mode,
    /// Also used by routes.
    settings: Settings,
    random: Arc<dyn Random>,
}

/// The two ways in which a batch becomes durable.
#[derive(Debug)]
enum Mode {
    Direct(Box<Direct>),
    Journaled(Arc<Journal>),
}

impl S3Sink {
    /// Opens a sink on the bucket at `url`, with credentials and options from the environment: see
    /// [`Bucket::open`] for both.
    ///
    /// It checks that the bucket can be written to and whether it protects objects, with up to
    /// three small requests on the key `_audit/probe`. An unreachable bucket delays it by at most
    /// five seconds and is then logged as a warning, since it may recover.
    ///
    /// # Errors
    ///
    /// If the URL, the environment or the settings are invalid; if the bucket refuses access; and,
    /// if the settings require create-only, if the store is not known to be.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime. The sink lives in the runtime it was opened in.
    pub async fn open(url: &str, settings: Settings) -> Result<S3Sink, OpenError> {
        S3Sink::builder(Bucket::open(url)?).with_settings(settings).open().await
    }

    /// A builder, for a bucket or components of the caller's.
    pub fn builder(bucket: Bucket) -> S3SinkBuilder {
        S3SinkBuilder {
            bucket,
            settings: Settings::default(),
            followers: Vec::new(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }

    /// The bucket it writes to.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The stream of this opening, part of the key of every object it writes. With evidence, the
    /// first of its streams; receipts name the stream of each record.
    pub fn stream(&self) -> UniqueId {
        self.stream
    }

    /// Opens a route: a sink that shares this one's journal and delivers to a bucket of its own.
    ///
    /// One sync makes the records of all routes durable, and each record is delivered once, to its
    /// route's bucket. An unreachable bucket affects only its route. This sink's settings hold for
    /// routes too: with `evidence`, each route has its own, certified by the same key. See
    /// [`S3Route`].
    ///
    /// `name` identifies the route in the journal's directory: 1 to 64 lower-case letters, digits,
    /// `-`, `_` and `.`. Open all routes at every start: what an earlier process left is delivered
    /// once its route is open. The bucket may be another one than before; undelivered records go to
    /// the new one.
    ///
    /// # Errors
    ///
    /// Those of [`open`](S3Sink::open), except that a bucket that refuses access is not an error
    /// here: it is logged, and the records wait in the journal. Also when the sink has no journal,
    /// when the name is invalid or open already, or when the sink is closed.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancellation
    ///
    /// The route is not open, and the journal may know its name. It can be opened again.
    pub async fn open_route(&self, name: &str, bucket: Bucket) -> Result<S3Route, OpenError> {
        self.open_followed_route(name, bucket, Vec::new()).await
    }

    /// [Opens a route](Self::open_route) with followers: further destinations of its records, which
    /// nobody waits for.
    ///
    /// A follower gets every record of the route, and of no other route, at least once, under the
    /// stream and number in its receipt. Its name identifies it. A follower with a new name begins
    /// with the next record. Followers of the route that are not named are retired, and the records
    /// that they lack are noted as missing. For an unreachable follower, records are kept on the
    /// disk up to its share. Beyond that it is paused, and `audit replay` sends the records that it
    /// misses from the bucket.
    ///
    /// # Errors
    ///
    /// As [`open_route`](Self::open_route), and if a follower's name is invalid or there twice.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancellation
    ///
    /// The route is not open, and the journal may know its name. It can be opened again.
    pub async fn open_followed_route(
        &self,
        name: &str,
        bucket: Bucket,
        followers: Vec<Follower>,
    ) -> Result<S3Route, OpenError> {
        let Mode::Journaled(journal) = &self.mode else {
            return Err(OpenError::configuration(format!(
                "route {name:?} cannot be opened: routes share a journal, and the settings have none"
            )));
        };
        let evidence = self.evidence.as_deref();
        let parts = RouteParts { settings: &self.settings, random: &self.random, evidence };
        S3Route::open(journal, name, bucket, followers, parts).await
    }

    /// [Retires](S3Route::retire) the routes that are not open and have no undelivered records:
    /// those of customers that left. Returns the routes that are not open but have undelivered
    /// records, which wait until a process opens the route: open each under its name, on the bucket
    /// whose URL is its [`destination`](JournalRoute::destination), and retire it. A route that is
    /// being closed is returned too.
    ///
    /// Call it after the routes of all customers were opened. Without a journal it does nothing.
    ///
    /// # Errors
    ///
    /// If the journal's file of routes cannot be written, or the sink is closed. Each route may
    /// then be retired or not.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancellation
    ///
    /// Each route may be retired or not.
    pub async fn retire_unopened_routes(&self) -> Result<Vec<JournalRoute>, SinkError> {
        match &self.mode {
            Mode::Direct(_) => Ok(Vec::new()),
            Mode::Journaled(journal) => journal.retire_unopened_routes().await,
        }
    }

    /// The public key that verifies its evidence. `None` if it writes none.
    pub fn verifier_key(&self) -> Option<&VerifierKey> {
        self.evidence.as_deref().map(Evidence::verifier)
    }
}

/// Opens an [`S3Sink`]. See [`S3Sink::builder`].
#[derive(Debug)]
#[must_use]
pub struct S3SinkBuilder {
    bucket: Bucket,
    settings: Settings,
    followers: Vec<Follower>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl S3SinkBuilder {
    /// Replaces the default settings.
    pub fn with_settings(self, settings: Settings) -> S3SinkBuilder {
        S3SinkBuilder { settings, ..self }
    }

    /// Adds a further destination of the journal, which nobody waits for.
    pub fn with_follower(mut self, follower: Follower) -> S3SinkBuilder {
        self.followers.push(follower);
        self
    }

    /// Replaces the system's clock. It dates the stream's name and, with evidence, system records.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> S3SinkBuilder {
        S3SinkBuilder { clock, ..self }
    }

    /// Replaces the system's randomness. It makes the stream's name, which must be unique in the
    /// bucket, the backoff and, with evidence, private keys: anyone who can guess it can sign in
    /// the host's name.
    pub fn with_random(self, random: Arc<dyn Random>) -> S3SinkBuilder {
        S3SinkBuilder { random, ..self }
    }

    /// Opens the sink.
    ///
    /// # Errors
    ///
    /// As [`S3Sink::open`]; and when there are followers and no journal.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn open(self) -> Result<S3Sink, OpenError> {
        let S3SinkBuilder { bucket, settings, followers, clock, random } = self;
        if !followers.is_empty() && settings.journal.is_none() {
            return Err(OpenError::configuration(
                "followers are delivered to from a journal, and the settings have none",
            ));
        }
        settings.check().map_err(|error| {
            OpenError::configuration("the settings of the audit sink are not valid")
                .with_source(error)
        })?;
        let evidence = match settings.evidence.clone() {
            None => None,
            Some(settings) => {
                Some(Arc::new(Evidence::open(settings, &bucket, &clock, &random).await?))
            }
        };
        let witnesses = evidence.as_ref().and_then(|evidence| evidence.witnesses().cloned());
        let health = HealthBoard::new(bucket.to_string());
        if let Some(evidence) = &evidence {
            health.verifier_key(evidence.verifier().to_string());
        }
        health.create_only(match probe(&bucket, &settings, &*random).await? {
            Probe::CreateOnly => Some(true),
            Probe::Overwrites => Some(false),
            Probe::Unknown(_) => None,
        });
        let stream = UniqueId::generate(&*clock, &*random);
        let (own_settings, own_random) = (settings.clone(), Arc::clone(&random));
        let own_evidence = evidence.clone();
        let (board, dice) = (Arc::clone(&health), Arc::clone(&random));
        let put = Put::new(bucket.clone(), board, dice, settings.clone());
        let mode = match settings.journal.clone() {
            None => {
                let executor = Arc::new(BlockingThreads);
                let parts = Parts { stream, evidence, clock, random, put, executor, settings };
                Mode::Direct(Box::new(Direct::start(parts)))
            }
            Some(journal) => {
                let bounds = Bounds {
                    max_pending_bytes: settings.max_pending_bytes,
                    persist_timeout: settings.persist_timeout(),
                };
                let max_object_bytes = settings.max_object_bytes;
                let destination =
                    Arc::new(BucketDestination::new(put, evidence, Arc::clone(&random)));
                let health = Arc::clone(&health);
                let opening = Opening {
                    journal,
                    bounds,
                    max_object_bytes,
                    stream,
                    destination,
                    followers,
                    health,
                    clock,
                    random,
                };
                Mode::Journaled(Arc::new(opening.open().await?))
            }
        };
        let (settings, random, evidence) = (own_settings, own_random, own_evidence);
        Ok(S3Sink { bucket, stream, evidence, witnesses, health, mode, settings, random })
    }
}

#[async_trait]
impl AuditSink for S3Sink {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        match &self.mode {
            Mode::Direct(direct) => direct.persist(batch).await,
            Mode::Journaled(journal) => journal.persist(batch).await,
        }
    }

    async fn flush(&self) -> Result<(), SinkError> {
        match &self.mode {
            Mode::Direct(direct) => direct.flush().await,
            Mode::Journaled(journal) => journal.flush().await,
        }
    }

    async fn close(&self) -> Result<(), SinkError> {
        match &self.mode {
            Mode::Direct(direct) => direct.close().await?,
            Mode::Journaled(journal) => journal.close().await?,
        }
        // A crash here loses no record: all are in the bucket. Witnesses may not know the streams'
        // ends yet.
        if let Some(witnesses) = &self.witnesses {
            witnesses.finish().await;
        }
        Ok(())
    }

    fn health(&self) -> Health {
        let health = match &self.mode {
            Mode::Direct(direct) => self.health.health(direct.pending_bytes()),
            Mode::Journaled(journal) => journal.health(),
        };
        let witnesses = self.witnesses.as_ref().map(|witnesses| witnesses.health());
        Health { witnesses: witnesses.unwrap_or_default(), ..health }
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
        Box::pin(self.health.stopped())
    }
}

impl fmt::Display for S3Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Sink({})", self.bucket)
    }
}

#[cfg(test)]
mod tests {
    use audit_core::{Commits, Outcome, SinkErrorKind};

    use super::*;
    use crate::JournalSettings;

    #[test]
    fn sinks_and_futures_are_send() {
        fn crosses<T: Send + Sync + 'static>() {}
        fn is_send<T: Send>(value: T) -> T {
            value
        }
        crosses::<S3Sink>();
        crosses::<S3SinkBuilder>();
        crosses::<S3Route>();
        crosses::<OpenError>();
        drop(is_send(S3Sink::open("memory:///", Settings::default())));
    }

    /// A runtime that shuts down drops the sink's tasks. A handle used on another runtime must
    /// stop.
    #[test]
    fn a_sink_stops_with_its_runtime() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        for journal in [None, Some(JournalSettings::new(directory.path()))] {
            let settings = Settings { journal, ..Settings::default() };
            let (first, second) = (runtime(), runtime());
            let bucket = Bucket::open("memory:///").unwrap();
            let open = S3Sink::builder(bucket).with_settings(settings).open();
            let sink = first.block_on(open).unwrap();
            drop(first);
            let Commits::Stopped { reason } = sink.health().commits else { panic!("{sink:?}") };
            assert_eq!(second.block_on(sink.stopped()), reason);
            assert!(reason.contains("ended with its runtime"), "{reason}");
            let batch = Batch::from_lines(0, "{}\n".into()).unwrap();
            let error = second.block_on(sink.persist(batch)).unwrap_err();
            assert_eq!(
                (error.kind(), error.outcome()),
                (SinkErrorKind::Closed, Outcome::NotPersisted)
            );
        }
    }
}

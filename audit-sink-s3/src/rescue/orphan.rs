//! Delivers a journal that no process has open, and will not: its host is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_core::{Random, SinkError, SinkErrorKind, SystemRandom};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::redelivery::{JournalRedelivered, Redelivery};
use crate::bucket::probe::probe;
use crate::bucket::put::Put;
use crate::destination::BucketDestination;
use crate::health::HealthBoard;
use crate::journal::delivery::{self, JournalDelivery};
use crate::journal::disk::{Disk, LocalDisk};
use crate::journal::executor::BlockingThreads;
use crate::journal::plan::Decided;
use crate::journal::reader::{self, JournalState};
use crate::journal::recovery::Recovered;
use crate::journal::segments::LiveSegments;
use crate::journal::startup::{cannot_open, cannot_recover, read_whole};
use crate::{Bucket, Health, JournalSettings, OpenError, Settings};

/// The journal of a host that is gone, locked by this process and recovered: as if the host had
/// started again, but for that nothing new is written to it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use audit_sink_s3::{Bucket, OrphanedJournal, Settings};
///
/// let journal = OrphanedJournal::open("/mnt/rescued/journal").await?;
/// println!("{} records are not known to be in the bucket", journal.state().undelivered());
/// let delivering = journal.deliver(Bucket::open("s3://bucket/prefix")?, Settings::default()).await?;
/// assert_eq!(delivering.finished().await?.conflicts, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OrphanedJournal {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    recovered: Recovered,
    decided: Decided,
    state: JournalState,
    remove_delivered: bool,
}

impl OrphanedJournal {
    /// Locks and recovers a journal.
    ///
    /// A crash from here on, of this process or its host, leaves a journal that can be opened
    /// again, by this or by a sink.
    ///
    /// # Errors
    ///
    /// When there is none; when a process has it open; and as
    /// [`Damaged`](crate::OpenErrorKind::Damaged) when acknowledged records are damaged or missing,
    /// in which case nothing was changed.
    pub async fn open(directory: impl AsRef<Path>) -> Result<OrphanedJournal, OpenError> {
        let directory = directory.as_ref().to_owned();
        let opened = spawn_blocking(move || {
            // Opening would make it.
            reader::exists(&directory)?;
            let disk =
                LocalDisk::open(&directory).map_err(|error| cannot_open(&directory, error))?;
            let (recovered, decided) =
                read_whole(&disk).map_err(|error| cannot_recover(&directory, error))?;
            let state = reader::state(&directory, &disk, false, &recovered, &decided)
                .map_err(|error| cannot_open(&directory, error))?;
            let disk: Arc<dyn Disk> = Arc::new(disk);
            Ok(OrphanedJournal {
                directory,
                disk,
                recovered,
                decided,
                state,
                remove_delivered: false,
            })
        });
        match opened.await {
            Ok(opened) => opened,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// What it holds.
    pub fn state(&self) -> &JournalState {
        &self.state
    }

    /// Removes segments once all of them is delivered, instead of keeping them for whoever wants to
    /// compare. Objects that met a conflict stay.
    #[must_use]
    pub fn remove_delivered(self, remove_delivered: bool) -> OrphanedJournal {
        OrphanedJournal { remove_delivered, ..self }
    }

    /// Begins to bring to the bucket what is not there yet, each record under the stream and number
    /// that its receipt named: objects that were planned byte by byte as they were, and what was
    /// not cut into objects yet. It must be the bucket that the host wrote to, or records stand in
    /// another place than those before them.
    ///
    /// The settings' `journal` is not used.
    ///
    /// # Errors
    ///
    /// When the settings are not valid or the bucket refuses, as when a sink is opened.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn deliver(
        self,
        bucket: Bucket,
        settings: Settings,
    ) -> Result<JournalDelivering, OpenError> {
        let OrphanedJournal { directory, disk, recovered, decided, state: _, remove_delivered } =
            self;
        let max_object_bytes = settings.max_object_bytes;
        let put = probed(bucket, settings).await?;
        let health = Arc::clone(&put.health);
        let destination = BucketDestination::new(put);
        // Nothing is committed: the channels end at once, and delivery with what is there.
        let (_, durable) = watch::channel(recovered.end);
        let (_, commands) = mpsc::unbounded_channel();
        let journal = JournalSettings {
            retention_ms: if remove_delivered { 0 } else { u64::MAX },
            max_bytes: u64::MAX,
            ..JournalSettings::new(directory)
        };
        let delivery = JournalDelivery::new(delivery::Parts {
            disk,
            executor: Arc::new(BlockingThreads),
            live: Arc::new(LiveSegments::recovered(&recovered.segments, Instant::now())),
            destination: Arc::new(destination),
            health: Arc::clone(&health),
            max_object_bytes,
            journal,
            own_stream: None,
            durable,
            commands,
            decided,
        });
        let board = Arc::clone(&health);
        let task = tokio::spawn(async move {
            delivery.run().await;
            let Health {
                objects_delivered: objects, records_delivered: records, conflicts, ..
            } = board.health(0);
            Ok(JournalDelivered { objects, records, conflicts })
        });
        Ok(JournalDelivering { health, task })
    }

    /// Begins to bring to the bucket what was delivered once, is still in the journal, and is
    /// missing from the bucket: somebody deleted it, or brought back an older state. It lists the
    /// bucket and looks at every object that holds records of the journal, so the credentials must
    /// be allowed to list. What [`deliver`](Self::deliver) would deliver is left to that.
    ///
    /// An object that is missing between two others comes back under its key, byte for byte, if the
    /// settings have the host's `max_object_bytes`. Where several in a row are missing, nothing
    /// says any more how they were cut: their records come back in objects of that size,
    /// compressed as those beside them are, or else as the settings say. Records that are in the
    /// bucket are never put there a second time, wherever they are; and no object is overwritten.
    ///
    /// It can be stopped and begun again at any time, with the same settings.
    ///
    /// # Errors
    ///
    /// When the settings are not valid or the bucket refuses, as when a sink is opened.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn deliver_again(
        &self,
        bucket: Bucket,
        settings: Settings,
    ) -> Result<JournalDelivering<JournalRedelivered>, OpenError> {
        let put = probed(bucket, settings.clone()).await?;
        let health = Arc::clone(&put.health);
        let work = Redelivery {
            disk: Arc::clone(&self.disk),
            segments: self.recovered.segments.clone(),
            delivered: self.decided.delivered.iter().copied().collect(),
            put: Arc::new(put),
            settings,
        };
        Ok(JournalDelivering { health, task: tokio::spawn(work.run()) })
    }
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

/// A journal on its way to the bucket. Dropping it stops the delivery, and loses nothing.
#[derive(Debug)]
#[must_use]
pub struct JournalDelivering<T = JournalDelivered> {
    health: Arc<HealthBoard>,
    task: JoinHandle<Result<T, SinkError>>,
}

/// What came of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalDelivered {
    /// Objects that are in the bucket now; those that were found there too.
    pub objects: u64,
    /// Records in them.
    pub records: u64,
    /// Objects that were set aside, since another one stands under their key.
    pub conflicts: u64,
}

impl<T> JournalDelivering<T> {
    /// How it is doing.
    pub fn health(&self) -> Health {
        self.health.health(0)
    }

    /// Whether there is nothing to wait for any more.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until everything is in the bucket or set aside, however long the bucket is away.
    /// Dropping the future stops the delivery.
    ///
    /// # Errors
    ///
    /// When the delivery ended without an outcome. Of [`deliver_again`] also when the journal
    /// cannot be read, and when the bucket refuses to be listed or read.
    ///
    /// [`deliver_again`]: OrphanedJournal::deliver_again
    pub async fn finished(mut self) -> Result<T, SinkError> {
        match (&mut self.task).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(SinkError::not_persisted(
                SinkErrorKind::Closed,
                "the delivery of the journal ended without an outcome: begin it anew",
            )),
        }
    }
}

impl<T> Drop for JournalDelivering<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! The system records of a route's current stream, for a destination that vouches for streams, and
//! the change from one stream to the next.

use std::io;
use std::sync::Arc;

use audit_core::{Batch, Clock, Random, UniqueId};
use tokio::time::{Duration, Instant};

use crate::destination::{Destination, NewStream, StreamEnd, StreamSecret, SystemRecords};
use crate::disk::Disk;
use crate::format::{EncodedBatch, RouteStream};
use crate::progress::{ChainProgress, Progress, write_progress};
use crate::secret::write_secret;
use crate::shared::panic::catch;
use crate::streams::{Streams, WholeStream};

/// The delay before a failed disk operation is retried.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes the system records of a stream.
pub(crate) struct OwnRecords {
    records: Box<dyn SystemRecords>,
    parts: Parts,
    /// The predecessor that the next record names. It is marked as named, but the record is not
    /// committed yet.
    naming: Option<WholeStream>,
    /// The earliest time at which the disk is used again.
    again_at: Instant,
}

/// The parts shared by the system records of all streams of a route.
pub(crate) struct Parts {
    /// `None` for the default route.
    pub(crate) route: Option<RouteStream>,
    pub(crate) destination: Arc<dyn Destination>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) streams: Arc<Streams>,
}

impl OwnRecords {
    /// Creates the records of a stream that has begun.
    pub(crate) fn new(records: Box<dyn SystemRecords>, parts: Parts) -> OwnRecords {
        OwnRecords { records, parts, naming: None, again_at: Instant::now() }
    }

    /// The maximum number of records in a stream.
    pub(crate) fn max_records(&self) -> u64 {
        self.records.max_records()
    }

    /// The stream's first record.
    pub(crate) fn opened(&mut self, disk: &dyn Disk) -> EncodedBatch {
        let (now_ms, previous) = (self.now_ms(), self.previous(disk));
        self.encoded(now_ms, |records| records.opened(now_ms, previous.as_ref()))
    }

    /// Tells the system records that records are about to be committed.
    pub(crate) fn note_records(&mut self) {
        let now_ms = self.now_ms();
        self.records.note_records(now_ms);
    }

    /// The time until a system record is due.
    pub(crate) fn due_in(&self) -> Duration {
        Duration::from_millis(self.records.due_in_ms(self.now_ms()))
    }

    /// The record that is due.
    pub(crate) fn heartbeat(&mut self, disk: &dyn Disk) -> EncodedBatch {
        let (now_ms, previous) = (self.now_ms(), self.previous(disk));
        self.encoded(now_ms, |records| records.heartbeat(now_ms, previous.as_ref()))
    }

    fn encoded(
        &mut self,
        now_ms: i64,
        record: impl FnOnce(&mut dyn SystemRecords) -> String,
    ) -> EncodedBatch {
        let line = record(&mut *self.records) + "\n";
        let batch = Batch::from_lines(now_ms, line.into());
        EncodedBatch::system(batch.expect("a system record is one line"), self.parts.route)
    }

    fn now_ms(&self) -> i64 {
        self.parts.clock.now_ms()
    }

    /// Records that the last system record is durable, and with it the predecessor that it names.
    pub(crate) fn committed(&mut self) {
        if let Some(named) = self.naming.take() {
            self.parts.streams.told(named.stream);
        }
    }

    /// The predecessor to name, if any. It is first marked as named, durably.
    ///
    /// After a crash between that and the commit, no stream will ever name it; its own last record
    /// still shows where it ended. In the opposite order, two streams could name the same
    /// predecessor, as two copies of one journal would.
    fn previous(&mut self, disk: &dyn Disk) -> Option<StreamEnd> {
        if self.naming.is_none() && self.again_at <= Instant::now() {
            let streams = Arc::clone(&self.parts.streams);
            let mut whole = streams.untold()?;
            if let Some(chain) = &mut whole.progress.chain {
                chain.is_told = true;
            }
            // If the delivery holds the lock, a later system record names the stream.
            let locked = streams.try_lock_files()?;
            let noted = catch(|| write_progress(disk, whole.stream, &whole.progress));
            drop(locked);
            match noted {
                Ok(Ok(())) => self.naming = Some(whole),
                Ok(Err(_)) | Err(_) => self.again_at = Instant::now() + PAUSE,
            }
        }
        let WholeStream { stream, progress } = self.naming.as_ref()?;
        let ChainProgress { state, .. } = progress.chain.as_ref()?;
        Some(StreamEnd { stream: *stream, size: progress.next, state: state.clone() })
    }

    /// Whether another stream is to follow this one, which has `records` records.
    pub(crate) fn is_over(&self, records: u64) -> bool {
        let now_ms = self.now_ms();
        let is_retired = self.parts.streams.is_retired() && self.records.due_in_ms(now_ms) == 0;
        is_retired || self.records.is_over(now_ms, records)
    }

    /// Marks the stream as ended: nothing more is committed to it.
    pub(crate) fn end_stream(&self) {
        self.parts.streams.end();
    }

    /// Begins another stream of the default route. Returns `None` if the disk fails or the files of
    /// the streams are being read; the old stream then continues.
    ///
    /// After a crash in here, the new stream has no records, and the next process removes its
    /// files.
    pub(crate) fn change_stream(&mut self, disk: &dyn Disk) -> Option<UniqueId> {
        if self.again_at > Instant::now() {
            return None;
        }
        let streams = Arc::clone(&self.parts.streams);
        let locked = streams.try_lock_files()?;
        let begun = catch(|| self.begin_stream(disk));
        drop(locked);
        match begun {
            Ok(Ok((stream, records))) => {
                self.records = records;
                Some(stream)
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    %error,
                    "the next stream of audit logs cannot begin: the current one continues"
                );
                self.again_at = Instant::now() + PAUSE;
                None
            }
            Err(_panicked) => {
                self.again_at = Instant::now() + PAUSE;
                None
            }
        }
    }

    fn begin_stream(&self, disk: &dyn Disk) -> io::Result<(UniqueId, Box<dyn SystemRecords>)> {
        let Parts { destination, clock, random, streams, .. } = &self.parts;
        let stream = UniqueId::generate(&**clock, &**random);
        let new = destination.begin_stream(stream);
        let NewStream { secret, records } =
            new.ok_or_else(|| io::Error::other("the destination no longer vouches for streams"))?;
        prepare_stream(disk, 0, stream, Some(&secret))?;
        streams.begin(stream, Some(secret));
        Ok((stream, records))
    }
}

/// Writes the files that must be durable before the first record of a route's stream is committed.
///
/// After a crash in here, the stream has no records, and the next process removes its files. The
/// secret comes last: a delivery that reads the plans again removes a secret whose stream has no
/// progress.
pub(crate) fn prepare_stream(
    disk: &dyn Disk,
    route: u32,
    stream: UniqueId,
    secret: Option<&StreamSecret>,
) -> io::Result<()> {
    write_progress(disk, stream, &Progress::begin(route, secret.is_some()))?;
    secret.map_or(Ok(()), |secret| write_secret(disk, stream, secret))
}

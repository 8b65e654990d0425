//! The system records of the current stream, for a destination that vouches for streams, and the
//! change from one stream to the next.

use std::io;
use std::sync::Arc;

use audit_core::{Batch, Clock, Random, UniqueId};
use tokio::time::{Duration, Instant};

use crate::destination::{Destination, NewStream, StreamEnd, StreamSecret, SystemRecords};
use crate::disk::Disk;
use crate::format::EncodedBatch;
use crate::progress::{ChainProgress, Progress, write_progress};
use crate::secret::write_secret;
use crate::shared::panic::catch;
use crate::streams::{Streams, WholeStream};

/// The delay before a failed disk operation is retried.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes the system records of a stream.
pub(crate) struct OwnRecords {
    records: Box<dyn SystemRecords>,
    destination: Arc<dyn Destination>,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    streams: Arc<Streams>,
    /// The predecessor that the next record names. It is marked as named, but the record is not
    /// committed yet.
    naming: Option<WholeStream>,
    /// The earliest time at which the disk is used again.
    again_at: Instant,
}

/// The parts shared by the system records of all streams.
pub(crate) struct Parts {
    pub(crate) destination: Arc<dyn Destination>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) streams: Arc<Streams>,
}

impl OwnRecords {
    /// Creates the records of a stream that has begun.
    pub(crate) fn new(records: Box<dyn SystemRecords>, parts: Parts) -> OwnRecords {
        let Parts { destination, disk, clock, random, streams } = parts;
        let again_at = Instant::now();
        OwnRecords { records, destination, disk, clock, random, streams, naming: None, again_at }
    }

    /// The maximum number of records in a stream.
    pub(crate) fn max_records(&self) -> u64 {
        self.records.max_records()
    }

    /// The stream's first record.
    pub(crate) fn opened(&mut self) -> EncodedBatch {
        let (now_ms, previous) = (self.clock.now_ms(), self.previous());
        encoded(now_ms, self.records.opened(now_ms, previous.as_ref()))
    }

    /// Records are about to be committed.
    pub(crate) fn note_records(&mut self) {
        let now_ms = self.clock.now_ms();
        self.records.note_records(now_ms);
    }

    /// The time until a system record is due.
    pub(crate) fn due_in(&self) -> Duration {
        Duration::from_millis(self.records.due_in_ms(self.clock.now_ms()))
    }

    /// The record that is due.
    pub(crate) fn heartbeat(&mut self) -> EncodedBatch {
        let (now_ms, previous) = (self.clock.now_ms(), self.previous());
        encoded(now_ms, self.records.heartbeat(now_ms, previous.as_ref()))
    }

    /// Records that the last system record is durable, and with it the predecessor that it names.
    pub(crate) fn committed(&mut self) {
        if let Some(named) = self.naming.take() {
            self.streams.told(named.stream);
        }
    }

    /// The predecessor to name, if any. It is first marked as named, durably.
    ///
    /// After a crash between that and the commit, no stream will ever name it; its own last record
    /// still shows where it ended. In the opposite order, two streams could name the same
    /// predecessor, as two copies of one journal would.
    fn previous(&mut self) -> Option<StreamEnd> {
        if self.naming.is_none() && self.again_at <= Instant::now() {
            let mut whole = self.streams.untold()?;
            if let Some(chain) = &mut whole.progress.chain {
                chain.is_told = true;
            }
            let noted = catch(|| write_progress(&*self.disk, whole.stream, &whole.progress));
            match noted {
                Ok(Ok(())) => self.naming = Some(whole),
                // Naming the stream can wait.
                Ok(Err(_)) | Err(_) => self.again_at = Instant::now() + PAUSE,
            }
        }
        let WholeStream { stream, progress } = self.naming.as_ref()?;
        let ChainProgress { state, .. } = progress.chain.as_ref()?;
        Some(StreamEnd { stream: *stream, size: progress.next, state: state.clone() })
    }

    /// Whether another stream is to follow this one, which has `records` records.
    pub(crate) fn is_over(&self, records: u64) -> bool {
        let now_ms = self.clock.now_ms();
        let is_retired = self.streams.is_retired() && self.records.due_in_ms(now_ms) == 0;
        is_retired || self.records.is_over(now_ms, records)
    }

    /// Marks the stream as ended: nothing more is committed to it.
    pub(crate) fn end_stream(&self) {
        self.streams.end();
    }

    /// Begins another stream. Returns `None` if the disk fails; the old stream then continues.
    pub(crate) fn change_stream(&mut self) -> Option<UniqueId> {
        if self.again_at > Instant::now() {
            return None;
        }
        match catch(|| self.begin_stream()) {
            Ok(Ok((stream, records))) => {
                self.records = records;
                Some(stream)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot begin the next stream of audit logs yet");
                self.again_at = Instant::now() + PAUSE;
                None
            }
            Err(_panicked) => {
                self.again_at = Instant::now() + PAUSE;
                None
            }
        }
    }

    fn begin_stream(&self) -> io::Result<(UniqueId, Box<dyn SystemRecords>)> {
        let stream = UniqueId::generate(&*self.clock, &*self.random);
        let new = self.destination.begin_stream(stream);
        let NewStream { secret, records } =
            new.ok_or_else(|| io::Error::other("the destination no longer vouches for streams"))?;
        prepare_stream(&*self.disk, stream, Some(&secret))?;
        self.streams.begin(stream, Some(secret));
        Ok((stream, records))
    }
}

/// Writes the files that must be durable before the first record of a stream is committed.
///
/// After a crash in here, the stream has no records, and the next recovery forgets it.
pub(crate) fn prepare_stream(
    disk: &dyn Disk,
    stream: UniqueId,
    secret: Option<&StreamSecret>,
) -> io::Result<()> {
    if let Some(secret) = secret {
        write_secret(disk, stream, secret)?;
    }
    write_progress(disk, stream, &Progress::begin(secret.is_some()))
}

fn encoded(now_ms: i64, line: String) -> EncodedBatch {
    let batch = Batch::from_lines(now_ms, format!("{line}\n").into());
    EncodedBatch::system(batch.expect("a system record is one line"))
}

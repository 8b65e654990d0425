//! A journal on a simulated disk with its real delivery, for the simulation of many hosts.

use std::collections::BTreeMap;
use std::sync::Arc;

use audit_core::{Batch, UniqueId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::disk::SimulatedDisk;
use crate::delivery::{self, Command, Context, DeliveryMemory, JournalDelivery};
use crate::destination::Destination;
use crate::disk::Disk;
use crate::format::{EncodedBatch, Position};
use crate::health::HealthBoard;
use crate::plan::Decided;
use crate::routes::MAX_PLACES;
use crate::segment_writer::SegmentWriter;
use crate::segments::{LiveSegments, Publisher};
use crate::settings::JournalSettings;
use crate::shared::executor::BlockingThreads;
use crate::shared::latest;
use crate::streams::Streams;

/// The parts of a [`Journal`].
pub struct Parts {
    pub stream: UniqueId,
    pub max_object_bytes: usize,
    pub journal: JournalSettings,
    pub destination: Arc<dyn Destination>,
    pub health: Arc<HealthBoard>,
}

/// A new journal on a working disk.
pub struct Journal {
    disk: Arc<dyn Disk>,
    live: Arc<LiveSegments>,
    writer: SegmentWriter,
    publisher: Publisher,
    commands: mpsc::UnboundedSender<Command>,
    delivery: JoinHandle<()>,
    next_ordinal: u32,
    segment_bytes: u64,
}

impl Journal {
    pub fn start(parts: Parts) -> Journal {
        let Parts { stream, max_object_bytes, journal, destination, health } = parts;
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new(1));
        let live =
            LiveSegments::recovered(&[], &BTreeMap::new(), MAX_PLACES).expect("nothing is read");
        let start = Position { ordinal: 0, offset: 0 };
        let (durable, committed) = latest::channel(start);
        let (commands, received) = mpsc::unbounded_channel();
        let segment_bytes = journal.segment_bytes;
        let delivery = JournalDelivery::new(delivery::Parts {
            disk: Arc::clone(&disk),
            context: Context {
                live: Arc::clone(&live),
                executor: Arc::new(BlockingThreads),
                memory: DeliveryMemory::new(journal.max_delivery_bytes, 1),
                destination,
                max_object_bytes,
                journal,
                clock: Arc::new(audit_core::SystemClock),
                random: Arc::new(audit_core::SystemRandom),
            },
            health,
            streams: Arc::new(Streams::recovered(&Decided::default())),
            followers: Arc::default(),
            durable: committed,
            commands: received,
            route: None,
            decided: Decided::default(),
        });
        Journal {
            disk,
            writer: SegmentWriter::new(stream, start, 1_000),
            publisher: Publisher::new(Arc::clone(&live), stream, durable),
            live,
            commands,
            delivery: tokio::spawn(async { drop(delivery.run().await) }),
            next_ordinal: 1,
            segment_bytes,
        }
    }

    /// Makes a batch durable, as the committing thread does.
    pub fn commit(&mut self, batch: Batch) {
        let count = batch.count();
        let batches = [EncodedBatch::new(batch)];
        let segment = self.writer.needs_segment(&batches).then(|| {
            let segment = self.live.prepare(&*self.disk, self.next_ordinal, self.segment_bytes, 7);
            self.next_ordinal += 1;
            segment.expect("a disk that works")
        });
        let committed = self.writer.commit(&batches, || segment).expect("a disk that works");
        self.publisher.publish(&committed, count);
    }

    /// Closes the journal.
    pub async fn end(self) {
        let Journal { publisher, commands, delivery, .. } = self;
        let _ = commands.send(Command::Hurry);
        drop(publisher);
        delivery.await.expect("no panic")
    }
}

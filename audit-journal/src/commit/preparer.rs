//! The thread that prepares segments.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as threads;

use audit_core::Random;

use super::PATIENCE;
use crate::disk::Disk;
use crate::health::{HealthBoard, Trouble, Watch};
use crate::segment::Segment;
use crate::segments::LiveSegments;
use crate::shared::panic::Panicked;

/// The thread that prepares segments, so that a commit rarely waits for one, and that enforces the
/// limit on the journal's size.
pub(crate) struct Preparer {
    pub(super) next_ordinal: u32,
    /// A prepared segment that was not handed over yet.
    pub(super) made: Option<Segment>,
    /// The trouble, if no segment can be prepared.
    pub(super) trouble: Option<Watch>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) live: Arc<LiveSegments>,
    pub(super) random: Arc<dyn Random>,
    pub(super) ready: threads::SyncSender<Segment>,
    pub(super) stopped: Arc<AtomicBool>,
    pub(super) health: Arc<HealthBoard>,
    pub(super) segment_bytes: u64,
    pub(super) max_bytes: u64,
}

impl Preparer {
    pub(super) fn run(&mut self) {
        while !self.stopped.load(Ordering::Acquire) {
            if let Some(segment) = self.made.take() {
                if self.ready.send(segment).is_err() {
                    return;
                }
                continue;
            }
            let (bytes, used) = (self.segment_bytes, self.live.bytes());
            if (used + bytes) * 5 > self.max_bytes * 4 && self.trouble.is_none() {
                tracing::warn!(
                    used,
                    max_bytes = self.max_bytes,
                    "the journal of audit logs is filling up: functions fail once it is full"
                );
            }
            if !self.live.wait_for_room(bytes, self.max_bytes, PATIENCE) {
                if self.trouble.is_none() {
                    let watch = self.trouble.insert(self.health.watch());
                    watch.report(Trouble::journal_full(used, self.max_bytes));
                }
                continue;
            }
            let salt = (self.random.next_u64() >> 32) as u32;
            match self.live.prepare(&*self.disk, self.next_ordinal, bytes, salt) {
                Ok(segment) => {
                    self.next_ordinal += 1;
                    self.made = Some(segment);
                    if let Some(trouble) = self.trouble.take() {
                        trouble.over();
                    }
                    self.health.journal_bytes(self.live.bytes());
                }
                Err(error) => {
                    let what = "no segment of the journal can be prepared";
                    self.in_trouble(Trouble::disk(what, &error));
                }
            }
        }
    }

    /// Reports a panic. The segment in preparation may be incomplete, so it is prepared again under
    /// the same name.
    pub(super) fn panicked(&mut self, panicked: &Panicked) {
        self.health.panicked();
        let what = "the thread that prepares segments of the journal";
        self.in_trouble(Trouble::panicked(what, panicked));
    }

    fn in_trouble(&mut self, trouble: Trouble) {
        let watch = self.trouble.get_or_insert_with(|| self.health.watch());
        watch.report(trouble);
        // Asks for more room than can ever be freed, so that the wait lasts its full time.
        self.live.wait_for_room(u64::MAX / 2, 0, PATIENCE);
    }
}

//! Followers: further destinations of a journal, which nobody waits for.
//!
//! A follower gets every record that is committed from its first opening on, with the stream and
//! number that its receipt names, at least once. It lags on the journal's disk, up to its share of
//! it; beyond that it is paused, and records leave the journal without it. Which ones is durable
//! before they go.
//!
//! Each follower has a task of its own, which reads the journal's durable groups for itself. It
//! shares nothing with the delivery but its [`Standing`], which the removal of segments asks.

mod record;
mod replayed;
mod standing;
mod task;

use std::io;
use std::sync::Arc;

use audit_core::FollowerHealth;

pub use self::record::FollowerState;
pub(crate) use self::record::{FollowerRecord, MAX_NAME_BYTES, adopt, read_followers};
pub use self::replayed::ReplayLog;
pub(crate) use self::standing::Standing;
pub(crate) use self::task::{Ending, FollowerTask};
use crate::destination::Destination;
use crate::disk::Disk;
use crate::format::Position;
use crate::health::HealthBoard;
use crate::segments::{LiveSegment, LiveSegments};
use crate::shared::executor::Executor;
use crate::shared::latest;

/// A further destination of a journal, which no commit waits for.
#[derive(Debug, Clone)]
pub struct Follower {
    /// Its name in the journal's directory and in metrics: 1 to 64 lower-case letters, digits, `-`
    /// and `_`. Under it, a later opening continues where this one ends.
    pub name: String,
    /// Where its records go. It gets no system records, and vouches for no streams.
    pub destination: Arc<dyn Destination>,
    /// The health that it reports to.
    pub health: Arc<HealthBoard>,
    /// When an object is full, in bytes of its lines.
    pub max_object_bytes: usize,
    /// When an object is cut that is not full, in milliseconds after its first record was read.
    pub cut_after_ms: u64,
    /// The most objects that are sent at once.
    pub max_in_flight: usize,
    /// How many bytes of the journal's segments are kept for followers alone, at most, before this
    /// one is paused. `None`: half of the journal's `max_bytes`.
    pub max_kept_bytes: Option<u64>,
}

impl Follower {
    pub(crate) fn has_valid_name(&self) -> bool {
        let is_valid = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
        };
        (1..=MAX_NAME_BYTES).contains(&self.name.len()) && self.name.bytes().all(is_valid)
    }
}

/// The followers of an open journal.
#[derive(Debug, Default)]
pub(crate) struct Followers(pub(crate) Vec<Arc<Standing>>);

/// What all followers of a journal have in common.
pub(crate) struct FollowerParts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) live: Arc<LiveSegments>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) durable: latest::Receiver<Position>,
    /// The most that the journal may take.
    pub(crate) journal_bytes: u64,
}

/// The most bytes of encoded objects under way to all followers of a journal, which divide them.
const MAX_BYTES_UNDER_WAY: usize = 12 << 20;

impl FollowerParts {
    /// The standings and tasks of these followers, as their records say.
    pub(crate) fn start(
        self,
        followers: impl IntoIterator<Item = (Follower, FollowerRecord)>,
    ) -> (Arc<Followers>, Vec<FollowerTask>) {
        let followers: Vec<_> = followers.into_iter().collect();
        let max_bytes_under_way = MAX_BYTES_UNDER_WAY / followers.len().max(1);
        let FollowerParts { disk, live, executor, durable, journal_bytes } = self;
        let parts = task::Parts { disk, live, executor, durable, max_bytes_under_way };
        let started = followers.into_iter().map(|(follower, record)| {
            let share = follower.max_kept_bytes.unwrap_or(journal_bytes / 2);
            let standing = Standing::new(record, Arc::clone(&follower.health), share);
            let standing = Arc::new(standing);
            (Arc::clone(&standing), FollowerTask::new(parts.clone(), follower, standing))
        });
        let (standings, tasks) = started.unzip();
        (Arc::new(Followers(standings)), tasks)
    }
}

impl Followers {
    /// Whether the oldest segment may be removed: see [`Standing::may_go`].
    pub(crate) fn may_go(
        &self,
        disk: &dyn Disk,
        segment: &LiveSegment,
        kept: u64,
        must_go: bool,
    ) -> io::Result<bool> {
        let mut may_go = true;
        for standing in &self.0 {
            may_go &= standing.may_go(disk, segment, kept, must_go)?;
        }
        Ok(may_go)
    }

    pub(crate) fn health(&self) -> Vec<FollowerHealth> {
        self.0.iter().map(|standing| standing.health()).collect()
    }
}

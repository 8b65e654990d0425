//! Followers: further destinations of a journal or of one of its routes, for which no commit waits.
//!
//! A follower gets every record of its route that is committed after its first opening at least
//! once, with the stream and number in the record's receipt. The journal keeps the records that the
//! follower lacks, up to the follower's share of the disk. Beyond that the follower is paused, and
//! records are removed that it does not have; its durable record names them first.
//!
//! Each follower has its own task, which reads the journal's durable groups. It shares with the
//! delivery only its [`Standing`], which the removal of segments consults.

mod adoption;
mod metrics;
mod paused;
mod record;
mod replayed;
mod route_followers;
mod standing;
mod task;

use std::io;
use std::sync::Arc;

use audit_core::FollowerHealth;

pub(crate) use self::adoption::{adopt, read_followers};
#[cfg(test)]
pub(crate) use self::paused::{PAUSED, read_paused, write_paused};
pub use self::record::FollowerState;
pub(crate) use self::record::{FollowerRecord, MAX_NAME_BYTES};
pub use self::replayed::ReplayLog;
pub(crate) use self::route_followers::{FollowedRoute, KnownFollowers, RouteFollowers};
pub(crate) use self::standing::Standing;
pub(crate) use self::task::FollowerMemory;
pub(crate) use self::task::{Ending, FollowerTask};
use crate::destination::Destination;
use crate::disk::Disk;
use crate::format::Position;
use crate::health::HealthBoard;
use crate::segments::{LiveSegment, LiveSegments};
use crate::shared::executor::Executor;
use crate::shared::latest;

/// A further destination of a journal's or a route's records, which no commit waits for.
#[derive(Debug, Clone)]
pub struct Follower {
    /// Its name in the journal's directory, and in metrics, where `@` and the route's name follow:
    /// 1 to 64 lower-case letters, digits, `-` and `_`. An opening continues the follower of the
    /// same name of the same route in an earlier one.
    pub name: String,
    /// The destination of its records. It gets no system records, and vouches for no streams.
    pub destination: Arc<dyn Destination>,
    /// The health that it reports to.
    pub health: Arc<HealthBoard>,
    /// The size at which an object is full, in bytes of its lines.
    pub max_object_bytes: usize,
    /// The time after reading its first record at which an object is cut even if not full, in
    /// milliseconds.
    pub cut_after_ms: u64,
    /// The maximum number of objects sent at once.
    pub max_in_flight: usize,
    /// The size of segments kept only for followers at which this one is paused if it needs the
    /// oldest of them, in bytes. `None` means half of the journal's `max_bytes`.
    pub max_kept_bytes: Option<u64>,
}

impl Follower {
    fn has_valid_name(&self) -> bool {
        let is_valid = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
        };
        (1..=MAX_NAME_BYTES).contains(&self.name.len()) && self.name.bytes().all(is_valid)
    }
}

/// Checks the names of the followers of one route, and returns them.
pub(crate) fn check_names(followers: &[Follower]) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for follower in followers {
        let name = &follower.name;
        if !follower.has_valid_name() {
            let what = "a follower's name must have 1 to 64 lower-case letters, digits, `-` or `_`";
            return Err(what.to_owned());
        }
        if names.contains(name) {
            return Err(format!("two followers have the name {name:?}"));
        }
        names.push(name.clone());
    }
    Ok(names)
}

/// All followers of a journal.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    /// The followers of the default route.
    pub(crate) own: Vec<Arc<Standing>>,
    pub(crate) of_routes: Option<Arc<RouteFollowers>>,
}

/// The parts that all followers of the default route share.
pub(crate) struct FollowerParts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) live: Arc<LiveSegments>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) durable: latest::Receiver<Position>,
    /// The limit of the journal, in bytes.
    pub(crate) journal_bytes: u64,
}

/// The limit on encoded objects in flight to all followers of the default route together, in bytes.
/// Each gets an equal part.
const MAX_BYTES_UNDER_WAY: usize = 12 << 20;

impl FollowerParts {
    /// Creates the standings and tasks of these followers from their records.
    pub(crate) fn start(
        self,
        followers: impl IntoIterator<Item = (Follower, FollowerRecord)>,
    ) -> (Vec<Arc<Standing>>, Vec<FollowerTask>) {
        let followers: Vec<_> = followers.into_iter().collect();
        let max_bytes_under_way = MAX_BYTES_UNDER_WAY / followers.len().max(1);
        let FollowerParts { disk, live, executor, durable, journal_bytes } = self;
        let parts = task::Parts { disk, live, executor, durable, max_bytes_under_way };
        let started = followers.into_iter().map(|(follower, record)| {
            let share = follower.max_kept_bytes.unwrap_or(journal_bytes / 2);
            let label = record.name.clone();
            let standing = Standing::new(record, label, Arc::clone(&follower.health), share);
            let standing = Arc::new(standing);
            (Arc::clone(&standing), FollowerTask::new(parts.clone(), follower, standing, None))
        });
        started.unzip()
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
        let (held, mut may_go) = ([segment.held()], true);
        for standing in &self.own {
            may_go &= standing.may_go(disk, &held, kept, must_go)?;
        }
        if let Some(of_routes) = &self.of_routes {
            let ordinal = segment.segment.header.ordinal;
            may_go &= of_routes.may_go(disk, ordinal, kept, must_go)?;
        }
        Ok(may_go)
    }

    /// The health of the default route's followers.
    pub(crate) fn health(&self) -> Vec<FollowerHealth> {
        self.own.iter().map(|standing| standing.health()).collect()
    }
}

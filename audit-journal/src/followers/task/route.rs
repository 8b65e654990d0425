//! The parts of a follower's task that differ for a route.
//!
//! The task reads its route's batches where the index says they are, and only when an object is
//! cut, within the memory that all such followers share. A follower whose receiver is away gives up
//! its memory if others want some, and takes turns with others whose receivers are away: the
//! request is dropped, its outcome is unknown, and the same records are read and sent again, under
//! the same ids.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use audit_core::UniqueId;
use tokio::time::Instant;

use super::FollowerTask;
use crate::cutter::Cut;
use crate::delivery::{DeliveryMemory, MAX_TURN, Memory, TURN};
use crate::followers::FollowerRecord;
use crate::health::Watch;
use crate::routes::{Followed, Lag, Unread};
use crate::shared::executor::execute;
use crate::shared::job::Job;

/// The memory for objects of all followers of routes, in bytes: for those that are read and sent,
/// and for those whose receivers did not respond in time.
const OBJECT_BYTES: u64 = 12 << 20;
const LATE_BYTES: u64 = 3 << 20;

/// The most batches whose places are kept for one follower.
const MAX_PLACES: usize = 256;

/// The memory of all followers of routes.
#[derive(Debug, Clone)]
pub(crate) struct FollowerMemory {
    /// The memory for their objects.
    pub(crate) objects: Arc<DeliveryMemory>,
    /// The most batches whose places are kept for one follower.
    pub(crate) max_places: usize,
}

impl FollowerMemory {
    pub(crate) fn new() -> FollowerMemory {
        let objects = DeliveryMemory::without_sending(OBJECT_BYTES, LATE_BYTES);
        FollowerMemory { objects, max_places: MAX_PLACES }
    }
}

/// Where a route's follower reads.
pub(crate) struct RouteSource {
    route: u32,
    /// The follower's number.
    number: u32,
    pub(super) memory: Arc<DeliveryMemory>,
    /// The most batches whose places are kept.
    max_places: usize,
    /// Memory for the next object.
    free: Option<Memory>,
    wanted: Option<Job<Memory>>,
    /// The ends of the next objects, as an earlier process had decided.
    ends: VecDeque<(UniqueId, u64)>,
    /// The time at which the requests under way are given up if others want their memory.
    pub(super) turn_at: Instant,
    turn: Duration,
    /// Whether the receiver did not respond to the last requests in time.
    is_late: bool,
    /// Keeps the receiver's trouble reported between turns.
    trouble: Option<Watch>,
}

impl RouteSource {
    pub(crate) fn new(route: u32, number: u32, memory: FollowerMemory) -> RouteSource {
        let FollowerMemory { objects: memory, max_places } = memory;
        RouteSource {
            route,
            number,
            memory,
            max_places,
            free: None,
            wanted: None,
            ends: VecDeque::new(),
            turn_at: Instant::now(),
            turn: TURN,
            is_late: false,
            trouble: None,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.wanted.is_some()
    }

    /// Waits for the requested memory; forever if none is requested.
    pub(super) async fn taken(source: &mut Option<RouteSource>) -> Memory {
        match source.as_mut().and_then(|source| source.wanted.as_mut()) {
            Some(wanted) => wanted.await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn take(&mut self, memory: Memory) {
        (self.free, self.wanted) = (Some(memory), None);
    }

    /// Gives up memory that nothing needs now.
    pub(super) fn rest(&mut self) {
        (self.free, self.wanted) = (None, None);
        self.memory.rest();
    }

    /// Notes that a request has a certain outcome: the receiver responds.
    pub(super) fn arrived(&mut self) {
        (self.turn, self.is_late) = (TURN, false);
        if let Some(trouble) = self.trouble.take() {
            trouble.over();
        }
    }
}

impl FollowerTask {
    /// Follows [`begin`](Self::begin).
    pub(super) fn begin_route(&mut self, record: FollowerRecord) {
        let Some(source) = &mut self.route else { return };
        let FollowerRecord { watermark, cuts, .. } = record;
        source.rest();
        source.ends = cuts;
        let routes = self.parts.live.routes();
        let wake_at = self.follower.max_object_bytes as u64;
        let unread = Unread::new(source.max_places, wake_at, Instant::now());
        routes.follow(source.route, source.number, &watermark, unread);
        self.more = false;
    }

    /// The lag of a route's follower. `None` if it has read everything, or follows the default
    /// route.
    pub(super) fn unread(&self) -> Option<Lag> {
        let source = self.route.as_ref()?;
        self.parts.live.routes().lag(source.route, source.number)
    }

    /// The time at which the next object of a route's follower is cut, however small.
    pub(super) fn route_due(&self) -> Option<Instant> {
        let Lag { bytes, since, .. } = self.unread()?;
        let is_decided = self.route.as_ref().is_some_and(|source| !source.ends.is_empty());
        let is_full = is_decided || bytes >= self.follower.max_object_bytes as u64;
        Some(if is_full { since } else { since + self.patience() })
    }

    /// Whether there is memory for the next object. Requests it if not.
    pub(super) fn has_memory(&mut self) -> bool {
        let Some(source) = &mut self.route else { return true };
        if source.free.is_none() && source.wanted.is_none() {
            let (routes, end) = (self.parts.live.routes(), source.ends.front().copied());
            let most = self.follower.max_object_bytes as u64;
            let run = routes.followed(source.route, source.number, most, end);
            let bytes = run.map_or(most, |run| run.bytes());
            let (memory, is_late) = (Arc::clone(&source.memory), source.is_late);
            source.free = if is_late { None } else { memory.try_cut(bytes) };
            if source.free.is_none() {
                source.wanted = Some(Job::spawn(async move {
                    match is_late {
                        true => memory.send_again(bytes).await,
                        false => memory.cut(bytes).await,
                    }
                }));
            }
        }
        source.free.is_some()
    }

    /// Reads and encodes the next object of a route's follower.
    pub(super) async fn cut_route(&mut self) {
        let Some(source) = &mut self.route else { return };
        let (route, number, live) = (source.route, source.number, Arc::clone(&self.parts.live));
        let (most, end) = (self.follower.max_object_bytes as u64, source.ends.front().copied());
        let Some(run) = live.routes().followed(route, number, most, end) else { return };
        let mut memory = source.free.take();
        source.turn_at = Instant::now() + source.turn;
        let followed = match execute(&*self.parts.executor, move || run.read()).await {
            Ok(followed) => followed,
            Err(error) => return self.refuse("the journal cannot be read for a follower", &error),
        };
        live.routes().read(route, number, &followed, Instant::now());
        if let Some(refused) = self.refused.take() {
            refused.over();
        }
        let Followed { records, ordinals, is_noted, .. } = followed;
        let place = (records.stream, records.next_sequence());
        if let Some(source) = &mut self.route {
            source.ends.pop_front_if(|end| *end == place);
        }
        self.encode(Cut::followed(records, ordinals, is_noted)).await;
        if let Some((next, object)) = &mut self.next {
            if let Some(memory) = &mut memory {
                memory.shrink(object.bytes());
            }
            next.memory = memory;
        }
    }

    /// Gives up requests without a response if others want their memory.
    pub(super) fn turn_over(&mut self) {
        let mut memory = self.under_way.iter().filter_map(|object| object.memory.as_ref());
        let is_wanted = memory.any(Memory::is_wanted);
        let Some(source) = &mut self.route else { return };
        if is_wanted {
            let health = &self.follower.health;
            if let Some(known) = health.delivery_trouble() {
                source.trouble.get_or_insert_with(|| health.watch()).report(known);
            }
            (source.turn, source.is_late) = ((source.turn * 2).min(MAX_TURN), true);
            self.lost = true;
        }
        source.turn_at = Instant::now() + source.turn;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the documentation says of the followers' memory.
    #[tokio::test]
    async fn followers_use_all_of_their_memory() {
        const MIB: u64 = 1 << 20;
        let memory = FollowerMemory::new().objects;
        let cut: Vec<_> = (0..).map_while(|_| memory.try_cut(MIB)).collect();
        assert_eq!(cut.len(), 12);
        let late = memory.send_again(3 * MIB).await;
        assert!(!late.is_wanted());
        assert_eq!(memory.bytes() / MIB, 12 + 3);
    }
}

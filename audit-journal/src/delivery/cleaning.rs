//! Removal of delivered segments.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use audit_core::UniqueId;
use tokio::time::Instant;

use super::JournalDelivery;
use crate::progress::{Progress, remove_progress};
use crate::segments::LiveSegment;
use crate::shared::executor::execute;

/// How often segments are checked for removal.
const CLEAN_EVERY: Duration = Duration::from_secs(60);

/// Followers are paused when there is room for fewer segments than this. The journal prepares two
/// segments ahead.
const SEGMENTS_AHEAD: u64 = 2;

impl JournalDelivery {
    /// Removes segments that are delivered, past their retention and not kept for a follower, and
    /// the progress files of streams without segments.
    ///
    /// A crash in here may bring back a progress file, which a later process removes again. For
    /// segments, see [`LiveSegments::remove_while`](crate::segments::LiveSegments::remove_while).
    pub(crate) async fn clean(&mut self) {
        self.clean_at = Instant::now() + CLEAN_EVERY;
        if self.route.is_some() {
            return self.clean_route().await;
        }
        let (disk, live, delivered) =
            (Arc::clone(&self.disk), Arc::clone(&self.live), self.delivered.clone());
        let retention = Duration::from_millis(self.journal.retention_ms);
        let pressed = self.is_pressed();
        let (streams, followers) = (Arc::clone(&self.streams), Arc::clone(&self.followers));
        let (segment_bytes, max_bytes) = (self.journal.segment_bytes, self.journal.max_bytes);
        // One removed segment is taken as enough room, until the disk reports a lack of it again.
        let mut lacks_room = self.lacks_room();
        let cleaned = execute(&*self.executor, move || {
            let is_delivered = |segment: &LiveSegment| {
                let next = delivered.get(&segment.stream).map_or(0, |progress| progress.next);
                segment.sealed_at.is_some() && segment.next_sequence <= next
            };
            live.remove_while(&*disk, |segment| {
                let is_old = segment.sealed_at.is_some_and(|at| at.elapsed() >= retention);
                if !is_delivered(segment) || !(pressed || is_old) {
                    return Ok(false);
                }
                let ordinal = segment.segment.header.ordinal;
                if live.routes().holds(ordinal) {
                    live.routes().want(ordinal);
                    return Ok(false);
                }
                let kept = live.bytes_while(is_delivered);
                let left = max_bytes.saturating_sub(live.bytes());
                let must_go = left < SEGMENTS_AHEAD * segment_bytes || lacks_room;
                lacks_room = false;
                followers.may_go(&*disk, segment, kept, must_go)
            })?;
            let is_gone = |(stream, progress): &(&UniqueId, &Progress)| {
                !live.has(**stream) && streams.is_past(**stream, progress)
            };
            let gone: Vec<_> = delivered.iter().filter(is_gone).map(|(s, _)| *s).collect();
            for stream in &gone {
                remove_progress(&*disk, *stream)?;
            }
            Ok::<_, io::Error>(gone)
        })
        .await;
        self.health.journal_bytes(self.live.bytes());
        match cleaned {
            Ok(gone) => self.delivered.retain(|stream, _| !gone.contains(stream)),
            Err(error) => {
                tracing::warn!(%error, "delivered segments of the journal cannot be removed")
            }
        }
    }

    /// Whether delivered segments are removed before their retention ends: less than one segment or
    /// a fifth of the journal's limit is left, or the disk has no room.
    pub(super) fn is_pressed(&self) -> bool {
        let left = self.journal.max_bytes.saturating_sub(self.live.bytes());
        left < self.journal.segment_bytes.max(self.journal.max_bytes / 5) || self.lacks_room()
    }

    /// Whether the disk has no room.
    fn lacks_room(&self) -> bool {
        self.live.lacks_room() || self.refused.as_ref().is_some_and(|refused| refused.is_full)
    }
}

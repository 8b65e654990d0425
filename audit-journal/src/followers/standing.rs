//! The progress of a follower, shared by its task and the removal of segments.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::FollowerHealth;
use tokio::sync::Notify;

use super::metrics::Metrics;
use super::record::{FollowerRecord, FollowerState};
use crate::disk::Disk;
use crate::health::HealthBoard;
use crate::watermark::{HeldRecords, Watermark};

#[derive(Debug)]
pub(crate) struct Standing {
    /// Its name in the log and in metrics.
    label: String,
    metrics: Metrics,
    /// Locked while the durable record is being changed.
    changing: Mutex<()>,
    state: Mutex<State>,
    paused: Notify,
}

#[derive(Debug)]
struct State {
    record: FollowerRecord,
    health: Arc<HealthBoard>,
    /// The limit on segments kept only for followers, in bytes.
    max_kept_bytes: u64,
    /// A watermark after the durable one, with only system records between them.
    reached: Option<Watermark>,
    /// Changes when the follower is paused, so that its task discards what it has read.
    generation: u64,
    lag_bytes: u64,
    /// Whether the follower's file may have another record: it is new, or its last write failed.
    is_uncertain: bool,
    /// The number of writes of the record, including those that failed.
    writes: u64,
    /// Whether only the file of paused followers has the record.
    is_in_paused: bool,
}

/// The condition under which a follower allows the removal of the oldest segment.
pub(super) enum Requires<'a> {
    /// The segment stays.
    Segment,
    Nothing,
    /// The durable record must change first.
    Change(Change<'a>),
}

/// A change of a follower's record. Nothing else changes the record meanwhile.
pub(super) struct Change<'a> {
    standing: &'a Standing,
    _changing: MutexGuard<'a, ()>,
    record: FollowerRecord,
    /// Whether the follower lacks records of the segment.
    is_needed: bool,
}

impl Standing {
    pub(crate) fn new(
        record: FollowerRecord,
        label: String,
        health: Arc<HealthBoard>,
        max_kept_bytes: u64,
    ) -> Standing {
        let metrics = Metrics::new(&label);
        metrics.note(&record);
        let is_retired = record.state == FollowerState::Retired;
        metrics.limit(if is_retired { 0 } else { max_kept_bytes });
        let state = State {
            writes: record.writes,
            is_in_paused: false,
            record,
            health,
            max_kept_bytes,
            reached: None,
            generation: 0,
            lag_bytes: 0,
            is_uncertain: false,
        };
        Standing {
            label,
            metrics,
            changing: Mutex::default(),
            state: Mutex::new(state),
            paused: Notify::new(),
        }
    }

    /// Creates the standing of a route's follower whose task does not run yet. A new follower
    /// has no file before [`settle`](Self::settle). Segments are kept for it from now on.
    pub(crate) fn of_route(
        record: FollowerRecord,
        label: String,
        max_kept_bytes: u64,
        is_known: bool,
    ) -> Standing {
        let health = HealthBoard::new(label.clone());
        let standing = Standing::new(record, label, health, max_kept_bytes);
        standing.lock().is_uncertain = !is_known;
        standing
    }

    /// Uses this health and this limit from now on.
    pub(crate) fn open(&self, health: Arc<HealthBoard>, max_kept_bytes: u64) {
        let mut state = self.lock();
        // Both have metrics of the same names: the new health reports only what changes.
        state.health.oldest_undelivered(None);
        (state.health, state.max_kept_bytes) = (health, max_kept_bytes);
        self.metrics.limit(max_kept_bytes);
    }

    /// Whether it has this name and is not retired.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        let state = self.lock();
        state.record.name == name && state.record.state != FollowerState::Retired
    }

    pub(crate) fn durable(&self) -> (FollowerRecord, u64) {
        let state = self.lock();
        (state.record.clone(), state.generation)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Completes after the follower was paused.
    pub(crate) async fn paused(&self) {
        self.paused.notified().await;
    }

    /// Changes the durable record if its generation is still this one. Returns whether it did.
    /// Blocks on the disk.
    ///
    /// After an error or a crash, the file has the old or the new record. Nothing has acted on the
    /// new record, so the next process may begin from either.
    pub(crate) fn change(
        &self,
        disk: &dyn Disk,
        generation: u64,
        change: impl FnOnce(&mut FollowerRecord),
    ) -> io::Result<bool> {
        let _changing = self.changing();
        let (mut record, before) = self.durable();
        if before != generation {
            return Ok(false);
        }
        let was_paused = record.state == FollowerState::Paused;
        change(&mut record);
        // Another process may have replayed some of the missing records. If the file that says so
        // cannot be read now, they still count as missing.
        let _ = record.forget_replayed(disk);
        self.write(disk, &mut record)?;
        let missing = record.missing_records();
        let resumed = was_paused && record.state == FollowerState::Following;
        {
            let mut state = self.lock();
            (state.record, state.reached) = (record, None);
        }
        if resumed {
            tracing::warn!(
                follower = self.label,
                missing,
                "a follower of the audit journal takes records again: `audit journal show` names \
                 those that it misses"
            );
        }
        Ok(true)
    }

    /// Makes a record durable in the follower's own file, and updates the metrics. A crash leaves
    /// the previous record or this one.
    fn write(&self, disk: &dyn Disk, record: &mut FollowerRecord) -> io::Result<()> {
        self.begin_write(record);
        record.write(disk)?;
        self.end_write(record, false);
        Ok(())
    }

    /// Counts a write, even one that will fail: the record that it may leave on the disk must be
    /// older than the next one.
    fn begin_write(&self, record: &mut FollowerRecord) {
        let mut state = self.lock();
        state.is_uncertain = true;
        state.writes += 1;
        record.writes = state.writes;
    }

    fn end_write(&self, record: &FollowerRecord, is_in_paused: bool) {
        {
            let mut state = self.lock();
            (state.is_uncertain, state.is_in_paused) = (false, is_in_paused);
        }
        self.metrics.note(record);
    }

    /// Its record, if only the file of paused followers has it.
    pub(super) fn in_paused(&self) -> Option<FollowerRecord> {
        let state = self.lock();
        state.is_in_paused.then(|| state.record.clone())
    }

    /// Makes the record durable if the file may lack it: the follower may be new, or a write may
    /// have failed. Blocks on the disk.
    ///
    /// After a crash before this returns, a new follower is known or not. It lacks no records: none
    /// is committed to its route before this returns.
    pub(crate) fn settle(&self, disk: &dyn Disk) -> io::Result<()> {
        let _changing = self.changing();
        let (mut record, is_uncertain) = {
            let state = self.lock();
            (state.record.clone(), state.is_uncertain)
        };
        if is_uncertain { self.write(disk, &mut record) } else { Ok(()) }
    }

    /// Retires the follower of a route durably. Its task has ended. `held` are the route's records
    /// in the segments: those that the follower lacks become missing. Blocks on the disk.
    ///
    /// After a crash before this returns, the follower is retired or not, and no record that it
    /// lacks was removed without being recorded as missing.
    pub(crate) fn retire(&self, disk: &dyn Disk, held: &[HeldRecords]) -> io::Result<()> {
        let _changing = self.changing();
        let mut record = self.lock().record.clone();
        if record.state == FollowerState::Retired {
            // An earlier call retired it, and its caller did not get the result.
            return Ok(());
        }
        record.retire(held);
        self.write(disk, &mut record)?;
        let missing = record.missing_records();
        {
            let mut state = self.lock();
            (state.record, state.generation) = (record, state.generation + 1);
            state.lag_bytes = 0;
            state.health.oldest_undelivered(None);
        }
        self.metrics.lag_bytes.set(0.0);
        self.metrics.limit(0);
        if missing > 0 {
            tracing::warn!(
                follower = self.label,
                missing,
                "a follower of the audit journal is retired: `audit journal show` names the records \
                 that it misses"
            );
        }
        Ok(())
    }

    /// Records that everything up to this watermark was read, and the follower has its records.
    pub(crate) fn reached(&self, generation: u64, watermark: Watermark) {
        let mut state = self.lock();
        if state.generation == generation {
            state.reached = Some(watermark);
        }
    }

    /// Whether this follower allows the removal of the oldest segment, whose records the
    /// destination has or object files hold. `kept` is the size of the segments kept only for
    /// followers, including this one, in bytes. With `must_go` the follower must allow it, since
    /// commits need the space.
    ///
    /// If the follower still needs the segment but may not keep it, the follower is paused,
    /// durably. A crash before this returns leaves the segment. After a later crash, the follower's
    /// record says what it misses.
    ///
    /// `held` are the records that the segment has of the follower's route, in their order.
    pub(crate) fn may_go(
        &self,
        disk: &dyn Disk,
        held: &[HeldRecords],
        kept: u64,
        must_go: bool,
    ) -> io::Result<bool> {
        match self.removal_requires(held, kept, must_go) {
            Requires::Segment => Ok(false),
            Requires::Nothing => Ok(true),
            Requires::Change(mut change) => {
                self.write(disk, &mut change.record)?;
                change.apply();
                Ok(true)
            }
        }
    }

    /// Returns what must be done before the segment may be removed. Changes nothing yet: see
    /// [`may_go`](Self::may_go).
    pub(super) fn removal_requires(
        &self,
        held: &[HeldRecords],
        kept: u64,
        must_go: bool,
    ) -> Requires<'_> {
        let Some(ordinal) = held.last().map(|held| held.ordinal) else { return Requires::Nothing };
        let changing = self.changing();
        let (mut record, reached, max_kept_bytes) = {
            let state = self.lock();
            let reached = state.reached.unwrap_or(state.record.watermark);
            (state.record.clone(), reached, state.max_kept_bytes)
        };
        if record.state == FollowerState::Retired {
            // Since the segments are being removed.
            return Requires::Nothing;
        }
        let is_needed = !reached.left(held).is_empty();
        if is_needed && kept <= max_kept_bytes && !must_go {
            return Requires::Segment;
        }
        if is_needed {
            record.skip(held);
        } else if record.route == 0 && record.watermark.ordinal <= ordinal {
            // The watermark must not name a removed segment: the next opening would take the
            // follower's records for lost. For followers of routes, which are many, an opening
            // looks only at segments that have the route's records, so this needs no write.
            record.watermark = Watermark { ordinal: ordinal + 1, ..reached };
        } else {
            return Requires::Nothing;
        }
        Requires::Change(Change { standing: self, _changing: changing, record, is_needed })
    }

    /// Reports how many bytes of the journal the follower lacks.
    pub(crate) fn lags(&self, bytes: u64) {
        self.lock().lag_bytes = bytes;
        self.metrics.lag_bytes.set(bytes as f64);
    }

    pub(crate) fn health(&self) -> FollowerHealth {
        let state = self.lock();
        let health = state.health.health(0);
        FollowerHealth {
            name: state.record.name.clone(),
            state: health.state,
            is_paused: state.record.state == FollowerState::Paused,
            lag_bytes: state.lag_bytes,
            oldest_undelivered_ms: health.oldest_undelivered_ms,
            records_delivered: health.records_delivered,
            retries: health.retries,
            panics: health.panics,
            missing_records: state.record.missing_records(),
            last_error: health.last_error,
        }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change<'_> {
    /// The record to be written to the file of paused followers.
    pub(super) fn begin_write(&mut self) -> &FollowerRecord {
        self.standing.begin_write(&mut self.record);
        &self.record
    }

    /// Applies the change: the file of paused followers is durable.
    pub(super) fn end_write(self) {
        self.standing.end_write(&self.record, true);
        self.apply();
    }

    /// Applies the change, whose record is durable.
    fn apply(self) {
        let Change { standing, record, is_needed, _changing } = self;
        let missing = record.missing_records();
        let mut state = standing.lock();
        state.record = record;
        if is_needed {
            (state.reached, state.generation) = (None, state.generation + 1);
            drop(state);
            tracing::error!(
                follower = standing.label,
                missing,
                "a follower of the audit journal is paused: it lags by more than is kept for it, \
                 and records leave the journal without it"
            );
            standing.paused.notify_one();
        }
    }
}

//! The objects of a follower: read, encoded, recorded, and sent.

use std::sync::Arc;

use tokio::task::{Id, JoinError};
use tokio::time::Instant;

use super::{FollowerTask, lock};
use crate::cutter::Cut;
use crate::delivery::Memory;
use crate::destination::{Delivery, Plan, Records};
use crate::followers::record::{FollowerRecord, FollowerState};
use crate::format::Position;
use crate::health::Trouble;
use crate::shared::executor::execute;
use crate::shared::panic::Panicked;
use crate::watermark::Watermark;

/// An object in flight to the follower.
pub(super) struct UnderWay {
    pub(super) plan: Plan,
    /// The watermarks before its first record and after its last one.
    pub(super) from: Watermark,
    pub(super) to: Watermark,
    pub(super) end: Position,
    pub(super) is_noted: bool,
    pub(super) bytes: usize,
    pub(super) request: Option<Id>,
    pub(super) outcome: Option<Delivery>,
    /// The part that it holds of the memory for routes' followers.
    pub(super) memory: Option<Memory>,
}

impl FollowerTask {
    /// Whether another object may be read and sent.
    pub(super) fn has_slot(&self) -> bool {
        let held: usize = self.under_way.iter().map(|object| object.bytes).sum();
        self.next.is_none()
            && self.under_way.len() < self.allowed
            && (self.under_way.is_empty() || held < self.parts.max_bytes_under_way)
    }

    /// The number of objects from the first on that the follower has.
    pub(super) fn done(&self) -> usize {
        self.under_way.iter().take_while(|object| object.outcome.is_some()).count()
    }

    /// Reads until an object is full or all durable records are read.
    pub(super) async fn read(&mut self) {
        self.parts.durable.see();
        let cutter = Arc::clone(&self.cutter);
        let read = execute(&*self.parts.executor, move || lock(&cutter).read()).await;
        match read {
            Ok((full, caught_up)) => {
                self.more = !caught_up;
                if let Some(refused) = self.refused.take() {
                    refused.over();
                }
                if let Some(cut) = full {
                    self.encode(cut).await;
                }
            }
            Err(error) => self.refuse("the journal cannot be read for a follower", &error),
        }
    }

    /// Takes the next object, which is due.
    pub(super) async fn cut(&mut self) {
        if self.route.is_some() {
            return self.cut_route().await;
        }
        let cut = self.cutter().take();
        if let Some(cut) = cut {
            self.encode(cut).await;
        }
    }

    pub(super) async fn encode(&mut self, cut: Cut) {
        let time_ms = cut.time_ms();
        let (from, to) = cut.watermarks();
        let Cut { stream, first_sequence, count, times, lines, end, is_noted, .. } = cut;
        let encoding = self.follower.destination.encoding();
        let plan = Plan { stream, first_sequence, count, time_ms, encoding };
        let (destination, pool) = (Arc::clone(&self.follower.destination), self.pool.clone());
        let object = execute(&*self.parts.executor, move || {
            let records = Records { lines: &lines, times: &times };
            destination.encode(&plan, None, records, &pool).seal(None)
        })
        .await;
        let (bytes, request, outcome, memory) = (object.bytes(), None, None, None);
        let next = UnderWay { plan, from, to, end, is_noted, bytes, request, outcome, memory };
        self.next = Some((next, object));
    }

    /// Records durably what the follower has and where the next object ends, and only then sends
    /// that object.
    ///
    /// After a crash before the record is durable, objects that the follower has are cut and sent
    /// again as before, and the next object, which was not sent, may end elsewhere. After a later
    /// crash, that object is cut and sent again with the same end.
    pub(super) async fn note(&mut self) {
        let done = self.done();
        let last = done.checked_sub(1).and_then(|last| self.under_way.get(last));
        let last = last.map(|last| (last.to, last.end));
        let conflicts: Vec<_> = self
            .under_way
            .range(..done)
            .filter(|object| object.outcome == Some(Delivery::Conflict))
            .map(|object| {
                (object.plan.stream, object.plan.first_sequence..object.plan.next_sequence())
            })
            .collect();
        let next = self.next.as_ref().filter(|(next, _)| !next.is_noted);
        let next = next.map(|(next, _)| (next.from, next.to));
        let change = move |record: &mut FollowerRecord| {
            if let Some((watermark, _)) = last {
                record.watermark = watermark;
                record.cuts.drain(..done);
                record.state = FollowerState::Following;
                conflicts.into_iter().for_each(|(stream, records)| record.miss(stream, records));
            }
            if let Some((from, to)) = next {
                if record.cuts.is_empty() {
                    record.watermark = from;
                }
                record.cuts.push_back((to.stream, to.next));
            }
        };
        if last.is_some() || next.is_some() {
            let (standing, generation) = (Arc::clone(&self.standing), self.generation);
            let disk = Arc::clone(&self.parts.disk);
            let work = move || standing.change(&*disk, generation, change);
            match execute(&*self.parts.executor, work).await {
                Ok(true) => {}
                // The follower was paused meanwhile.
                Ok(false) => return,
                Err(error) => {
                    self.refuse("the progress of a follower cannot be written", &error);
                    return;
                }
            }
            if let Some(refused) = self.refused.take() {
                refused.over();
            }
        }
        if let Some((_, end)) = last {
            self.delivered_to = end;
            self.under_way.drain(..done);
        }
        if let Some((next, object)) = self.next.take() {
            let (destination, plan) = (Arc::clone(&self.follower.destination), next.plan);
            let request =
                self.requests.spawn(async move { (plan, destination.send(&plan, object).await) });
            let id = request.id();
            self.parts.executor.began(&plan, request);
            self.under_way.push_back(UnderWay { request: Some(id), ..next });
        }
    }

    /// Records the certain outcome of an object.
    pub(super) fn arrived(&mut self, plan: &Plan, delivery: Delivery) {
        self.mended();
        let trouble = self.follower.health.delivery_in_trouble();
        self.allowed =
            if trouble { 1 } else { (self.allowed + 1).min(self.follower.max_in_flight) };
        if let Some(object) = self.under_way.iter_mut().find(|object| object.plan == *plan) {
            (object.outcome, object.bytes, object.memory) = (Some(delivery), 0, None);
        }
        if let Some(route) = &mut self.route {
            route.arrived();
        }
    }

    /// A request panicked or was dropped: its outcome is unknown.
    pub(super) fn vanished(&mut self, error: JoinError) {
        let request = error.id();
        if !self.under_way.iter().any(|object| object.request == Some(request)) {
            return;
        }
        let trouble = match error.try_into_panic() {
            Ok(panic) => Trouble::panicked("the delivery to a follower", &Panicked::of(&*panic)),
            Err(_cancelled) => {
                Trouble::Panicked("the delivery to a follower ended without an outcome".to_owned())
            }
        };
        let pause = self.broke(trouble);
        (self.lost, self.again_at) = (true, Instant::now() + pause);
    }
}

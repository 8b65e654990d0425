//! The path of an object from its plan to a certain outcome.

use std::collections::BTreeMap;
use std::sync::Arc;

use audit_core::UniqueId;
use tokio::task::{Id, JoinError};
use tokio::time::Instant;

use super::JournalDelivery;
use super::memory::Memory;
use super::planned::{Planned, State, Unplanned};
use super::refusals::Failed;
use super::request::{Ended, Request, UNREADABLE};
use crate::destination::{Delivery, Encoded, Plan};
use crate::format::Position;
use crate::health::Trouble;
use crate::object_file::{file_bytes, set_aside, write_object};
use crate::progress::{Progress, write_progress};
use crate::shared::executor::execute;
use crate::shared::panic::Panicked;

impl JournalDelivery {
    /// The delivery progress of a stream.
    pub(super) fn progress(&self, stream: UniqueId) -> Progress {
        let known = self.delivered.get(&stream).cloned();
        known.unwrap_or_else(|| {
            let is_vouched_for = self.streams.secret(stream).is_some();
            Progress::begin(self.number(), is_vouched_for)
        })
    }

    /// Makes the plan of the next object durable, and only then sends it.
    ///
    /// After a crash before the plan is durable, nothing was sent, and the records are cut again.
    /// After a later crash, the next process sends the same bytes.
    pub(super) async fn write_plan(&mut self) -> Result<(), Failed> {
        let Some(Unplanned { plan, role, object, end: _, memory: _ }) = &self.unplanned else {
            return Ok(());
        };
        let (plan, role, written) = (*plan, *role, object.clone());
        let written = self.on_disk(move |disk| write_object(disk, &plan, role, &written)).await;
        written.map_err(|error| ("the plan of an object cannot be written", error))?;
        if let Some(Unplanned { plan, role, object, end, memory }) = self.unplanned.take() {
            let file_bytes = file_bytes(&object);
            let after = object.seal.as_ref().map(|seal| seal.after.clone());
            self.planned_route(&plan, file_bytes);
            let state = match self.may_send() {
                true => {
                    // Without memory to send it in, it is read again from its file.
                    let in_memory = self.memory.try_send(file_bytes);
                    let object = in_memory.map(|memory| (object, memory));
                    State::UnderWay { request: self.send(plan, file_bytes, object) }
                }
                false => State::Waiting,
            };
            drop(memory);
            self.planned.push_back(Planned { plan, role, after, end, file_bytes, state });
        }
        Ok(())
    }

    /// Sends an object with the planned bytes, which are in memory or in its file.
    fn send(&mut self, plan: Plan, file_bytes: u64, object: Option<(Encoded, Memory)>) -> Id {
        let request = Request {
            plan,
            file_bytes,
            disk: Arc::clone(&self.disk),
            executor: Arc::clone(&self.executor),
            memory: Arc::clone(&self.memory),
            destination: Arc::clone(&self.destination),
            health: Arc::clone(&self.health),
        };
        let request = self.requests.spawn(request.run(object));
        let id = request.id();
        self.executor.began(&plan, request);
        id
    }

    /// Sends the objects that are only in their files.
    pub(super) fn send_waiting(&mut self) {
        if self.resend_at > Instant::now() || self.is_gone {
            return;
        }
        for n in 0..self.planned.len() {
            if self.is_unopened() || self.requests.len() >= self.allowed {
                return;
            }
            let Planned { plan, file_bytes, state, .. } = self.planned[n];
            if state == State::Waiting {
                let request = self.send(plan, file_bytes, None);
                self.planned[n].state = State::UnderWay { request };
            }
        }
    }

    /// Handles a request that panicked or was dropped: its outcome is unknown, and the object is
    /// sent again from its file.
    pub(super) fn vanished(&mut self, error: JoinError) {
        let request = error.id();
        let trouble = match error.try_into_panic() {
            Ok(panic) => Trouble::panicked("the delivery of an object", &Panicked::of(&*panic)),
            Err(_cancelled) => {
                Trouble::Panicked("the delivery of an object ended without an outcome".to_owned())
            }
        };
        self.resend_at = Instant::now() + self.broke(trouble);
        let is_its = |planned: &&mut Planned| matches!(planned.state, State::UnderWay { request: id, .. } if id == request);
        if let Some(planned) = self.planned.iter_mut().find(is_its) {
            planned.state = State::Waiting;
        }
    }

    /// Records the certain outcome of an object, or that its file was removed with the journal.
    pub(super) fn arrived(&mut self, (plan, delivery): Ended) {
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(error) => return self.refuse((UNREADABLE, error), false),
        };
        self.mended();
        let trouble = self.health.delivery_in_trouble();
        self.allowed = if trouble { 1 } else { (self.allowed + 1).min(self.journal.max_in_flight) };
        if let Some(planned) = self.planned.iter_mut().find(|planned| planned.plan == plan) {
            planned.state = match delivery {
                Delivery::Delivered => State::Done { is_aside: false },
                Delivery::Conflict => State::Conflict,
            };
        }
    }

    /// Sets aside objects that met a conflict, for an operator. Later objects are delivered. For a
    /// crash, see [`set_aside`].
    pub(super) async fn keep_conflicts(&mut self) -> Result<(), Failed> {
        for n in 0..self.planned.len() {
            let Planned { plan, state, .. } = self.planned[n];
            if state == State::Conflict {
                let kept = self.on_disk(move |disk| set_aside(disk, &plan)).await;
                kept.map_err(|error| ("an object that met a conflict cannot be set aside", error))?;
                self.planned[n].state = State::Done { is_aside: true };
            }
        }
        Ok(())
    }

    /// Records the progress of the streams, and removes the files of delivered objects.
    ///
    /// After a crash before a stream's progress is durable, its objects are sent again and found at
    /// the destination.
    pub(super) async fn advance(&mut self) -> Result<(), Failed> {
        let is_done = |planned: &&Planned| matches!(planned.state, State::Done { .. });
        let done = self.planned.iter().take_while(is_done).count();
        if done == 0 {
            return Ok(());
        }
        let mut streams: BTreeMap<UniqueId, Progress> = BTreeMap::new();
        for planned in self.planned.range(..done) {
            let stream = planned.plan.stream;
            planned.note(streams.entry(stream).or_insert_with(|| self.progress(stream)));
            if planned.state == (State::Done { is_aside: true }) {
                self.streams.retire(stream);
            }
        }
        let noted = streams.clone();
        let written = self.on_disk(move |disk| {
            noted.iter().try_for_each(|(stream, progress)| write_progress(disk, *stream, progress))
        });
        written.await.map_err(|error| ("the progress of delivery cannot be written", error))?;
        self.delivered.extend(streams);
        let done: Vec<_> = self.planned.drain(..done).collect();
        if let Some(route) = &mut self.route {
            route.change_files(&self.live, done.iter().map(|done| done.file_bytes).sum(), 0);
        }
        self.delivered_to = done.iter().map(|done| done.end).fold(self.delivered_to, Position::max);
        // If a crash or an error leaves such a file, the next opening removes it.
        let disk = Arc::clone(&self.disk);
        execute(&*self.executor, move || {
            for done in done {
                let _ = disk.remove(&done.plan.file_name());
            }
        })
        .await;
        if self.route.is_none() && self.is_pressed() {
            self.clean_at = Instant::now();
        }
        Ok(())
    }
}

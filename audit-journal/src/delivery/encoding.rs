//! Reads objects from the journal, encodes several at once, and seals them in the order of their
//! records.
//!
//! A crash here loses nothing: no request is made before an object's plan is durable, and until
//! then its records are cut again. After a panic of an encoder, the delivery starts over from the
//! durable state.

use std::collections::VecDeque;
use std::sync::Arc;

use audit_core::{BufferPool, UniqueId};
use bytes::Bytes;
use futures::FutureExt;

use super::memory::Memory;
use super::planned::Unplanned;
use super::refusals::Failed;
use super::{JournalDelivery, lock};
use crate::cutter::Cut;
use crate::destination::{Destination, Plan, RecordTime, Records, Unsealed};
use crate::format::Position;
use crate::object_file::Role;
use crate::shared::executor::execute;
use crate::shared::job::Job;
use crate::vouching::Link;

/// An object that is being encoded. Nothing of it is durable.
pub(super) struct EncodingObject {
    /// When its first record was made.
    pub(super) time_ms: i64,
    job: Job<Result<EncodedCut, Failed>>,
}

/// An encoded object that is still to be sealed.
pub(super) struct EncodedCut {
    plan: Plan,
    object: Unsealed,
    end: Position,
    memory: Option<Memory>,
}

/// Takes the next object if its encoding has ended.
pub(super) fn encoded(
    encodings: &mut VecDeque<EncodingObject>,
) -> Option<Result<EncodedCut, Failed>> {
    let encoded = (&mut encodings.front_mut()?.job).now_or_never()?;
    encodings.pop_front();
    Some(encoded)
}

/// Waits for the next encoded object. Nothing is lost if the future is dropped.
pub(super) async fn next_encoded(
    encodings: &mut VecDeque<EncodingObject>,
) -> Result<EncodedCut, Failed> {
    let Some(next) = encodings.front_mut() else { return std::future::pending().await };
    let encoded = (&mut next.job).await;
    encodings.pop_front();
    encoded
}

impl JournalDelivery {
    /// Reads until an object is full or all durable records are read.
    pub(super) async fn read(&mut self) {
        let durable = self.durable.see();
        if self.route.is_some() {
            return self.encode_route();
        }
        let cutter = Arc::clone(&self.cutter);
        let read = execute(&*self.executor, move || lock(&cutter).read()).await;
        match read {
            Ok((full, caught_up)) => {
                if caught_up {
                    let mut cutter = self.cutter();
                    // Some segments may have been delivered and removed before they were read.
                    cutter.consumed = cutter.consumed.max(durable);
                }
                self.more = !caught_up;
                if let Some(refused) = self.refused.take() {
                    refused.watch.over();
                }
                if let Some(cut) = full {
                    self.encode(cut);
                }
            }
            Err(error) => self.refuse(("the journal cannot be read", error), true),
        }
    }

    /// Begins to encode an object. Objects are sealed in the order in which this was called.
    pub(super) fn encode(&mut self, cut: Cut) {
        let (link, time_ms) = (self.link(cut.stream), cut.time_ms());
        let (destination, executor) = (Arc::clone(&self.destination), Arc::clone(&self.executor));
        let (shared, mut memory) = (Arc::clone(&self.memory), self.cutting.take());
        let job = Job::spawn(async move {
            let _core = shared.encoder().await;
            let pool = shared.pool().clone();
            let encode = move || encode_cut(&*destination, link.as_ref(), cut, &pool);
            let mut encoded = execute(&*executor, encode).await;
            if let Some(memory) = &mut memory {
                memory.shrink(encoded.object.bytes());
            }
            encoded.memory = memory;
            Ok(encoded)
        });
        self.encodings.push_back(EncodingObject { time_ms, job });
    }

    /// Begins to read and encode the route's next object, once there is memory for it.
    fn encode_route(&mut self) {
        let (Some(route), Some(waiting)) = (&self.route, self.waiting()) else { return };
        let (number, time_ms, most) = (route.number, waiting.time_ms, self.full_route());
        let link = self.link(waiting.stream);
        let (destination, executor) = (Arc::clone(&self.destination), Arc::clone(&self.executor));
        let (shared, live) = (Arc::clone(&self.memory), Arc::clone(&self.live));
        let job = Job::spawn(async move {
            // A single batch may be larger than `most`.
            let run = live.routes().front(number, most);
            let (bytes, in_memory) = run.map_or((most, most), |r| (r.bytes(), r.memory_bytes()));
            let mut memory = shared.cut(in_memory).await;
            let _core = shared.encoder().await;
            // The records stay in the index until an object with them is planned, and this job
            // makes the route's only one. If they are gone, the delivery has started over, and this
            // task is being aborted.
            let Some(run) = live.routes().front(number, bytes) else {
                return std::future::pending().await;
            };
            let pool = shared.pool().clone();
            let encoded = execute(&*executor, move || {
                let cut = Cut::of_route(live.routes().read_run(run)?);
                let encoded = encode_cut(&*destination, link.as_ref(), cut, &pool);
                // There may be a destination for each of many routes, so none keeps memory between
                // objects.
                destination.trim();
                Ok(encoded)
            });
            let encoded: std::io::Result<EncodedCut> = encoded.await;
            let encoded = encoded.map_err(|error| ("the journal cannot be read", error))?;
            memory.shrink(encoded.object.bytes());
            Ok(EncodedCut { memory: Some(memory), ..encoded })
        });
        self.encodings.push_back(EncodingObject { time_ms, job });
    }

    /// Encodes these lines while the delivery waits, and binds the object to the stream's previous
    /// one.
    pub(super) async fn encode_lines(
        &mut self,
        plan: Plan,
        role: Role,
        lines: Vec<u8>,
        times: Vec<RecordTime>,
        end: Position,
    ) {
        let (link, before) = (self.link(plan.stream), self.before(plan.stream));
        let (destination, pool) = (Arc::clone(&self.destination), self.memory.pool().clone());
        let object = execute(&*self.executor, move || {
            let records = Records { lines: &lines, times: &times };
            destination.encode(&plan, link.as_ref(), records, &pool).seal(before)
        })
        .await;
        self.unplanned = Some(Unplanned { plan, role, object, end, memory: None });
    }

    /// Binds an object to the stream's previous one, whose plan is durable. The object's own plan
    /// is written next.
    pub(super) async fn seal(&mut self, encoded: Result<EncodedCut, Failed>) {
        let EncodedCut { plan, object, end, memory } = match encoded {
            Ok(encoded) => encoded,
            Err(failed) => return self.refuse(failed, true),
        };
        if self.route.is_some()
            && let Some(refused) = self.refused.take_if(|refused| refused.reading)
        {
            refused.watch.over();
        }
        let before = self.before(plan.stream);
        let object = match object.seal {
            None => object.seal(None),
            Some(_) => execute(&*self.executor, move || object.seal(before)).await,
        };
        self.unplanned = Some(Unplanned { plan, role: Role::Records, object, end, memory });
    }

    /// The link of a stream's next object, if the stream is vouched for.
    fn link(&self, stream: UniqueId) -> Option<Link> {
        let secret = self.streams.secret(stream)?;
        let progress = self.progress(stream);
        progress.chain.as_ref()?;
        Some(Link { secret, stable: progress.stable() })
    }

    /// The destination's state after the stream's last planned object, if the stream is vouched
    /// for.
    fn before(&self, stream: UniqueId) -> Option<Bytes> {
        let mut planned = self.planned.iter().rev();
        match planned.find(|planned| planned.plan.stream == stream) {
            Some(last) => last.after.clone(),
            None => self.progress(stream).chain.map(|chain| chain.state),
        }
    }
}

fn encode_cut(
    destination: &dyn Destination,
    link: Option<&Link>,
    cut: Cut,
    pool: &BufferPool,
) -> EncodedCut {
    let time_ms = cut.time_ms();
    let Cut { stream, first_sequence, count, times, is_system, lines, end, .. } = cut;
    let encoding = match is_system {
        true => destination.system_encoding(),
        false => destination.encoding(),
    };
    let plan = Plan { stream, first_sequence, count, time_ms, encoding };
    let records = Records { lines: &lines, times: &times };
    let object = destination.encode(&plan, link, records, pool);
    EncodedCut { plan, object, end, memory: None }
}

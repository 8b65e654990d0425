//! A simulated receiver of a log stream, which decides the outcome of each request from a seed.
//!
//! It may accept a request without the client learning of it, or lose it. It remembers each record
//! by its id, and reports a repeated id with other content or in another request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use audit_core::{BufferPool, UniqueId, async_trait};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::disk::Dice;
use super::disk::faulty::panic_silently;
use crate::health::{DeliveryTrouble, HealthBoard, Trouble};
use crate::shared::panic::catch_in;
use crate::shared::pieces::Pieces;
use crate::{
    Delivery, Destination, Encoded, Encoding, LastRecord, Link, NewStream, Plan, Records,
    StreamSecret, Unsealed,
};

/// The receiver. Clones share it.
#[derive(Debug, Clone)]
pub struct SimulatedReceiver {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    /// The percentage of requests that do not simply succeed.
    faults: usize,
    /// The percentage of requests in which the client panics.
    panics: usize,
    is_away: bool,
    /// The records with line feeds, by stream and number.
    records: BTreeMap<(UniqueId, u64), Vec<u8>>,
    /// The number after the last record of each request, by stream and first number.
    requests: BTreeMap<(UniqueId, u64), u64>,
    broken: Option<String>,
}

/// The course of a request.
enum Course {
    Answered,
    /// The records may have arrived, but the client has given up.
    Lost,
    Panics,
}

impl SimulatedReceiver {
    pub fn new(seed: u64, faults: usize, panics: usize) -> SimulatedReceiver {
        let state = State {
            dice: Dice::new(seed),
            faults,
            panics,
            is_away: false,
            records: BTreeMap::new(),
            requests: BTreeMap::new(),
            broken: None,
        };
        SimulatedReceiver { shared: Arc::new(Mutex::new(state)) }
    }

    pub fn set_faults(&self, faults: usize) {
        let mut state = self.lock();
        (state.faults, state.panics) = (faults, 0);
    }

    /// Sets whether the receiver is unreachable.
    pub fn set_away(&self, is_away: bool) {
        self.lock().is_away = is_away;
    }

    /// Accepts records in other requests than before, since delivery starts from another watermark.
    pub fn forget_requests(&self) {
        self.lock().requests.clear();
    }

    pub fn records(&self) -> BTreeMap<(UniqueId, u64), Vec<u8>> {
        self.lock().records.clone()
    }

    /// The first broken promise, if any.
    pub fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    fn course(&self) -> (Duration, Course) {
        let mut state = self.lock();
        let State { dice, faults, panics, is_away, .. } = &mut *state;
        let takes = Duration::from_millis([0, 0, 20, 300][dice.below(4)]);
        let course = if dice.chance(*panics, 100) {
            Course::Panics
        } else if *is_away || dice.chance(*faults, 100) {
            Course::Lost
        } else {
            Course::Answered
        };
        (takes, course)
    }

    /// Accepts or loses a request. Returns whether it was accepted.
    fn take(&self, plan: &Plan, lines: &[u8], course: &Course) -> bool {
        let mut state = self.lock();
        let may_be_lost = !matches!(course, Course::Answered);
        if state.is_away || may_be_lost && state.dice.chance(1, 2) {
            return false;
        }
        let (stream, first, end) = (plan.stream, plan.first_sequence, plan.next_sequence());
        let overlaps = |(of, from): &(UniqueId, u64), to: &u64| {
            *of == stream && *from < end && first < *to && (*from, *to) != (first, end)
        };
        if let Some(((_, from), to)) = state.requests.iter().find(|(of, to)| overlaps(of, to)) {
            let what = format!("records {first} to {end} of {stream}, and {from} to {to} before");
            state.broken.get_or_insert(what);
        }
        state.requests.insert((stream, first), end);
        for (number, line) in (first..).zip(lines.split_inclusive(|byte| *byte == b'\n')) {
            let before = state.records.insert((stream, number), line.to_vec());
            if before.is_some_and(|before| before != line) {
                state.broken.get_or_insert(format!("record {number} of {stream} is two records"));
            }
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap()
    }
}

/// A destination that sends to a receiver.
#[derive(Debug)]
pub struct ReceiverDestination {
    pub receiver: SimulatedReceiver,
    pub health: Arc<HealthBoard>,
}

const AS_IT_IS: Encoding = Encoding::new(*b"none");

impl ReceiverDestination {
    async fn attempt(&self, plan: &Plan, lines: &[u8]) -> Result<(), String> {
        let (takes, course) = self.receiver.course();
        sleep(takes).await;
        let taken = self.receiver.take(plan, lines, &course);
        match course {
            Course::Answered if taken => Ok(()),
            Course::Answered | Course::Lost => Err("no answer".to_owned()),
            Course::Panics => panic_silently(),
        }
    }
}

#[async_trait]
impl Destination for ReceiverDestination {
    fn encoding(&self) -> Encoding {
        AS_IT_IS
    }

    fn accepts(&self, encoding: Encoding) -> bool {
        encoding == AS_IT_IS
    }

    fn encode(
        &self,
        _: &Plan,
        link: Option<&Link>,
        records: Records<'_>,
        pool: &BufferPool,
    ) -> Unsealed {
        assert!(link.is_none(), "a follower vouches for nothing");
        let mut pieces = Pieces::new(pool);
        pieces.extend(records.lines);
        let sha256 = Sha256::digest(records.lines).into();
        Unsealed { pieces: pieces.into_bytes(), sha256, seal: None }
    }

    async fn send(&self, plan: &Plan, object: Encoded) -> Delivery {
        let lines = object.pieces.concat();
        let watch = self.health.watch();
        let mut pause = Duration::from_millis(10);
        loop {
            // A panic of the client is caught, or ends the request.
            let is_caught = self.receiver.lock().dice.chance(1, 2);
            let answer = if is_caught {
                catch_in(self.attempt(plan, &lines))
                    .await
                    .unwrap_or_else(|_| Err("a request panicked".to_owned()))
            } else {
                self.attempt(plan, &lines).await
            };
            let Err(reason) = answer else {
                self.health.delivered(plan.count);
                watch.over();
                return Delivery::Delivered;
            };
            watch.report(Trouble::Delivery(DeliveryTrouble { reason, blocked_by: None }));
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    fn begin_stream(&self, _: UniqueId) -> Option<NewStream> {
        unreachable!("a follower begins no streams")
    }

    fn understands(&self, _: UniqueId, _: &StreamSecret) -> bool {
        unreachable!("a follower has no secrets")
    }

    fn system_encoding(&self) -> Encoding {
        unreachable!("a follower gets no system records")
    }

    fn last_record(&self, _: UniqueId, _: i64, _: &LastRecord) -> String {
        unreachable!("a follower gets no system records")
    }

    fn backoff_after_panic(&self, retries: u32) -> Duration {
        Duration::from_millis(10 << retries.min(8))
    }

    fn trim(&self) {}
}

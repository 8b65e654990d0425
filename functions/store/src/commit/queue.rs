//! The queue of callers waiting to commit, and its leader.

use std::mem;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::{CommitError, Request};
use crate::error::StoreError;
use crate::{Inner, Store, Timestamp};

/// The maximum number of commits per sync.
const MAX_GROUP_COMMITS: usize = 256;

/// The size in bytes above which a group takes no further commit.
const MAX_GROUP_BYTES: usize = 16 << 20;

/// The waiting requests, and whether there is a leader.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Vec<(Request, Arc<Slot>)>,
    is_led: bool,
}

/// Passes the lead or an outcome to a waiting caller.
#[derive(Default)]
struct Slot {
    turn: Mutex<Turn>,
    changed: Condvar,
}

#[derive(Default)]
enum Turn {
    #[default]
    Waiting,
    /// The waiting caller becomes the leader.
    Lead,
    Done(Result<Timestamp, CommitError>),
}

impl Slot {
    fn set(&self, turn: Turn) {
        *self.turn.lock() = turn;
        self.changed.notify_one();
    }

    /// The outcome, or `None` if the caller becomes the leader.
    fn wait(&self) -> Option<Result<Timestamp, CommitError>> {
        let mut turn = self.turn.lock();
        loop {
            match mem::take(&mut *turn) {
                Turn::Waiting => {
                    self.changed.wait(&mut turn);
                }
                Turn::Lead => return None,
                Turn::Done(outcome) => return Some(outcome),
            }
        }
    }
}

/// Held by the leader. If the leader panics, the outcome of its group is unknown and the next
/// caller becomes the leader.
struct Lead<'a> {
    inner: &'a Inner,
    taken: Vec<Arc<Slot>>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        for slot in self.taken.drain(..) {
            slot.set(Turn::Done(Err(CommitError::Failed(StoreError::damaged(
                "the commit was interrupted",
            )))));
        }
        let mut queue = self.inner.queue.lock();
        match queue.waiting.first() {
            Some((_, next)) => next.set(Turn::Lead),
            None => queue.is_led = false,
        }
    }
}

impl Store {
    /// Commits. Returns once the commit is durable and published.
    pub(crate) fn commit(&self, request: Request) -> Result<Timestamp, CommitError> {
        let slot = Arc::new(Slot::default());
        let must_wait = {
            let mut queue = self.0.queue.lock();
            queue.waiting.push((request, Arc::clone(&slot)));
            mem::replace(&mut queue.is_led, true)
        };
        if must_wait && let Some(outcome) = slot.wait() {
            return outcome;
        }
        // This request is the first in the queue: the previous leader took all earlier ones.
        let mut lead = Lead { inner: &self.0, taken: Vec::new() };
        let group = {
            let mut queue = self.0.queue.lock();
            let mut bytes = 0;
            let size = queue.waiting.iter().take(MAX_GROUP_COMMITS).take_while(|(request, _)| {
                let is_within = bytes <= MAX_GROUP_BYTES;
                bytes += request.bytes();
                is_within
            });
            let size = size.count();
            queue.waiting.drain(..size).collect::<Vec<_>>()
        };
        let (requests, slots): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        lead.taken = slots;
        let outcomes = self.commit_group(requests);
        for (slot, outcome) in lead.taken.drain(..).zip(outcomes) {
            slot.set(Turn::Done(outcome));
        }
        drop(lead);
        slot.wait().unwrap_or_else(|| {
            Err(CommitError::Failed(StoreError::damaged("the commit was not in its own group")))
        })
    }
}

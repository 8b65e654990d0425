//! Objects between their cut and their certain outcome.

use bytes::Bytes;
use tokio::task::Id;

use super::memory::Memory;
use crate::destination::{Encoded, Plan};
use crate::format::Position;
use crate::object_file::Role;
use crate::progress::Progress;

/// An object with a durable plan.
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) role: Role,
    /// The destination's state after it, in a stream that is vouched for.
    pub(super) after: Option<Bytes>,
    /// The end of the last group that is in this object or an earlier one.
    pub(super) end: Position,
    /// The size of its file, in bytes.
    pub(super) file_bytes: u64,
    pub(super) state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Only in its file, and still to be sent.
    Waiting,
    /// With a request under way.
    UnderWay { request: Id },
    /// Another object has its place at the destination. This object is still to be set aside.
    Conflict,
    /// At its destination, or set aside.
    Done { is_aside: bool },
}

/// An object without a durable plan. Nothing of it was sent.
pub(super) struct Unplanned {
    pub(super) plan: Plan,
    pub(super) role: Role,
    pub(super) object: Encoded,
    pub(super) end: Position,
    /// The part of the deliveries' memory that it holds.
    pub(super) memory: Option<Memory>,
}

impl Planned {
    /// Records in `progress` that the object is at its destination or set aside.
    pub(super) fn note(&self, progress: &mut Progress) {
        let Planned { plan, role, after, end: _, file_bytes: _, state } = self;
        progress.next = plan.next_sequence();
        let Some(chain) = &mut progress.chain else { return };
        if let Some(after) = after {
            chain.state = after.clone();
        }
        match (state, role) {
            (State::Done { is_aside: true }, _) => {
                chain.set_aside(plan.first_sequence..plan.next_sequence());
            }
            // Only one record with this role is under way at a time, and it declares the first
            // range.
            (_, Role::Void) => drop(chain.asides.pop_front()),
            (_, Role::Closed) => chain.is_closed = true,
            (_, Role::Records) => {}
        }
    }
}

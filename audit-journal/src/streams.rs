//! The state of streams that a destination vouches for, shared by commits and delivery.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use audit_core::UniqueId;

use crate::destination::StreamSecret;
use crate::plan::Decided;
use crate::progress::Progress;

/// The streams of one journal, by what is in memory alone.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The stream that is committed to, or whose end is unknown. All others get only their last
    /// system records, from the delivery.
    current: Option<UniqueId>,
    /// The secrets of the streams that are vouched for and not completely delivered.
    secrets: BTreeMap<UniqueId, StreamSecret>,
    /// The current stream is to end soon: an object of it met a conflict.
    is_retired: bool,
    /// Streams that were delivered whole, and that no later stream names yet, in order.
    untold: VecDeque<WholeStream>,
    /// Those that a later stream names, durably.
    told: BTreeSet<UniqueId>,
}

/// A stream that was delivered whole, its last record included.
#[derive(Debug, Clone)]
pub(crate) struct WholeStream {
    pub(crate) stream: UniqueId,
    pub(crate) progress: Progress,
}

impl Streams {
    /// The streams that a recovery found. None of them is committed to.
    pub(crate) fn recovered(decided: &Decided) -> Streams {
        let (mut untold, mut told) = (VecDeque::new(), BTreeSet::new());
        for (stream, progress) in &decided.delivered {
            let Some(chain) = progress.chain.as_ref().filter(|chain| chain.is_closed) else {
                continue;
            };
            if chain.is_told {
                told.insert(*stream);
            } else if !decided.secrets.contains_key(stream) {
                untold.push_back(WholeStream { stream: *stream, progress: progress.clone() });
            }
        }
        let (current, is_retired) = (None, false);
        let secrets = decided.secrets.clone();
        Streams { state: Mutex::new(State { current, secrets, is_retired, untold, told }) }
    }

    /// Notes the stream that is committed to from now on.
    pub(crate) fn begin(&self, stream: UniqueId, secret: Option<StreamSecret>) {
        let mut state = self.state();
        state.current = Some(stream);
        state.is_retired = false;
        if let Some(secret) = secret {
            state.secrets.insert(stream, secret);
        }
    }

    /// The secret of a stream that is vouched for.
    pub(crate) fn secret(&self, stream: UniqueId) -> Option<StreamSecret> {
        self.state().secrets.get(&stream).cloned()
    }

    /// Nothing is committed to the current stream any more, and its end is known.
    pub(crate) fn end(&self) {
        self.state().current = None;
    }

    /// The streams that are vouched for and get only their last system records.
    pub(crate) fn ending(&self) -> Vec<UniqueId> {
        let state = self.state();
        let streams = state.secrets.keys().copied();
        streams.filter(|stream| Some(*stream) != state.current).collect()
    }

    /// The stream's secret is destroyed, and its last record is delivered.
    pub(crate) fn ended(&self, stream: UniqueId, progress: &Progress) {
        let mut state = self.state();
        state.secrets.remove(&stream);
        if progress.next > 0 && !state.told.contains(&stream) {
            state.untold.push_back(WholeStream { stream, progress: progress.clone() });
        }
    }

    /// Ends the current stream soon, if it is this one: some of its records cannot be delivered,
    /// and only the last records of a stream declare that.
    pub(crate) fn retire(&self, stream: UniqueId) {
        let mut state = self.state();
        state.is_retired |= state.current == Some(stream);
    }

    /// Whether the current stream is to end soon.
    pub(crate) fn is_retired(&self) -> bool {
        self.state().is_retired
    }

    /// The stream that a later one is to name next.
    pub(crate) fn untold(&self) -> Option<WholeStream> {
        self.state().untold.front().cloned()
    }

    /// A later stream names this one, durably.
    pub(crate) fn told(&self, stream: UniqueId) {
        let mut state = self.state();
        state.untold.retain(|whole| whole.stream != stream);
        state.told.insert(stream);
    }

    /// Whether this stream's progress is not needed any more, once its segments are removed.
    pub(crate) fn is_past(&self, stream: UniqueId, progress: &Progress) -> bool {
        let state = self.state();
        state.current != Some(stream)
            && !state.secrets.contains_key(&stream)
            && (progress.chain.is_none() || progress.next == 0 || state.told.contains(&stream))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

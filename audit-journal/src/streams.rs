//! What commits and delivery tell each other of streams that a destination vouches for.

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
    /// The stream that is committed to, or whose end is not known. All others get no records but
    /// the host's last ones, from the delivery.
    current: Option<UniqueId>,
    /// Of the streams that are vouched for and not delivered whole.
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
    /// Those that a recovery found. None of them is committed to.
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

    /// The streams that are vouched for and get no more records but the host's last ones.
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

    /// Lets the current stream end, if it is this one: records of it cannot be delivered, and only
    /// the last records of a stream say so.
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

    /// Whether nobody will ask for this stream's progress any more, once its segments are gone.
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

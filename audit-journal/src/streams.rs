//! The state of streams that a destination vouches for, shared by the committer and the delivery.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use audit_core::UniqueId;

use crate::destination::StreamSecret;
use crate::plan::Decided;
use crate::progress::Progress;

/// The streams of one route of a journal. This state is only in memory.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    state: Mutex<State>,
    files: Mutex<()>,
}

/// The right to write files of a route's streams in place of its delivery, or to read all of them.
pub(crate) type FilesLock<'a> = MutexGuard<'a, ()>;

#[derive(Debug, Default)]
struct State {
    /// The stream that records are committed to, or whose end is unknown. All others get only their
    /// last system records, from the delivery.
    current: Option<UniqueId>,
    /// The secrets of the vouched-for streams that are not completely delivered.
    secrets: BTreeMap<UniqueId, StreamSecret>,
    /// The current stream should end soon, because one of its objects met a conflict.
    is_retired: bool,
    /// Completely delivered streams that no later stream names yet, in order.
    untold: VecDeque<WholeStream>,
    /// Completely delivered streams that a later stream durably names, or that none will name.
    told: BTreeSet<UniqueId>,
    /// Whether no other stream will follow.
    is_last: bool,
}

/// A completely delivered stream, including its last record.
#[derive(Debug, Clone)]
pub(crate) struct WholeStream {
    pub(crate) stream: UniqueId,
    pub(crate) progress: Progress,
}

impl Streams {
    /// The streams that a recovery found. None of them is current.
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
        let secrets = decided.secrets.clone();
        let state = Mutex::new(State { secrets, untold, told, ..State::default() });
        Streams { state, files: Mutex::default() }
    }

    /// Locks the files of the streams.
    ///
    /// The commits write files that otherwise only the delivery writes, when they begin or name a
    /// stream. After a panic the delivery reads them all, writes them again, and removes those of
    /// streams that never began. Without the lock it would undo what was written in between: a
    /// stream could be named twice, or lose its secret.
    pub(crate) fn lock_files(&self) -> FilesLock<'_> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Like [`lock_files`](Self::lock_files), without waiting: reading all files may take long.
    pub(crate) fn try_lock_files(&self) -> Option<FilesLock<'_>> {
        match self.files.try_lock() {
            Ok(locked) => Some(locked),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn begin(&self, stream: UniqueId, secret: Option<StreamSecret>) {
        let mut state = self.state();
        state.current = Some(stream);
        state.is_retired = false;
        if let Some(secret) = secret {
            state.secrets.insert(stream, secret);
        }
    }

    pub(crate) fn secret(&self, stream: UniqueId) -> Option<StreamSecret> {
        self.state().secrets.get(&stream).cloned()
    }

    /// Ends the current stream: nothing more is committed to it, and its end is known.
    pub(crate) fn end(&self) {
        self.state().current = None;
    }

    /// The vouched-for streams that get only their last system records.
    pub(crate) fn ending(&self) -> Vec<UniqueId> {
        let state = self.state();
        let streams = state.secrets.keys().copied();
        streams.filter(|stream| Some(*stream) != state.current).collect()
    }

    /// Marks a stream as ended: its last record is delivered and its secret is destroyed.
    pub(crate) fn ended(&self, stream: UniqueId, progress: &Progress) {
        let mut state = self.state();
        state.secrets.remove(&stream);
        if state.is_last {
            state.told.insert(stream);
        } else if progress.next > 0 && !state.told.contains(&stream) {
            state.untold.push_back(WholeStream { stream, progress: progress.clone() });
        }
    }

    /// Whether a stream still waits for its last system records, or for its secret to be destroyed.
    pub(crate) fn are_ending(&self) -> bool {
        !self.ending().is_empty()
    }

    /// Notes that no other stream will follow, so that delivered streams need not be named.
    pub(crate) fn tell_all(&self) {
        let mut state = self.state();
        state.is_last = true;
        let untold = std::mem::take(&mut state.untold);
        state.told.extend(untold.into_iter().map(|whole| whole.stream));
    }

    /// If this is the current stream, makes it end soon: some of its records cannot be delivered,
    /// which only a stream's last records declare.
    pub(crate) fn retire(&self, stream: UniqueId) {
        let mut state = self.state();
        state.is_retired |= state.current == Some(stream);
    }

    /// Whether the current stream is to end soon.
    pub(crate) fn is_retired(&self) -> bool {
        self.state().is_retired
    }

    /// The next stream to be named by a later one.
    pub(crate) fn untold(&self) -> Option<WholeStream> {
        self.state().untold.front().cloned()
    }

    /// Marks a stream as durably named by a later one.
    pub(crate) fn told(&self, stream: UniqueId) {
        let mut state = self.state();
        state.untold.retain(|whole| whole.stream != stream);
        state.told.insert(stream);
    }

    /// Whether this stream's progress is no longer needed once its segments are removed.
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

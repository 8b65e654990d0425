//! Whether the store accepts commits.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use audit_core::{Commits, PlacedDirectory};
use tokio::sync::watch;

use crate::error::StoreError;

/// The default number of bytes that the store keeps free on its disk. A write or background
/// compaction that runs out of space stops the store until a restart; one table being written out
/// and the next write-ahead log take 64 MiB each.
pub const DEFAULT_RESERVE_BYTES: u64 = 256 << 20;

/// Decides whether the store accepts commits. It refuses them before the disk is full, and for good
/// after a failure.
pub(crate) struct Gate {
    directory: PlacedDirectory,
    reserve_bytes: AtomicU64,
    state: watch::Sender<Commits>,
}

impl Gate {
    pub(crate) fn new(directory: PathBuf) -> io::Result<Gate> {
        let reserve_bytes = AtomicU64::new(DEFAULT_RESERVE_BYTES);
        let directory = PlacedDirectory::open(directory)?;
        Ok(Gate { directory, reserve_bytes, state: watch::Sender::default() })
    }

    pub(crate) fn set_reserve(&self, bytes: u64) {
        self.reserve_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether a commit can succeed now.
    pub(crate) fn state(&self) -> Commits {
        // Updates the state; an error is part of it.
        let _ = self.check_room();
        self.state.borrow().clone()
    }

    /// Completes once the store has stopped, with the reason.
    pub(crate) fn stopped(&self) -> impl Future<Output = String> + Send + 'static {
        let mut state = self.state.subscribe();
        async move {
            let reason = state.wait_for(is_stopped).await.map(|stopped| match &*stopped {
                Commits::Stopped { reason } => reason.clone(),
                Commits::Accepted | Commits::Refused { .. } => String::new(),
            });
            match reason {
                Ok(reason) => reason,
                // The store is closed, so it can no longer stop.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Checks that a group of commits can be written: the store has not stopped, its directory is
    /// in its place, and the disk has space. Nothing has been written yet, so a refused commit
    /// certainly has no effect. A refusal for lack of space is temporary.
    pub(crate) fn check_room(&self) -> Result<(), StoreError> {
        if let Commits::Stopped { reason } = &*self.state.borrow() {
            return Err(StoreError::damaged(reason.clone()));
        }
        let reserve = self.reserve_bytes.load(Ordering::Relaxed);
        let directory = self.directory.path();
        // Without its directory, the store would write to files that are gone when the process
        // ends, and create new files in whatever took the directory's place.
        if let Err(error) = self.directory.check("the store") {
            let error = StoreError::damaged(error.to_string());
            self.stop(&error);
            return Err(error);
        }
        // If the free space is unknown, a full disk shows only when a write fails.
        let free = audit_core::free_bytes(directory).unwrap_or(u64::MAX);
        if free >= reserve {
            let changed = self.state.send_if_modified(|state| {
                let refused = matches!(state, Commits::Refused { .. });
                if refused {
                    *state = Commits::Accepted;
                }
                refused
            });
            if changed {
                tracing::info!("the store of documents takes changes again");
            }
            return Ok(());
        }
        let error = StoreError::no_room(directory, free, reserve);
        let changed = self.state.send_if_modified(|state| {
            let accepted = *state == Commits::Accepted;
            if accepted {
                *state = Commits::Refused { reason: error.to_string() };
            }
            accepted
        });
        if changed {
            tracing::error!(reason = %error, "the store of documents takes no changes");
        }
        Err(error)
    }

    /// Stops the store after a failed write: only recovery at the next start can determine what is
    /// stored.
    pub(crate) fn stop(&self, error: &StoreError) {
        let changed = self.state.send_if_modified(|state| {
            let stops = !matches!(state, Commits::Stopped { .. });
            if stops {
                *state = Commits::Stopped { reason: audit_core::with_sources(error) };
            }
            stops
        });
        if changed {
            tracing::error!(
                reason = audit_core::with_sources(error),
                "the store of documents takes no changes until the process is restarted"
            );
        }
    }
}

fn is_stopped(state: &Commits) -> bool {
    matches!(state, Commits::Stopped { .. })
}

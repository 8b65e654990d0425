//! Helpers for the tests of sinks, runtimes and hosts. Behind the feature `test-util`; not for
//! production.

pub mod conformance;
#[cfg(target_os = "linux")]
pub mod machine;
mod memory_sink;

pub use memory_sink::{MemoryFault, MemorySink, StoredRecord};

#[cfg(feature = "disk")]
use std::collections::HashSet;
use std::future::poll_fn;
#[cfg(feature = "disk")]
use std::io;
#[cfg(feature = "disk")]
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
#[cfg(feature = "disk")]
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use crate::{Clock, Random};

/// Polls the future at most this many times, then drops it: cancellation at a chosen await.
/// Returns `None` if it did not complete.
pub async fn poll_at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The directories that [`durable`](crate::durable) has synced in this process, canonical. A test
/// removes the entries that it has checked.
#[cfg(feature = "disk")]
pub fn synced_directories() -> MutexGuard<'static, HashSet<PathBuf>> {
    static SYNCED: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    SYNCED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a directory and its content, while other threads or processes may create files in it.
///
/// # Errors
///
/// If a file or the directory cannot be removed, unless only because of a new file in it.
#[cfg(feature = "disk")]
pub fn remove_directory_in_use(path: &Path) -> io::Result<()> {
    loop {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => return removed,
        }
    }
}

/// A clock that moves only by [`advance`](Self::advance).
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `ms` milliseconds since the Unix epoch.
    pub fn at(ms: i64) -> ManualClock {
        ManualClock(AtomicI64::new(ms))
    }

    /// Moves the clock by `ms` milliseconds, backwards if negative.
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Randomness that gives the same bits for the same seed: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> SeededRandom {
        SeededRandom(AtomicU64::new(seed))
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

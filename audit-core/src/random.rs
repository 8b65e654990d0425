//! Random bits, injected so that tests can seed them.

use std::fmt::Debug;
use std::sync::Arc;

/// A source of random bits for identifiers and for the jitter of retries.
///
/// Identifiers of streams must differ between any two processes that ever write to one bucket, so a
/// production source MUST be unpredictable across processes; [`SystemRandom`] is.
pub trait Random: Debug + Send + Sync + 'static {
    /// 64 uniformly distributed bits.
    fn next_u64(&self) -> u64;
}

impl<R: Random + ?Sized> Random for Arc<R> {
    fn next_u64(&self) -> u64 {
        (**self).next_u64()
    }
}

/// The randomness of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    /// # Panics
    ///
    /// If the operating system cannot provide randomness: continuing would risk two streams with
    /// the same id.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the engine asks the system for random bits"
    )]
    fn next_u64(&self) -> u64 {
        getrandom::u64().expect("the operating system gives random bits")
    }
}

//! Panics of one part of a sink, which the other parts treat as an unknown outcome.

use std::any::Any;

use futures::FutureExt;

use super::one_line::scrub;

/// The message of a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(pub String);

impl Panicked {
    pub fn of(payload: &(dyn Any + Send)) -> Panicked {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Panicked(scrub(text.unwrap_or("no message")))
    }
}

/// Runs `work` and catches a panic. State that it changes must be valid at every point or unused
/// after a panic.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .map_err(|payload| Panicked::of(&*payload))
}

/// Like [`catch`], for a future.
pub async fn catch_in<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    let caught = std::panic::AssertUnwindSafe(work).catch_unwind().await;
    caught.map_err(|payload| Panicked::of(&*payload))
}

//! Threads for blocking and CPU-bound work.

use std::fmt::Debug;

use audit_core::async_trait;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, spawn_blocking};

use crate::destination::Plan;

/// A unit of work.
pub type Work = Box<dyn FnOnce() + Send>;

/// Runs work that would block a thread of the runtime.
#[async_trait]
pub trait Executor: Debug + Send + Sync + 'static {
    /// Runs the work and returns once it is done. Panics if the work panicked. If the future is
    /// dropped, the work may or may not run.
    async fn execute(&self, work: Work);

    /// Called for each request that was started as a separate task. A simulation aborts some of
    /// them.
    fn began(&self, _plan: &Plan, _request: AbortHandle) {}
}

/// Runs work on the runtime's blocking threads.
#[derive(Debug)]
pub struct BlockingThreads;

#[async_trait]
impl Executor for BlockingThreads {
    async fn execute(&self, work: Work) {
        match spawn_blocking(work).await {
            Ok(()) => {}
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down, and with it the waiting task.
            Err(_cancelled) => std::future::pending().await,
        }
    }
}

/// The number of cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `work` and returns its result.
pub async fn execute<T: Send + 'static>(
    executor: &dyn Executor,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (result, done) = oneshot::channel();
    let work = Box::new(move || {
        // The caller may be gone.
        let _ = result.send(work());
    });
    executor.execute(work).await;
    done.await.expect("completed work has a result")
}

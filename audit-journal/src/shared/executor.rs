//! The threads for work that blocks or takes long.

use std::fmt::Debug;

use audit_core::async_trait;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, spawn_blocking};

use crate::destination::Plan;

/// A piece of work.
pub type Work = Box<dyn FnOnce() + Send>;

/// Carries out work that a runtime's thread must not wait for.
#[async_trait]
pub trait Executor: Debug + Send + Sync + 'static {
    /// Carries it out. Returns when it is done, and panics if it panicked. Dropping the future
    /// leaves open whether it is carried out.
    async fn execute(&self, work: Work);

    /// Hears of each request that was begun, as a task of its own. A simulation ends some.
    fn began(&self, _plan: &Plan, _request: AbortHandle) {}
}

/// The runtime's threads for blocking work.
#[derive(Debug)]
pub struct BlockingThreads;

#[async_trait]
impl Executor for BlockingThreads {
    async fn execute(&self, work: Work) {
        match spawn_blocking(work).await {
            Ok(()) => {}
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down, with the task that waits.
            Err(_cancelled) => std::future::pending().await,
        }
    }
}

/// Carries out `work`, and returns its result.
pub async fn execute<T: Send + 'static>(
    executor: &dyn Executor,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (result, done) = oneshot::channel();
    let work = Box::new(move || {
        // The caller may have gone.
        let _ = result.send(work());
    });
    executor.execute(work).await;
    done.await.expect("work that was carried out has a result")
}

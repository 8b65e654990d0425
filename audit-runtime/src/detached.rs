//! Work that continues after its caller is gone.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// A future polled by its caller. If the caller drops it before it completes, a new task runs it to
/// its end.
///
/// Spawning a task at once would do the same, but cost every caller two task switches.
pub(crate) struct Detached<F: Future<Output: Send> + Send + 'static> {
    /// `None` once it has completed or panicked.
    work: Option<Pin<Box<F>>>,
    executor: Handle,
}

impl<F: Future<Output: Send> + Send + 'static> Detached<F> {
    /// # Panics
    ///
    /// Outside of a Tokio executor.
    pub(crate) fn new(work: F) -> Detached<F> {
        Detached { work: Some(Box::pin(work)), executor: Handle::current() }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Detached<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // If the poll panics, the work is dropped and not spawned.
        let mut work = self.work.take().expect("a completed future is not polled");
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Detached<F> {
    fn drop(&mut self) {
        // An executor that shuts down drops the work, as it drops all tasks.
        if let Some(work) = self.work.take() {
            self.executor.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn work_completes_without_its_caller() {
        let (ended, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Barrier::new(2)));
        let work = || {
            let (ended, gate) = (Arc::clone(&ended), Arc::clone(&gate));
            Detached::new(async move {
                gate.wait().await;
                ended.fetch_add(1, Ordering::SeqCst);
                gate.wait().await;
                7
            })
        };
        let through = async {
            gate.wait().await;
            gate.wait().await;
        };
        assert_eq!(futures::future::join(work(), through).await.0, 7);
        // Never polled, and polled once.
        let mut polled = work();
        assert!(futures::poll!(&mut polled).is_pending());
        drop(polled);
        gate.wait().await;
        gate.wait().await;
        drop(work());
        gate.wait().await;
        gate.wait().await;
        assert_eq!(ended.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn panics_reach_the_caller_and_end_the_work() {
        let panics = Detached::new(async { panic!("on purpose") });
        let panic = std::panic::AssertUnwindSafe(panics);
        assert!(futures::FutureExt::catch_unwind(panic).await.is_err());
    }

    #[test]
    fn a_stopped_executor_drops_the_work() {
        let executor = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let held = Arc::new(());
        let work = {
            let (_inside, held) = (executor.enter(), Arc::clone(&held));
            Detached::new(async move {
                let _held = held;
                std::future::pending::<()>().await;
            })
        };
        drop(executor);
        drop(work);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}

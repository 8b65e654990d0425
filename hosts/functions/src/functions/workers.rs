//! Threads that JavaScript runs on.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// The stack of one thread, in bytes: functions call functions, each in an engine of its own on the
/// stack of its caller. It is address space; memory is taken as it is used.
pub(super) const STACK_BYTES: usize = 64 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads on which queries and mutations run to their end, one at a time each.
/// They wait for nothing but the processor, so more threads than processors would not make them
/// faster.
#[derive(Debug)]
pub(super) struct Workers {
    jobs: mpsc::Sender<Job>,
}

impl Workers {
    pub(super) fn start(threads: usize) -> std::io::Result<Workers> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            // They end when the last sender is gone.
            std::thread::Builder::new()
                .name(format!("functions-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    loop {
                        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(job) = job else { return };
                        job();
                    }
                })?;
        }
        Ok(Workers { jobs })
    }

    /// Runs `work` on one of the threads. A panic in there goes on in the caller.
    ///
    /// # Cancellation
    ///
    /// Dropping the future does not stop what has begun; its result is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            // Nobody waits any more: there is nobody to tell.
            drop(answer.send(done));
        });
        self.jobs.send(job).expect("the threads live as long as this does");
        match answered.await.expect("every job answers") {
            Ok(done) => done,
            Err(panic) => resume_unwind(panic),
        }
    }
}

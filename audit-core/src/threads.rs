//! Starting threads.

use std::io;
use std::thread;

/// What to do if a thread cannot be started.
pub const THREADS_ADVICE: &str =
    "raise the limit of processes and threads (ulimit -u, TasksMax, pids.max) or of memory";

/// Starts a detached thread of this name, with a stack of this size in bytes or of the default
/// size.
///
/// # Errors
///
/// If the operating system refuses. Its own error says only that a resource is unavailable; the
/// returned one names the thread, and says [what to do](THREADS_ADVICE).
pub fn start_thread(
    name: &str,
    stack_bytes: Option<usize>,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let mut thread = thread::Builder::new().name(name.to_owned());
    if let Some(bytes) = stack_bytes {
        thread = thread.stack_size(bytes);
    }
    thread.spawn(work).map(drop).map_err(|error| {
        let what = format!("the thread {name} cannot be started: {error}: {THREADS_ADVICE}");
        io::Error::new(error.kind(), what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_of_what_and_what_to_do() {
        // A stack larger than any address space.
        let error = start_thread("functions-1", Some(1 << 60), || ()).unwrap_err().to_string();
        assert!(error.starts_with("the thread functions-1 cannot be started: "), "{error}");
        assert!(error.ends_with("(ulimit -u, TasksMax, pids.max) or of memory"), "{error}");
        let (done, is_done) = std::sync::mpsc::channel();
        start_thread("functions-1", Some(1 << 20), move || done.send(()).unwrap()).unwrap();
        is_done.recv().unwrap();
    }
}

//! The start of a process: the means that its runtime needs.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use audit_core::{Clock, SystemClock, THREADS_ADVICE, descriptors_advice};
use tokio::runtime::{Builder, Runtime};

/// The number of processors that this process may use, or 1 if the system does not tell.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Creates the runtime of a process, with `workers` threads that poll tasks, after checking that
/// the process can open `files` more files and start the runtime's threads and a few others.
///
/// Tokio panics if a worker cannot be started or a signal cannot be awaited, and blocking work
/// without a thread waits forever. Here an operator gets an error that says what to do.
///
/// # Errors
///
/// If files cannot be opened, threads cannot be started, or the runtime cannot be created.
///
/// # Panics
///
/// If `workers` is 0.
pub fn runtime(files: usize, workers: usize) -> Result<Runtime, StartError> {
    check_files(files)?;
    check_threads(workers + MORE_THREADS)?;
    let built = Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = built.and_then(|runtime| {
        #[cfg(unix)]
        runtime.block_on(async { catch_file_size() })?;
        Ok(runtime)
    });
    runtime.map_err(|source| {
        let what = format!("the runtime cannot be created: {source}");
        StartError { what, source: Some(source) }
    })
}

/// Lets a write beyond the limit of a file's size fail. By default it ends the process without a
/// word.
#[cfg(unix)]
fn catch_file_size() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // The handler stays when the stream is dropped.
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map(drop)
}

/// Checks that the clock is not before 1970: records would be filed under years that no reader
/// expects, and libraries fail at such times.
///
/// # Errors
///
/// If it is.
pub fn check_clock() -> Result<(), StartError> {
    check_time(SystemClock.now_ms())
}

fn check_time(now_ms: i64) -> Result<(), StartError> {
    if now_ms >= 0 {
        return Ok(());
    }
    let seconds = now_ms.unsigned_abs() / 1_000;
    let what = format!(
        "the clock of this machine is {seconds} seconds before 1970: set it, as with chronyd or \
         `date`, and start again"
    );
    Err(StartError { what, source: None })
}

/// The process lacks what its runtime needs.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StartError {
    /// In one line, with what to do.
    what: String,
    source: Option<io::Error>,
}

impl StartError {
    /// Writes the error to standard error, and ends the process with code 1.
    pub fn exit(&self, program: &str) -> ! {
        // The reader may be gone.
        let _ = writeln!(io::stderr(), "{program}: {self}");
        std::process::exit(1)
    }
}

/// Threads beside the runtime's workers: for signals, for output, of the journal and the database,
/// and for requests that block.
const MORE_THREADS: usize = 12;

fn check_files(files: usize) -> Result<(), StartError> {
    let mut opened = Vec::with_capacity(files);
    while opened.len() < files {
        match open_any() {
            Ok(file) => opened.push(file),
            Err(source) => {
                let (found, advice) = (opened.len(), descriptors_advice(&source));
                let advice = advice.unwrap_or("see its limits");
                let what = format!(
                    "this process can open only {found} more files, and needs {files}: {source}: \
                     {advice}"
                );
                return Err(StartError { what, source: Some(source) });
            }
        }
    }
    Ok(())
}

#[cfg(unix)]
fn open_any() -> io::Result<File> {
    use std::os::fd::AsFd as _;
    io::stdin().as_fd().try_clone_to_owned().map(File::from)
}

#[cfg(not(unix))]
fn open_any() -> io::Result<File> {
    File::open(std::env::current_exe()?)
}

fn check_threads(threads: usize) -> Result<(), StartError> {
    let gate = Arc::new(Mutex::new(()));
    // All threads wait until this guard is dropped.
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let mut started = Vec::with_capacity(threads);
    let mut refused = None;
    while started.len() < threads {
        let gate = Arc::clone(&gate);
        let wait = move || drop(gate.lock());
        match thread::Builder::new().name("audit-start".to_owned()).spawn(wait) {
            Ok(thread) => started.push(thread),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let count = started.len();
    drop(closed);
    for thread in started {
        // The thread only waits for the lock, and cannot fail.
        let _ = thread.join();
    }
    let Some(source) = refused else { return Ok(()) };
    let what = format!(
        "this process can start only {count} more threads, and needs {threads}: {source}: \
         {THREADS_ADVICE}"
    );
    Err(StartError { what, source: Some(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_1970_is_refused() {
        check_time(0).unwrap();
        let error = check_time(-315_619_200_000).unwrap_err().to_string();
        assert!(error.contains("is 315619200 seconds before 1970: set it"), "{error}");
    }

    #[test]
    fn a_lack_of_files_is_counted() {
        let error = runtime(usize::from(u16::MAX) << 8, 1).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("more files, and needs 16776960: "), "{text}");
        assert!(text.ends_with("raise the limit of open files: ulimit -n, LimitNOFILE"), "{text}");
        runtime(1, processors()).unwrap();
    }
}

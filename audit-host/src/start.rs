//! The start of a process: the means that its runtime needs.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use audit_core::descriptors_advice;
use tokio::runtime::{Builder, Runtime};

/// Creates the runtime of a process, after checking that the process can open `files` more files
/// and start the runtime's threads and a few others.
///
/// Tokio panics if a worker cannot be started or a signal cannot be awaited, and blocking work
/// without a thread waits forever. Here an operator gets an error that says what to do.
///
/// # Errors
///
/// If files cannot be opened, threads cannot be started, or the runtime cannot be created.
pub fn runtime(files: usize) -> Result<Runtime, StartError> {
    check_files(files)?;
    let workers = thread::available_parallelism().map_or(1, usize::from);
    check_threads(workers + MORE_THREADS)?;
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().map_err(|source| {
        let what = format!("the runtime cannot be created: {source}");
        StartError { what, source }
    })
}

/// The process lacks what its runtime needs.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StartError {
    /// In one line, with what to do.
    what: String,
    source: io::Error,
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
                return Err(StartError { what, source });
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
    // All of them wait until this is dropped.
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
        // It does nothing that fails.
        let _ = thread.join();
    }
    let Some(source) = refused else { return Ok(()) };
    let what = format!(
        "this process can start only {count} more threads, and needs {threads}: {source}: raise \
         the limit of processes and threads (ulimit -u, TasksMax, pids.max) or of memory"
    );
    Err(StartError { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_files_is_counted() {
        let error = runtime(usize::from(u16::MAX) << 8).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("more files, and needs 16776960: "), "{text}");
        assert!(text.ends_with("raise the limit of open files: ulimit -n, LimitNOFILE"), "{text}");
        runtime(1).unwrap();
    }
}

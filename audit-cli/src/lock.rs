//! Locks of files that several commands may write at once.

use std::io;
use std::path::Path;

use audit_core::FileLock;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::failure::Failure;
use crate::output::Output;

/// Waits for the lock of a file, or of files whose names begin with `file`. `what` names them in
/// messages, as in "the state".
pub(crate) async fn lock(what: &str, file: &Path, output: &Output) -> Result<FileLock, Failure> {
    lock_beside(&format!("{what} {}", file.display()), file, output).await
}

/// Waits for the lock beside `file`, which need not exist. `what` is how messages name the locked
/// files.
pub(crate) async fn lock_beside(
    what: &str,
    file: &Path,
    output: &Output,
) -> Result<FileLock, Failure> {
    let (name, path) = (file.display(), file.to_owned());
    let (waits, is_waiting) = oneshot::channel();
    // Another thread waits, so that Ctrl-C can end the command meanwhile.
    let wait = || waits.send(()).unwrap_or_default();
    let locked = spawn_blocking(move || FileLock::beside(&path, wait));
    if is_waiting.await.is_ok() {
        output.note(&format!("waiting for another process that has {what}"));
    }
    locked.await.map_err(io::Error::other).flatten().map_err(|error| {
        Failure::new(format!("{what} cannot be locked ({name}.lock)")).because(error)
    })
}

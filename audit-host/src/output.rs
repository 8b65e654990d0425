//! Output that never blocks its writer.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_journal::shared::panic::{Panicked, catch};

/// The maximum number of buffered bytes. It holds a burst of a few thousand lines, where a Linux
/// pipe holds only 64 KiB, and is small enough for a host whose reader has stopped for good.
pub(crate) const MAX_WAITING_BYTES: usize = 1 << 20;

/// Output that never blocks its writer. Cheap to clone.
///
/// A separate thread writes. Callers put lines into a buffer of 1 MiB and continue. Lines that do
/// not fit are dropped and counted, and once the reader reads again, a line reports how many are
/// missing. When the reader is gone (a closed pipe), all further lines are dropped.
///
/// As an [`io::Write`], each `write` is kept or dropped as a whole, which suits `tracing`: it
/// writes an event with one call.
#[derive(Clone)]
pub struct Output {
    shared: Arc<Shared>,
    /// Whether only JSON is written to the output.
    is_json: bool,
}

struct Shared {
    is_terminal: bool,
    state: Mutex<State>,
    changed: Condvar,
}

/// Output that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the output cannot be written")]
struct UnwrittenError(#[source] io::Error);

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The number of dropped lines that were not reported yet.
    left_out: u64,
    is_writing: bool,
    is_gone: bool,
    /// Why the output can no longer be written, unless its reader closed a pipe.
    failure: Option<io::Error>,
}

impl Output {
    /// Standard output.
    pub fn stdout() -> Output {
        Output::start(io::stdout(), io::stdout().is_terminal())
    }

    /// Standard error.
    pub fn stderr() -> Output {
        Output::start(io::stderr(), io::stderr().is_terminal())
    }

    /// Starts the writing thread. It only ends with the process, since it may be blocked.
    fn start(writer: impl Write + Send + 'static, is_terminal: bool) -> Output {
        let shared =
            Arc::new(Shared { is_terminal, state: Mutex::default(), changed: Condvar::new() });
        let output = Output { shared: Arc::clone(&shared), is_json: false };
        let spawned =
            std::thread::Builder::new().name("audit-output".to_owned()).spawn(move || {
                if let Err(Panicked(panic)) = catch(|| write_all(&shared, writer)) {
                    shared.fail(Some(io::Error::other(panic)));
                }
            });
        if spawned.is_err() {
            output.shared.lock().is_gone = true;
        }
        output
    }

    /// The same output, for lines of JSON only.
    pub(crate) fn of_json(self) -> Output {
        Output { is_json: true, ..self }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Whether the output is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.shared.is_terminal
    }

    /// Whether text may be coloured: on a terminal that has colours.
    pub(crate) fn has_colours(&self) -> bool {
        self.is_terminal() && !self.is_json && may_color()
    }

    /// Writes a line. Returns at once.
    pub fn line(&self, line: &str) {
        self.take(&[line.as_bytes(), b"\n"]);
    }

    /// Waits until everything is written, the reader is gone, or `at_most` has passed.
    pub fn finish(&self, at_most: Duration) {
        let is_left = |state: &mut State| {
            !state.is_gone && (state.is_writing || state.left_out > 0 || !state.waiting.is_empty())
        };
        drop(self.shared.changed.wait_timeout_while(self.shared.lock(), at_most, is_left));
    }

    /// Waits like [`finish`](Self::finish), at the end of a command whose result is this output.
    ///
    /// # Errors
    ///
    /// If a part could not be written, as on a full disk, or is still unread. A closed pipe is no
    /// error: its reader has seen what it wanted.
    pub fn complete(&self, at_most: Duration) -> io::Result<()> {
        self.finish(at_most);
        let mut state = self.shared.lock();
        let unwritten = |error: io::Error| Err(io::Error::new(error.kind(), UnwrittenError(error)));
        if let Some(error) = state.failure.take() {
            return unwritten(error);
        }
        let is_left = state.is_writing || state.left_out > 0 || !state.waiting.is_empty();
        if is_left { unwritten(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    fn take(&self, parts: &[&[u8]]) {
        let mut state = self.shared.lock();
        if state.is_gone {
            return;
        }
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        // Missing lines are reported before any further ones.
        if state.left_out > 0 || state.waiting.len() + bytes > MAX_WAITING_BYTES {
            state.left_out += 1;
        } else {
            parts.iter().for_each(|part| state.waiting.extend_from_slice(part));
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Drops this and all further output.
    fn fail(&self, failure: Option<io::Error>) {
        *self.lock() = State { is_gone: true, failure, ..State::default() };
        self.changed.notify_all();
    }
}

/// Writes all lines until the reader is gone.
fn write_all(shared: &Shared, mut writer: impl Write) {
    // Swapped with the waiting buffer, so that two buffers suffice.
    let mut taken = Vec::new();
    loop {
        let mut state = shared.lock();
        state.is_writing = false;
        shared.changed.notify_all();
        let is_idle = |state: &mut State| state.waiting.is_empty() && state.left_out == 0;
        let mut state =
            shared.changed.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner);
        taken.clear();
        std::mem::swap(&mut taken, &mut state.waiting);
        if taken.is_empty() {
            // All buffered lines were written, so the reader reads again.
            let left_out = std::mem::take(&mut state.left_out);
            taken.extend_from_slice(
                format!("… lines dropped because the reader was too slow: {left_out}\n").as_bytes(),
            );
        }
        state.is_writing = true;
        drop(state);
        if let Err(error) = writer.write_all(&taken).and_then(|()| writer.flush()) {
            // A closed pipe or a full disk. The host continues without a reader.
            let failure = Some(error).filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
            return shared.fail(failure);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(&[bytes]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("is_terminal", &self.is_terminal()).finish_non_exhaustive()
    }
}

/// Whether text on a terminal may be coloured: unless `NO_COLOR` is set and not empty
/// (<https://no-color.org>), or the terminal is a dumb one.
pub fn may_color() -> bool {
    let set = |name| std::env::var_os(name).unwrap_or_default();
    has_color(&set("NO_COLOR"), &set("TERM"))
}

fn has_color(no_color: &OsStr, term: &OsStr) -> bool {
    no_color.is_empty() && term != "dumb"
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that reads on demand.
    pub(crate) struct Pipe {
        may_read: mpsc::Receiver<()>,
        read: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.may_read.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.read.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn piped(is_terminal: bool) -> (Output, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let (go, may_read) = mpsc::channel();
        let (read, received) = mpsc::channel();
        (Output::start(Pipe { may_read, read }, is_terminal), go, received)
    }

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn stalled_readers_block_nobody_and_see_losses() {
        let (output, go, received) = piped(false);
        let line = "x".repeat(99);
        // The thread has taken the first line and waits for the reader.
        output.line(&line);
        while !output.shared.lock().is_writing {
            std::thread::yield_now();
        }
        let fit = MAX_WAITING_BYTES / 100;
        for _ in 0..fit + 7 {
            output.line(&line);
        }
        assert!(output.shared.lock().waiting.len() <= MAX_WAITING_BYTES);
        for _ in 0..3 {
            go.send(()).unwrap();
        }
        assert_eq!(received.recv().unwrap().len(), 100);
        assert_eq!(received.recv().unwrap().len(), fit * 100);
        let told = String::from_utf8(received.recv().unwrap()).unwrap();
        assert_eq!(told, "… lines dropped because the reader was too slow: 7\n");
        output.finish(LONG);
        // From here on all lines are shown again.
        output.line("after");
        go.send(()).unwrap();
        assert_eq!(received.recv().unwrap(), b"after\n");
    }

    #[test]
    fn terminals_without_colours_get_none() {
        for (no_color, term, has) in [
            ("", "", true),
            ("", "xterm-256color", true),
            ("1", "xterm", false),
            ("0", "xterm", false),
            ("", "dumb", false),
        ] {
            assert_eq!(has_color(no_color.as_ref(), term.as_ref()), has, "{no_color:?} {term:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_not_an_error() {
        let (output, go, received) = piped(false);
        drop((go, received));
        output.line("nobody");
        output.finish(LONG);
        assert!(output.shared.lock().is_gone);
        output.line("reads this");
        assert!(output.shared.lock().waiting.is_empty());
    }

    #[test]
    fn output_that_was_not_written_is_no_success() {
        let (output, go, received) = piped(false);
        output.line("unread");
        let error = output.complete(Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.to_string(), "the output cannot be written");
        go.send(()).unwrap();
        output.complete(LONG).unwrap();
        output.line("the reader leaves");
        drop((go, received));
        output.complete(LONG).unwrap();

        if cfg!(target_os = "linux") {
            let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
            let output = Output::start(full, false);
            output.complete(LONG).unwrap();
            output.line("lost");
            output.finish(LONG);
            let error = output.complete(LONG).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
    }

    #[test]
    fn a_writer_that_panics_is_an_error() {
        struct Panicking;
        impl Write for Panicking {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                std::panic::resume_unwind(Box::new("told to panic"));
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let output = Output::start(Panicking, false);
        output.line("lost");
        output.finish(LONG);
        let error = output.complete(LONG).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Other);
    }

    #[test]
    fn finishing_waits_for_output_within_its_bound() {
        let (output, go, received) = piped(false);
        output.line("last words");
        output.finish(Duration::from_millis(1));
        go.send(()).unwrap();
        output.finish(LONG);
        assert_eq!(received.try_recv().unwrap(), b"last words\n");
    }
}

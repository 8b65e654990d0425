//! The host's own log.

use std::panic;

use tracing_subscriber::EnvFilter;

use crate::Output;

/// Logs to standard error without ever waiting for its reader. The filter is `RUST_LOG`, or
/// `default_filter` if that is unset. Panics are logged as events too, since the standard library's
/// own message would wait for the reader.
///
/// The output is for the host's last words: [`Output::finish`] it before the process ends.
///
/// # Panics
///
/// If a subscriber of `tracing` is installed already.
pub fn log_to_stderr(default_filter: &str) -> Output {
    let output = Output::stderr();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| default_filter.into());
    let writer = output.clone();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .with_ansi(output.has_colours())
        .init();
    panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("without a name");
        tracing::error!(thread, "{panic}\n{backtrace}");
    }));
    output
}

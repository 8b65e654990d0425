//! The host's own log.

use std::fmt;
use std::panic;
use std::str::FromStr;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::Output;

/// How the host's own log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line of text for each event, for people.
    #[default]
    Text,
    /// A JSON object on a line for each event, for programs that collect logs.
    Json,
}

impl LogFormat {
    /// The names of all formats.
    pub const NAMES: [&'static str; 2] = ["text", "json"];
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("the format of a log is text or json".to_owned()),
        }
    }
}

/// Logs to standard error without ever waiting for its reader. The filter is `RUST_LOG`, or
/// `default_filter` if that is unset. Panics are logged as events too, since the standard library's
/// own message would wait for the reader.
///
/// The output is for the host's last words: [`Output::finish`] it before the process ends.
///
/// # Panics
///
/// If a subscriber of `tracing` is installed already.
pub fn log_to_stderr(default_filter: &str, format: LogFormat) -> Output {
    let output = match format {
        LogFormat::Text => Output::stderr(),
        LogFormat::Json => Output::stderr().of_json(),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| default_filter.into());
    let writer = output.clone();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .with_ansi(output.has_colours());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("without a name");
        tracing::error!(thread, "{panic}\n{backtrace}");
    }));
    output
}

//! The host's own log.

use std::ffi::OsStr;
use std::fmt;
use std::panic;
use std::str::FromStr;

use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::{Output, Traces, TracesError, traces};

/// The format of the host's own log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text per event, for people.
    #[default]
    Text,
    /// One line with a JSON object per event, for log collectors.
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
            _ => Err("the format of a log must be text or json".to_owned()),
        }
    }
}

/// Logs to standard error without ever blocking on its reader. The filter is `RUST_LOG`, or
/// `default_filter` if that is unset. Panics are logged as events too, since the standard library's
/// own message would block on the reader.
///
/// Call [`Output::finish`] on the returned output before the process ends.
///
/// # Panics
///
/// If a `tracing` subscriber is already installed.
pub fn log_to_stderr(default_filter: &str, format: LogFormat) -> Output {
    let (output, (filter, ignored)) = (output(format), filter(default_filter));
    let writer = output.clone();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .with_ansi(output.has_colours());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    begin(ignored);
    output
}

/// Like [`log_to_stderr`], and also sends traces by OTLP over HTTP to the collector at this URL,
/// such as `http://127.0.0.1:4318/v1/traces`: requests that are [`traced`](crate::traced()), calls,
/// their attempts, their waits for durability, and each request to the bucket. They contain nothing
/// from a body. OpenTelemetry's variables, such as `OTEL_EXPORTER_OTLP_HEADERS` and
/// `OTEL_TRACES_SAMPLER`, apply.
///
/// # Errors
///
/// If the URL is invalid, or this build does not have the feature `traces`.
///
/// # Panics
///
/// Like [`log_to_stderr`], and outside of a tokio runtime.
pub fn log_and_trace(
    default_filter: &str,
    format: LogFormat,
    service: &'static str,
    collector: Option<&str>,
) -> Result<(Output, Traces), TracesError> {
    let Some(collector) = collector else {
        return Ok((log_to_stderr(default_filter, format), Traces::none()));
    };
    let (layer, traces) = traces::layer(service, collector)?;
    let (output, (filter, ignored)) = (output(format), filter(default_filter));
    let writer = output.clone();
    let log = tracing_subscriber::fmt::layer()
        .with_writer(move || writer.clone())
        .with_ansi(output.has_colours());
    let log = match format {
        LogFormat::Text => log.with_filter(filter).boxed(),
        LogFormat::Json => log.json().flatten_event(true).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(layer).with(log).init();
    begin(ignored);
    Ok((output, traces))
}

fn output(format: LogFormat) -> Output {
    match format {
        LogFormat::Text => Output::stderr(),
        LogFormat::Json => Output::stderr().of_json(),
    }
}

/// The filter of the log, and why `RUST_LOG` is ignored, if it is.
fn filter(default: &str) -> (EnvFilter, Option<String>) {
    filter_in(&std::env::var_os("RUST_LOG").unwrap_or_default(), default)
}

/// An empty variable counts as none. The library takes it for a filter that hides warnings.
fn filter_in(variable: &OsStr, default: &str) -> (EnvFilter, Option<String>) {
    let why = match variable.to_str().map(str::trim) {
        Some("") => return (default.into(), None),
        Some(text) => match EnvFilter::try_new(text) {
            Ok(filter) => return (filter, None),
            Err(error) => error.to_string(),
        },
        None => "it is not UTF-8".to_owned(),
    };
    let why = format!("RUST_LOG is invalid and ignored, and the filter is {default:?}: {why}");
    (default.into(), Some(why))
}

/// Begins the log, which is installed, with why `RUST_LOG` is ignored, if it is.
fn begin(ignored: Option<String>) {
    log_panics();
    if let Some(why) = ignored {
        tracing::warn!("{why}");
    }
}

fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("without a name");
        tracing::error!(thread, "{panic}\n{backtrace}");
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn a_filter_that_is_ignored_is_named() {
        for (variable, filter, is_ignored) in [
            ("", "warn,a=error", false),
            (" ", "warn,a=error", false),
            ("debug", "debug", false),
            (" info ", "info", false),
            ("audit_journal=info", "audit_journal=info", false),
            ("warn,a=debugg", "warn,a=error", true),
            ("a=b=c", "warn,a=error", true),
        ] {
            let (found, why) = filter_in(OsStr::new(variable), "warn,a=error");
            let (found, expected) = (found.to_string(), EnvFilter::new(filter).to_string());
            assert_eq!(found, expected, "{variable:?}");
            assert_eq!(why.is_some(), is_ignored, "{variable:?}: {why:?}");
        }
        let (_, why) = filter_in(OsStr::from_bytes(b"\xff"), "warn");
        assert!(why.unwrap().contains("RUST_LOG is invalid and ignored"));
    }
}

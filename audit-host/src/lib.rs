//! What every host of the audit crates needs around them.
//!
//! - [`Output`]: standard output and standard error that never block the writer, so that a reader
//!   which stops reading does not stop the host.
//! - [`log_to_stderr`]: the host's own log, on such an output.
//! - [`log_and_trace`], [`traced`]: the same, with traces of OpenTelemetry.
//! - [`parse_with_file`], [`Sources`]: settings by flags, the environment and a file, and where
//!   each came from.
//! - [`Checks`]: tries what a start needs, before a start.
//! - [`Shown`]: audit logs on a terminal, once they are durable.
//! - [`Probe`]: responses to liveness and readiness probes.
//! - [`Destinations`]: the sink on a bucket, on log streams, or on both.
//! - [`private_files`], [`make_private_directory`]: files and directories for their owner alone.
//! - [`Connections`]: HTTP within [`ServeLimits`], on one listener or several.
//! - [`Shutdown`]: stop accepting, drain within a limit, [`close`] the sink within its own, and
//!   [`exit`]; a second signal ends the process at once.
//! - [`notify_ready`]: tells systemd.
//!
//! `functions/host` and `hosts/service` are built on it. It rests on the sinks, which
//! it opens, and nothing depends on it but hosts and the command, whose witness is a server too.
//!
//! # Example
//!
//! ```
//! use audit_host::{LogFormat, Output, log_to_stderr};
//!
//! let errors = log_to_stderr("warn", LogFormat::Text);
//! let output = Output::stdout();
//! output.line("listening on http://127.0.0.1:8080");
//!
//! // At the end of the process: wait for readers, but not for long.
//! output.finish(std::time::Duration::from_secs(1));
//! errors.finish(std::time::Duration::from_secs(1));
//! ```

/// The version of these crates and, in a release build, the commit that it is of.
pub const VERSION: &str = env!("AUDIT_VERSION");

mod check;
mod connections;
mod destinations;
mod files;
mod health;
mod logging;
#[cfg(feature = "manual")]
mod manual;
mod output;
mod settings;
mod shown;
mod shutdown;
mod supervisor;
mod traced;
mod traces;

pub use check::Checks;
pub use connections::{Connection, Connections, ServeLimits, Tls, TlsError, client_of};
pub use destinations::{Destinations, LogStreamsFile};
pub use files::{make_private_directory, private_files};
pub use health::{Answer, Probe};
pub use logging::{LogFormat, log_and_trace, log_to_stderr};
#[cfg(feature = "manual")]
pub use manual::write_manual;
pub use output::Output;
pub use settings::{SettingsError, Source, Sources, parse_with_file, without_secrets};
pub use shown::Shown;
pub use shutdown::{CloseError, Shutdown, StoppedError, close, close_after, exit};
pub use supervisor::{notify_ready, notify_stopping};
pub use traced::traced;
pub use traces::{Traces, TracesError};

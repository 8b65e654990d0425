//! What every host of the audit crates needs.
//!
//! - [`runtime`]: the runtime of a process that has the files and threads it needs.
//! - [`Output`]: standard output and standard error that never block the writer, so that a stalled
//!   reader does not stop the host.
//! - [`log_to_stderr`]: the host's own log, on such an output.
//! - [`log_and_trace`], [`traced`]: the same, with OpenTelemetry traces.
//! - [`parse_with_file`], [`Sources`]: settings from flags, the environment and a file, and the
//!   source of each.
//! - [`Checks`]: checks what a start needs, without starting.
//! - [`Probe`]: responses to liveness and readiness probes.
//! - [`AuditLogSettings`]: the settings of the audit log that all hosts have, and their defaults.
//! - [`Destinations`]: opens the sink for a bucket, log streams, or both, and prints records once
//!   they are durable.
//! - [`OpenRoutes`]: the routes of tenants, which may change while the host runs.
//! - [`private_files`]: makes all files of the process accessible only to their owner.
//! - [`Connections`]: HTTP within [`ServeLimits`], on one or more listeners.
//! - [`FairSemaphore`]: permits that clients take in turns, so that no client's flood makes another
//!   wait for long. [`Turns`] is the order, for hosts with threads of their own.
//! - [`Shutdown`]: stops accepting, drains within a limit, [`close`]s the sink within another, and
//!   [`exit`]s. A second signal ends the process at once.
//! - [`notify_ready`]: notifies systemd.
//!
//! `functions/host` and `hosts/service` are built on it. It depends on the sinks, which it opens.
//! Only hosts depend on it, and `audit-cli`, whose witness is a server too.
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

/// The version of these crates and, in a release build, its commit.
pub const VERSION: &str = env!("AUDIT_VERSION");

/// How much longer a host's runtime waits than its sink, so that a function fails with the sink's
/// error, which says what it waited for.
pub const PERSIST_GRACE: std::time::Duration = std::time::Duration::from_secs(5);

mod apart;
mod audit_log;
mod bucket_env;
mod check;
mod connections;
mod destinations;
mod files;
mod health;
#[doc(hidden)]
pub mod lasting;
mod logging;
#[cfg(feature = "manual")]
mod manual;
mod open_routes;
mod output;
mod required;
mod routes;
mod settings;
mod shortened;
mod shown;
mod shutdown;
mod start;
mod supervisor;
mod traced;
mod traces;
mod turns;

pub use apart::{are_apart, file_url};
pub use audit_core::read_text;
pub use audit_log::AuditLogSettings;
pub use bucket_env::BucketEnv;
pub use check::Checks;
pub use connections::{
    Connection, Connections, Held, Holder, Place, PlaceRefusal, Places, Pool, ServeLimits, Tls,
    TlsError, listen,
};
pub use destinations::{Destinations, LogStreamsFile, Opened};
pub use files::{private_files, settings_file};
pub use health::{Answer, Probe};
pub use logging::{LogFormat, log_and_trace, log_to_stderr};
#[cfg(feature = "manual")]
pub use manual::write_manual_if_asked;
pub use open_routes::{OpenRoutes, PreparedRoutes, RoutesChange};
pub use output::{Output, may_color};
pub use routes::{RouteSettings, RoutesFile};
pub use settings::{
    SettingsError, Source, Sources, listen_address, naming_variables, parse_with_file, print_usage,
    what_is_expected, without_secrets,
};
pub use shortened::shortened;
pub use shutdown::{CloseError, Shutdown, StoppedError, close, close_after, exit};
pub use start::{StartError, check_clock, processors, runtime};
pub use supervisor::{notify_ready, notify_stopping};
pub use traced::traced;
pub use traces::{Traces, TracesError};
pub use turns::{Busy, FairLimits, FairSemaphore, Lane, Permit, Turn, Turns};

//! What every host of the audit crates needs around them, and none should write for itself.
//!
//! - [`Output`]: standard output and standard error that never block who writes: a reader that
//!   stops reading must not stop a host.
//! - [`log_to_stderr`]: the host's own log, over such an output.
//! - [`Shown`]: audit logs shown to whoever looks on, once they are durable.
//! - [`Probe`]: what liveness and readiness probes are answered.
//! - [`private_files`], [`make_private_directory`]: what a host writes is for its owner.
//! - [`serve`]: connections within [`ServeLimits`].
//! - [`Shutdown`]: stop accepting, drain within a limit, [`close`] the sink within its own, and
//!   [`exit`]; a second signal ends the process at once.
//!
//! `functions/host` and `hosts/service` are built on it. Of the workspace it depends on
//! `audit-core` alone, and nothing depends on it but hosts and the command, whose witness is a
//! server too.
//!
//! # Example
//!
//! ```
//! use audit_host::{Output, log_to_stderr};
//!
//! let errors = log_to_stderr("warn");
//! let output = Output::stdout();
//! output.line("listening on http://127.0.0.1:8080");
//!
//! // At the end of the process: what is written by then is written, whoever reads it.
//! output.finish(std::time::Duration::from_secs(1));
//! errors.finish(std::time::Duration::from_secs(1));
//! ```

mod files;
mod health;
mod logging;
mod output;
mod serve;
mod shown;
mod shutdown;

pub use files::{make_private_directory, private_files};
pub use health::{Answer, Probe};
pub use logging::log_to_stderr;
pub use output::Output;
pub use serve::{ServeLimits, serve};
pub use shown::Shown;
pub use shutdown::{
    CloseError, EXIT_STOPPED, EXIT_UNDELIVERED, Shutdown, StoppedError, close, close_after, exit,
};

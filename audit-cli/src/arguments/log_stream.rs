//! Options of `audit log-stream`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum LogStreamCommand {
    /// Send a test event to each log stream of a file, and show the receiver's response
    Test(LogStreams),
    /// List the records that a host set aside because a receiver rejected them
    Aside(Aside),
    /// Send set-aside records again, under the same ids, and remove the accepted ones
    Send(SendAgain),
}

#[derive(Debug, Args)]
pub(crate) struct LogStreams {
    /// The file with a table `[[log_stream]]` for each, which the host has as --log-streams
    #[arg(env = "AUDIT_LOG_STREAMS", hide_env_values = true)]
    pub(crate) file: PathBuf,

    /// Only the log stream of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Aside {
    /// The directory: `dead_letters` of the log stream's settings, or dead-letters/NAME in the
    /// host's data directory
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SendAgain {
    /// The directory, as for `aside`
    pub(crate) directory: PathBuf,

    #[command(flatten)]
    pub(crate) streams: LogStreams,
}

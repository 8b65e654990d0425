//! Options of `audit log-stream`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum LogStreamCommand {
    /// Send each log stream of a file a test event, and say what its receiver answers
    Test(LogStreams),
    /// List the records that a host set aside since a receiver would not take them
    Aside(Aside),
    /// Send records that were set aside again, under their ids, and remove those that are accepted
    Send(SendAgain),
}

#[derive(Debug, Args)]
pub(crate) struct LogStreams {
    /// The file with a table `[[log_stream]]` for each: what the host has as --log-streams
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
    /// The directory, as of `aside`
    pub(crate) directory: PathBuf,

    #[command(flatten)]
    pub(crate) streams: LogStreams,
}

//! Options of `audit replay`.

use std::path::PathBuf;
use std::str::FromStr;

use audit_core::UniqueId;
use clap::Args;

use super::Source;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("records").required(true).args(["missing", "from"]))]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) source: Source,

    /// The file with the log streams: what the host has as --log-streams
    #[arg(long, env = "AUDIT_LOG_STREAMS", value_name = "FILE", required_unless_present = "route")]
    pub(crate) log_streams: Option<PathBuf>,

    /// Send to the log streams of this route, in the file of --routes, from the route's bucket
    #[arg(long, value_name = "NAME", requires = "routes")]
    pub(crate) route: Option<String>,

    /// The file with the host's routes
    #[arg(long, env = "AUDIT_ROUTES", value_name = "FILE")]
    pub(crate) routes: Option<PathBuf>,

    /// Only the log stream of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Send the records that followers of the journal in this directory are missing, as `audit
    /// journal show` lists them. A host may have it open. Sent records are recorded there, and then
    /// count as delivered
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) missing: Option<PathBuf>,

    /// Send the records of this stream from this number on: 01HF7YAT000000000000000000:120
    #[arg(long, value_name = "STREAM:NUMBER")]
    pub(crate) from: Option<Place>,

    /// The number of the last record to send. Without it, all in the bucket are sent
    #[arg(long, value_name = "NUMBER", requires = "from")]
    pub(crate) to: Option<u64>,

    /// A file in which --from records its progress. A later run with the same file skips what was
    /// sent
    #[arg(long, value_name = "FILE", requires = "from")]
    pub(crate) progress: Option<PathBuf>,

    /// The directory for records that the receiver rejects. Without it, `dead_letters` of the log
    /// stream's settings, or with --missing the host's
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) dead_letters: Option<PathBuf>,

    /// Give up after this many seconds. Run the command again to continue
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
}

/// A record, by its stream and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) stream: UniqueId,
    pub(crate) sequence: u64,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let place = || {
            let (stream, sequence) = text.split_once(':')?;
            let sequence = sequence.parse().ok().filter(|sequence| *sequence < u64::MAX)?;
            Some(Place { stream: stream.parse().ok()?, sequence })
        };
        place().ok_or_else(|| {
            "a record is named by its stream, a colon and its number, which is less than 2^64 - 1: \
             01HF7YAT000000000000000000:120"
                .to_owned()
        })
    }
}

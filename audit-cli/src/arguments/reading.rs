//! Options of the commands that read a bucket.

use clap::Args;

use super::{Selection, Source};
use crate::query::{Condition, Pointer};

#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) selection: Selection,

    /// List each object instead of each stream
    #[arg(long, short)]
    pub(crate) objects: bool,
}

/// The selection of records.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only records in which this JSON pointer has this value, as in /user=ada or /client/ip=null;
    /// all of several must hold. Numbers are compared by their exact value: 7 is 7.0
    #[arg(long = "where", short = 'w', value_name = "POINTER=VALUE")]
    pub(crate) conditions: Vec<Condition>,

    /// Where a record has its time: the JSON pointer of milliseconds since 1970, or of a date and
    /// time. Records without a time there are left out of a range of times, and counted
    #[arg(long, value_name = "POINTER", env = "AUDIT_TIME_POINTER", hide_env_values = true)]
    pub(crate) time: Option<Pointer>,
}

#[derive(Debug, Args)]
pub(crate) struct Cat {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) filter: Filter,

    /// Indent and colour records
    #[arg(long, short)]
    pub(crate) pretty: bool,

    /// Print each record of a mutation once its outcome is read, and with it:
    /// "outcome":"committed", "conflict", "rolled back" or "failed" in the record's "$audit", or
    /// "unknown" if nothing says what became of it. For hosts that record outcomes. Holds 64 MiB of
    /// records at most
    #[arg(long)]
    pub(crate) outcomes: bool,

    /// Stop after this many records
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub(crate) limit: Option<u64>,

    /// Exit with 1 if a record was left out because --time found no time in it, or if no record has
    /// the member that --where names. Without it a note on standard error says so
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) filter: Filter,

    /// Print each record of a mutation once its outcome is read, and with it:
    /// "outcome":"committed", "conflict", "rolled back" or "failed" in the record's "$audit", or
    /// "unknown" if nothing says what became of it. For hosts that record outcomes. Holds 64 MiB of
    /// records at most
    #[arg(long)]
    pub(crate) outcomes: bool,

    /// Print records as they arrive, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,

    /// How many of the last records to print first
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 10)]
    pub(crate) lines: usize,

    /// How often to look for new objects, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub(crate) interval_ms: u64,

    /// How many hours back to list each time: one listing for each, and one for the next hour, or
    /// more if an hour has more than 1000 objects. Objects under other hours, from a host whose
    /// clock is wrong or after an outage, are found by a walk over all days
    #[arg(long, value_name = "HOURS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=720))]
    pub(crate) hours: u16,

    /// The most listings in a minute, a quarter of them for the walk over all days. With the
    /// defaults, objects under the last hours are found in two seconds, and those under other hours
    /// in half a second for each day of logs and each 1000 objects. On AWS 240 a minute cost $0.07
    /// an hour
    #[arg(long, value_name = "COUNT", default_value_t = 240, value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    pub(crate) lists_per_minute: u32,

    /// Indent and colour records
    #[arg(long, short)]
    pub(crate) pretty: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) selection: Selection,

    /// Request only the objects' metadata: no bytes, no metered usage, no check of the lines
    #[arg(long)]
    pub(crate) heads: bool,

    /// Where a record has its time, to report how late objects arrive: the JSON pointer of
    /// milliseconds since 1970, or of a date and time
    #[arg(long, value_name = "POINTER", env = "AUDIT_TIME_POINTER", hide_env_values = true)]
    pub(crate) time: Option<Pointer>,
}

//! Options of the commands that read a bucket.

use std::ops::Range;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::{Selection, Source, times_ms};
use crate::condition::Condition;
use crate::query::Pointer;
use crate::sieve::Sieve;
use crate::units::Moment;

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
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Filter {
    /// Only records that match this condition; if several are given, all must match. A JSON
    /// pointer, an operator, and a value: /user=ada, /client/ip!=null, /n<7, <=, >, >=,
    /// /path~secret (contains), '/user in ada,eve'; /user (exists), !/user (does not exist).
    /// Numbers are compared exactly: 7 equals 7.0. A quoted value is a text
    #[arg(long = "where", short = 'w', value_name = "CONDITION")]
    pub(crate) conditions: Vec<Condition>,

    /// The JSON pointer of a record's time: milliseconds since 1970, or a date and time. With a
    /// range of times, records without a time there are left out and counted. `stats` without --by
    /// uses it to report how late objects arrive
    #[arg(long, value_name = "POINTER", env = "AUDIT_TIME_POINTER", hide_env_values = true)]
    pub(crate) time: Option<Pointer>,
}

impl Filter {
    /// The sieve for these options and this range of times.
    pub(crate) fn sieve(&self, times_ms: Range<i64>) -> Sieve {
        Sieve::new(self.conditions.clone(), self.time.clone(), times_ms)
    }
}

/// What to search for.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    text: String,
    condition: Condition,
}

impl FromStr for Query {
    type Err = String;

    fn from_str(text: &str) -> Result<Query, String> {
        Ok(Query { text: text.to_owned(), condition: Condition::searched(text)? })
    }
}

/// The query of a command, and how it is read.
#[derive(Debug, Args)]
pub(crate) struct Searched {
    /// A text that some name or value contains, or a condition on a member as for --where, such as
    /// /user=ada
    query: Query,

    /// Treat the query as a text, even if it looks like a condition
    #[arg(long, short = 'F')]
    text: bool,
}

impl Searched {
    /// The condition on records.
    pub(crate) fn condition(&self) -> Condition {
        let Query { text, condition } = &self.query;
        if self.text { Condition::anywhere(text) } else { condition.clone() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    #[command(flatten)]
    pub(crate) searched: Searched,
    #[command(flatten)]
    pub(crate) cat: Cat,
}

/// A division of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Per {
    Hour,
    Day,
}

/// Options for counting records.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Grouping {
    /// Count for each hour or day in UTC. The time of a record is the member that --time names, or
    /// the first of /at, /time, /timestamp, /now and /ts that exists, or the hour of its object
    #[arg(long, value_enum, value_name = "PERIOD")]
    pub(crate) per: Option<Per>,

    /// The JSON pointer of a record's client address, whose distinct values are counted. [default:
    /// the first of /client/ip, /source/ip, /actor/ip and /ip that exists]
    #[arg(long, value_name = "POINTER")]
    pub(crate) address: Option<Pointer>,

    /// The most memory for groups and distinct addresses, in MiB. Beyond it further groups are
    /// counted together, and a note says so
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) memory: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Who {
    #[command(flatten)]
    pub(crate) searched: Searched,
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) grouping: Grouping,
}

/// A form of exported records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For spreadsheets. Text that a spreadsheet would interpret as a formula is prefixed with an
    /// apostrophe
    Csv,
    /// The unchanged records, one per line
    Ndjson,
    /// A table for SQL, with a column for each member and one for the unchanged record
    Parquet,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) filter: Filter,

    /// The form
    #[arg(long, value_enum)]
    pub(crate) format: Format,

    /// The members to write as columns of CSV or Parquet, as JSON pointers. By default those of the
    /// first 1,000 records and, in the last column, the whole record; for Parquet, members of at
    /// least one record in 100. In Parquet, neither objects nor elements of arrays have a column,
    /// nor members whose names are not plain; a note names those that were given
    #[arg(long, value_name = "POINTER,...", value_delimiter = ',')]
    pub(crate) columns: Vec<Pointer>,
}

impl Export {
    /// Refuses options that would have no effect: a user who selects members may not want to hand
    /// out the others.
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.format, self.columns.is_empty()) {
            (Format::Ndjson, false) => {
                Err("--columns is for csv and parquet: ndjson has whole records".to_owned())
            }
            (Format::Ndjson | Format::Csv | Format::Parquet, _) => Ok(()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Compact {
    #[command(flatten)]
    pub(crate) source: Source,

    /// Where to create the files: a URL or a directory, neither below the records nor above them.
    /// dt=2026-11-23/000000.parquet is the first file of a day; existing files are never replaced
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,

    /// Only days from this time on: 2026-11-23, or an age: 7d. A day is compacted whole, an hour
    /// after its end; objects that arrive later go into another file of their day
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,

    /// Only days that end before this time, in the same form as --since
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,

    /// Also compact days that have not ended. Later objects go into further files of the day
    #[arg(long)]
    pub(crate) today: bool,

    /// The JSON pointer of a record's time, for the column audit_time: milliseconds since 1970, or
    /// a date and time. Without it, the first of /at, /time, /timestamp, /now and /ts that exists
    #[arg(long, value_name = "POINTER", env = "AUDIT_TIME_POINTER", hide_env_values = true)]
    time: Option<Pointer>,

    /// The members to sort a file's rows by: a query for one value of the first member then reads
    /// few other rows. By default the actor: /actor/userId, /actor/id, /user/id, /userId, /user or
    /// /actor
    #[arg(long, value_name = "POINTER,...", value_delimiter = ',')]
    pub(crate) by: Vec<Pointer>,
}

impl Compact {
    pub(crate) fn times_ms(&self) -> Range<i64> {
        times_ms(self.since, self.until)
    }

    pub(crate) fn time_pointers(&self) -> Vec<Pointer> {
        time_pointers(self.time.as_ref())
    }
}

/// The default pointers of a record's actor: those of this workspace's hosts, and common ones.
pub(crate) const ACTORS: [&str; 6] =
    ["/actor/userId", "/actor/id", "/user/id", "/userId", "/user", "/actor"];

/// The default pointers of a record's time.
const TIMES: [&str; 5] = ["/at", "/time", "/timestamp", "/now", "/ts"];

/// The pointers of a record's time: the given one, or the defaults.
pub(crate) fn time_pointers(time: Option<&Pointer>) -> Vec<Pointer> {
    match time {
        Some(time) => vec![time.clone()],
        None => TIMES.iter().filter_map(|text| text.parse().ok()).collect(),
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Printing {
    /// Indent and colour records
    #[arg(long, short)]
    pub(crate) pretty: bool,

    /// Print each record of a mutation once its outcome is read, and with it:
    /// "outcome":"committed", "conflict", "rolled back" or "failed" in the record's "$audit", or
    /// "unknown" if it has no outcome record. For hosts that record outcomes. Holds 64 MiB of
    /// records at most
    #[arg(long)]
    pub(crate) outcomes: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Cat {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) filter: Filter,

    #[command(flatten)]
    pub(crate) printing: Printing,

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

    #[command(flatten)]
    pub(crate) printing: Printing,

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

    /// Count records by these members, given as JSON pointers, instead: how many of each, the first
    /// and the last, from how many addresses
    #[arg(long, value_name = "POINTER,...", value_delimiter = ',')]
    pub(crate) by: Vec<Pointer>,

    #[command(flatten)]
    pub(crate) grouping: Grouping,

    #[command(flatten)]
    pub(crate) filter: Filter,
}

impl Stats {
    /// Whether the command counts records by their members or times, instead of objects.
    pub(crate) fn is_grouped(&self) -> bool {
        !self.by.is_empty() || self.grouping.per.is_some()
    }

    /// Refuses options that would have no effect: the user expects a different count.
    pub(super) fn check(&self) -> Result<(), String> {
        let refused = match self.is_grouped() {
            true if self.heads => "--heads reads no records, which --by and --per count",
            false if !self.filter.conditions.is_empty() => {
                "--where selects what --by or --per counts: without them, stats counts all records"
            }
            false if self.grouping.address.is_some() => {
                "--address is counted with --by or --per: without them, stats counts no addresses"
            }
            true | false => return Ok(()),
        };
        Err(refused.to_owned())
    }
}

//! The command line.

mod doctor;
mod evidence;
mod journal;
mod log_stream;
mod reading;
mod replay;
mod report;
mod serve;

use std::ops::Range;
use std::path::PathBuf;

use audit_core::UniqueId;
use audit_sink_s3::Bucket;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::units::{Moment, shown};

pub(crate) use self::doctor::{Doctor, Policy, Profile, Role};
pub(crate) use self::evidence::{Check, Heads, Key, Prove, TrustedKeys, Verify, Witness};
pub(crate) use self::journal::{
    Compression, JournalCat, JournalCommand, JournalDeliver, JournalDirectory,
};
pub(crate) use self::log_stream::{Aside, LogStreamCommand, LogStreams, SendAgain};
pub(crate) use self::reading::{
    ACTORS, Cat, Compact, Export, Filter, Format, Grouping, Ls, Per, Search, Stats, Tail, Who,
    time_pointers,
};
pub(crate) use self::replay::Replay;
pub(crate) use self::report::Report;
pub(crate) use self::serve::Serve;

const EXIT_CODES: &str = "\
Exit codes:
  0         done, and nothing is wrong; also if the reader of the output is gone before the end, unless the command changes or judges something
  1         done, and something is wrong: a gap, a duplicate, a damaged object, no streams (stats), an object that was left out (compact), a failed check, records left undelivered, tampering (verify), a proof that does not hold (check)
  2         the command line is wrong
  3         could not be done: the bucket is unreachable or refuses, a file cannot be read
  4         verify: no tampering was found, but something can be neither proven nor refuted
  5         verify: all is well, except that a host's heartbeat is overdue
  6         verify: all is well, except that the beginning of a stream has expired
  130, 143  stopped by Ctrl-C, by SIGTERM

Credentials, regions and endpoints come from the provider's usual environment variables (AWS_*, GOOGLE_*, AZURE_*).";

/// Inspects a bucket of audit logs or a journal, and reports what is wrong.
#[derive(Debug, Parser)]
#[command(name = "audit", version = audit_host::VERSION, after_help = EXIT_CODES, infer_subcommands = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Write JSON for programs: one object on each line
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Whether to use colours; `auto` does so on a terminal
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    pub(crate) color: Color,

    /// Show no progress
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,

    /// The most requests at once
    #[arg(long, global = true, default_value_t = 16, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) parallel: u16,

    /// How long to retry requests that the bucket does not answer, in seconds. 0 gives up at once
    #[arg(long, global = true, default_value_t = Bucket::READ_RETRY.as_secs(), value_name = "SECONDS", env = "AUDIT_RETRY_FOR", hide_env_values = true, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) retry_for: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the streams in a bucket, or its objects
    Ls(Ls),
    /// Print records
    Cat(Cat),
    /// Print the records that have a value, anywhere or in a member
    Search(Search),
    /// Count the records that have a value, by actor and action
    Who(Who),
    /// Write records as CSV, as Parquet, or as lines of JSON
    Export(Export),
    /// Create Parquet files of whole days, apart from the records, for frequent queries
    Compact(Compact),
    /// Print the last records, and with -f new ones as they arrive
    Tail(Tail),
    /// Count logs and metered usage, and find gaps, duplicates and damage; with --by, count records
    /// by their members
    Stats(Stats),
    /// Serve a page for reading a bucket in a browser, on this machine
    Serve(Serve),
    /// Prove, with nothing but the public keys of hosts, that no record was altered, invented,
    /// moved or removed since they wrote it
    Verify(Verify),
    /// Write an auditor's report for a period, as a page and as JSON: population, gaps,
    /// verification, keys, settings
    Report(Report),
    /// Write proofs of records, which anyone with the host's public key can check
    Prove(Prove),
    /// Check a proof of a record, or a report's signature, offline
    Check(Check),
    /// Show the verifier key of a key file, or create a key file
    Key(Key),
    /// Cosign the checkpoints of hosts, so that none can show two histories
    Witness(Witness),
    /// Show what a witness saw, as it signed it, and find what contradicts it
    Heads(Heads),
    /// Inspect the journal of a host, or deliver that of a host that is gone
    Journal {
        #[command(subcommand)]
        command: JournalCommand,
    },
    /// Resend records of a bucket to a log stream, such as those that it is missing
    Replay(Replay),
    /// Test the log streams of a host, and resend records that a receiver rejected
    LogStream {
        #[command(subcommand)]
        command: LogStreamCommand,
    },
    /// Check, with the credentials of a host, what must work and what must not, and advise what to
    /// change
    Doctor(Doctor),
    /// Print a policy for a bucket in S3, with its names filled in
    Policy {
        /// Which policy
        policy: Policy,
        #[command(flatten)]
        source: Source,
    },
    /// Print a script that completes commands in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the man page
    Man {
        /// Write one page for each command to this directory instead
        #[arg(long)]
        directory: Option<PathBuf>,
    },
}

/// The bucket to read.
#[derive(Debug, Clone, Args)]
pub(crate) struct Source {
    /// The bucket: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///path, or
    /// a directory
    #[arg(env = "AUDIT_BUCKET", hide_env_values = true)]
    pub(crate) bucket: String,
}

/// The part of it to read.
#[derive(Debug, Clone, Args)]
pub(crate) struct Selection {
    /// Only from this time on: 2026-11-23, 2026-11-23T14:30Z, or an age: 90s, 30m, 6h, 7d. Objects
    /// are filed under the UTC hour of their first record, so whole hours are read unless --time
    /// names the member with the time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,

    /// Only before this time, in the same form as --since
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,

    /// Only this stream
    #[arg(long, value_name = "ID")]
    pub(crate) stream: Option<UniqueId>,
}

impl Selection {
    pub(crate) fn times_ms(&self) -> Range<i64> {
        let Selection { since, until, stream: _ } = self;
        times_ms(*since, *until)
    }
}

/// The times from `since` on and before `until`, in milliseconds since the Unix epoch.
fn times_ms(since: Option<Moment>, until: Option<Moment>) -> Range<i64> {
    since.map_or(i64::MIN, |since| since.0)..until.map_or(i64::MAX, |until| until.0)
}

impl Command {
    /// Whether the command goes on although the reader of its output is gone: it changes something,
    /// or ends with a verdict, which must not be lost, as with `audit verify … | head`.
    pub(crate) fn outlives_reader(&self) -> bool {
        match self {
            Command::Compact(_)
            | Command::Verify(_)
            | Command::Report(_)
            | Command::Prove(_)
            | Command::Check(_)
            | Command::Key(_)
            | Command::Heads(_)
            | Command::Journal { command: JournalCommand::Deliver(_) }
            | Command::Replay(_)
            | Command::LogStream { .. }
            | Command::Doctor(_) => true,
            Command::Ls(_)
            | Command::Cat(_)
            | Command::Search(_)
            | Command::Who(_)
            | Command::Export(_)
            | Command::Tail(_)
            | Command::Stats(_)
            | Command::Serve(_)
            | Command::Witness(_)
            | Command::Journal { command: JournalCommand::Show(_) | JournalCommand::Cat(_) }
            | Command::Policy { .. }
            | Command::Completions { .. }
            | Command::Man { .. } => false,
        }
    }
}

impl Arguments {
    /// Checks what clap cannot check for single options.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Command::Report(report) = &self.command
            && report.from >= report.to
        {
            let (from, to) = (shown(report.from.0), shown(report.to.0));
            return Err(format!("--from {from} is not before --to {to}: nothing is between them"));
        }
        if let Command::Check(check) = &self.command {
            check.check()?;
        }
        if let Command::Replay(Replay { from: Some(from), to: Some(to), .. }) = &self.command
            && from.sequence > *to
        {
            let from = from.sequence;
            return Err(format!("--to {to} is before the record {from} of --from"));
        }
        if let Command::Stats(stats) = &self.command {
            stats.check()?;
        }
        if let Command::Export(export) = &self.command {
            export.check()?;
        }
        let times_ms = match &self.command {
            Command::Ls(ls) => ls.selection.times_ms(),
            Command::Cat(cat) => cat.selection.times_ms(),
            Command::Search(search) => search.cat.selection.times_ms(),
            Command::Who(who) => who.selection.times_ms(),
            Command::Export(export) => export.selection.times_ms(),
            Command::Stats(stats) => stats.selection.times_ms(),
            Command::Compact(compact) => compact.times_ms(),
            Command::Prove(prove) => prove.times_ms(),
            Command::Tail(_)
            | Command::Serve(_)
            | Command::Report(_)
            | Command::Verify(_)
            | Command::Check(_)
            | Command::Key(_)
            | Command::Witness(_)
            | Command::Heads(_)
            | Command::Journal { .. }
            | Command::Replay(_)
            | Command::LogStream { .. }
            | Command::Doctor(_)
            | Command::Policy { .. }
            | Command::Completions { .. }
            | Command::Man { .. } => return Ok(()),
        };
        if times_ms.start < times_ms.end {
            return Ok(());
        }
        let (since, until) = (shown(times_ms.start), shown(times_ms.end));
        Err(format!("--since {since} is not before --until {until}: nothing is between them"))
    }
}

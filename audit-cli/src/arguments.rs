//! The command line.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;

use audit_core::UniqueId;
use audit_evidence::VerifierKey;
use audit_sink_s3::{Bucket, Settings};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::keys;
use crate::query::{Condition, Pointer};
use crate::units::{Moment, shown};

const EXIT_CODES: &str = "\
Exit codes:
  0         done, and nothing is wrong
  1         done, and something is wrong: a gap, a duplicate, a damaged object, no streams (stats), a failed check, records left undelivered, tampering (verify), a proof that does not hold (check)
  2         the command line is wrong
  3         could not be done: the bucket is out of reach or refuses, a file cannot be read
  4         verify: nothing is tampered with, and something can be neither proven nor refuted
  5         verify: the rest is well, and a host's sign of life is overdue
  6         verify: the rest is well, and the beginning of a stream has expired
  130, 143  stopped by Ctrl-C, by SIGTERM

Credentials, regions and endpoints come from the provider's usual environment variables (AWS_*, GOOGLE_*, AZURE_*).";

/// Inspects a bucket of audit logs or a journal, and reports what is wrong.
#[derive(Debug, Parser)]
#[command(name = "audit", version, after_help = EXIT_CODES, infer_subcommands = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
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

    /// How long to retry a request that a bucket does not answer, in seconds. 0 gives up at once
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
    /// Print the last records, and with -f new ones as they arrive
    Tail(Tail),
    /// Count logs and metered usage, and find gaps, duplicates and damage
    Stats(Stats),
    /// Prove, with nothing but the public keys of hosts, that no record was altered, invented,
    /// moved or removed since they wrote it
    Verify(Verify),
    /// Write proofs of records, which anyone with the host's public key can check
    Prove(Prove),
    /// Check a proof of a record, offline
    Check(Check),
    /// Show the verifier key of a key file, or make one
    Key(Key),
    /// Cosign the checkpoints of hosts, so that none can show two histories
    Witness(Witness),
    /// Inspect the journal of a host, or deliver that of a host that is gone
    Journal {
        #[command(subcommand)]
        command: JournalCommand,
    },
    /// Check, with the credentials of a host, what must work and what must not, and say what to
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
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The bucket: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///path, or
    /// a directory
    #[arg(env = "AUDIT_BUCKET", hide_env_values = true)]
    pub(crate) bucket: String,
}

/// The part of it to read.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Only from this time on: 2026-11-23, 2026-11-23T14:30Z, or an age: 90s, 30m, 6h, 7d. Objects
    /// are filed under the UTC hour of their first record, so whole hours are read unless --time
    /// says where records have their time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,

    /// Only before this time; as --since
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,

    /// Only this stream
    #[arg(long, value_name = "ID")]
    pub(crate) stream: Option<UniqueId>,
}

impl Selection {
    pub(crate) fn times_ms(&self) -> Range<i64> {
        let Selection { since, until, stream: _ } = self;
        since.map_or(i64::MIN, |since| since.0)..until.map_or(i64::MAX, |until| until.0)
    }
}

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

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) source: Source,

    /// The verifier key of a host, as `audit key` prints it, or a file that holds it. May be given
    /// several times
    #[arg(long = "key", value_name = "KEY", env = "AUDIT_VERIFIER_KEY", value_parser = keys::verifier, required_unless_present = "policy")]
    pub(crate) keys: Vec<VerifierKey>,

    /// Which keys to trust: a tlog-policy file, whose logs are hosts, and whose quorum must have
    /// cosigned each stream
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Read only metadata and the hosts' own records. Detects objects that were moved, stripped or
    /// removed, but not altered records
    #[arg(long)]
    pub(crate) heads: bool,

    /// Compare streams with their state at the last run, and save their state now. Detects a
    /// truncated or removed stream, and an old copy of the bucket. The file is created if it is
    /// missing
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,

    /// Check only what may have changed: the days from the first stream on that had not ended at
    /// the last run
    #[arg(long, requires = "state")]
    pub(crate) incremental: bool,

    /// Records from this time on must be there and have evidence; older ones are not checked:
    /// 2026-11-23, 2026-11-23T14:30Z, or an age: 90s, 30m, 6h, 7d. Without it, records missing at
    /// the beginning of a stream count as expired
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,

    /// Places of records that were acknowledged: lines of stream,sequence,count or of JSON objects
    /// with these members
    #[arg(long, value_name = "FILE")]
    pub(crate) receipts: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["sequence", "execution"])))]
pub(crate) struct Prove {
    #[command(flatten)]
    pub(crate) source: Source,

    /// The stream of the record; or the only stream to search for an execution
    #[arg(long, value_name = "ID")]
    pub(crate) stream: Option<UniqueId>,

    /// The record of this number in the stream
    #[arg(long, value_name = "NUMBER", requires = "stream")]
    pub(crate) sequence: Option<u64>,

    /// All records of this execution, which they name if provenance is enabled
    #[arg(long, value_name = "ID")]
    pub(crate) execution: Option<String>,

    /// Search for the execution only from this time on: 2026-11-23, 2026-11-23T14:30Z, or an age:
    /// 90s, 30m, 6h, 7d
    #[arg(long, value_name = "TIME", requires = "execution")]
    pub(crate) since: Option<Moment>,

    /// Search for the execution only before this time
    #[arg(long, value_name = "TIME", requires = "execution")]
    pub(crate) until: Option<Moment>,

    /// The directory to write to: for each record <stream>-<number>.tlog-proof, and the record
    /// itself as .json
    #[arg(long, short, value_name = "DIRECTORY", default_value = ".")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The proof: a file that ends in .tlog-proof
    pub(crate) proof: PathBuf,

    /// The record: a file with its line, or - for standard input
    pub(crate) record: PathBuf,

    /// The verifier key of the host, as `audit key` prints it, or a file that holds it. May be
    /// given several times
    #[arg(long = "key", value_name = "KEY", env = "AUDIT_VERIFIER_KEY", value_parser = keys::verifier, required_unless_present = "policy")]
    pub(crate) keys: Vec<VerifierKey>,

    /// Which keys to trust: a tlog-policy file, whose logs are hosts, and whose quorum must have
    /// cosigned the proof's checkpoint
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Key {
    /// The file with the private key
    pub(crate) file: PathBuf,

    /// Create the file, with a new key of this name, under which the host's records are verified:
    /// such as example.com/api, at most 64 characters without spaces and +
    #[arg(long, value_name = "NAME")]
    pub(crate) make: Option<String>,

    /// Make the key of a witness instead of a host
    #[arg(long, requires = "make")]
    pub(crate) witness: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Witness {
    /// The file with the witness's key: see `audit key FILE --make NAME --witness`
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,

    /// The verifier key of a host whose streams are cosigned, or a file that holds it. May be given
    /// several times
    #[arg(long = "host", value_name = "KEY", value_parser = keys::verifier, required = true)]
    pub(crate) hosts: Vec<VerifierKey>,

    /// The directory with what was cosigned. If it is lost or restored from an older copy, make a
    /// new key: the old one could cosign two histories
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) state: PathBuf,

    /// The address to serve at. Anyone can send requests; only the hosts get cosignatures
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8430")]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Say what is in a journal and what of it is not known to be in the bucket. Changes nothing,
    /// also while a host has it open
    Show(JournalDirectory),
    /// Print records of a journal: those that are not known to be in the bucket, unless told
    /// otherwise. Changes nothing
    Cat(JournalCat),
    /// Recover the journal of a host that is gone, and bring to its bucket what is not there yet,
    /// each record once
    Deliver(JournalDeliver),
}

#[derive(Debug, Args)]
pub(crate) struct JournalDirectory {
    /// The journal's directory
    #[arg(env = "AUDIT_JOURNAL", hide_env_values = true)]
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct JournalCat {
    #[command(flatten)]
    pub(crate) directory: JournalDirectory,
    #[command(flatten)]
    pub(crate) filter: Filter,

    /// Print the records that were delivered, or set aside after a conflict, and are still here
    #[arg(long, short, conflicts_with = "all")]
    pub(crate) delivered: bool,

    /// Print all records that are here, delivered or not
    #[arg(long, short)]
    pub(crate) all: bool,

    /// Indent and colour records
    #[arg(long, short)]
    pub(crate) pretty: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JournalDeliver {
    #[command(flatten)]
    pub(crate) directory: JournalDirectory,

    /// The bucket that the host wrote to: s3://bucket/prefix, gs://bucket/prefix,
    /// az://container/prefix, file:///path
    #[arg(env = "AUDIT_BUCKET", hide_env_values = true)]
    pub(crate) bucket: String,

    /// Say what would be delivered, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Before that, list the bucket and deliver again what was delivered, is still in the journal,
    /// and is missing from the bucket. Writes over nothing and stores no record twice
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) again: bool,

    /// Remove segments once all of them is delivered. With --again not if an object is in the way
    #[arg(long)]
    pub(crate) remove: bool,

    /// Give up after so many seconds. What was not delivered stays where it is
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,

    /// How objects are compressed that were not cut yet
    #[arg(long, value_enum, default_value = "zstd", value_name = "HOW")]
    pub(crate) compression: Compression,

    /// Bytes of lines in an object that was not cut yet: the host's max_object_bytes
    #[arg(long, value_name = "BYTES", default_value_t = Settings::default().max_object_bytes)]
    pub(crate) max_object_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    Zstd,
    Gzip,
    None,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) source: Source,

    /// Whose credentials to check
    #[arg(long, value_enum, default_value = "host")]
    pub(crate) role: Role,

    /// Also look whether the bucket's configuration shows what a rule asks of it: how long records
    /// are kept, whether somebody can shorten that, and whether they are at hand. It needs
    /// s3:GetBucketVersioning, s3:GetBucketObjectLockConfiguration and s3:GetLifecycleConfiguration
    #[arg(long, value_enum)]
    pub(crate) profile: Option<Profile>,

    /// Exit with 1 for warnings too
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// PCI DSS 4.0.1, requirement 10.5.1
    Pci,
    /// HIPAA, 45 CFR 164.316(b)(2)(i)
    Hipaa,
    /// SEC, 17 CFR 240.17a-4
    #[value(name = "sec17a4")]
    Sec17a4,
    /// DORA, Delegated Regulation (EU) 2024/1774, article 12
    Dora,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// A process that writes audit logs. A small object is written below _audit/doctor
    Host,
    /// A reader of audit logs
    Reader,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Host => "host",
            Role::Reader => "reader",
        }
    }

    pub(crate) fn policy(self) -> Policy {
        match self {
            Role::Host => Policy::Host,
            Role::Reader => Policy::Reader,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// The permissions of a host: to put and to get
    Host,
    /// The permissions of a reader: to list and to get
    Reader,
    /// What the bucket denies to everyone: overwriting, deleting, requests without TLS
    Bucket,
    /// Cheaper storage after 90 days, and expiry after seven years
    Lifecycle,
    /// Retention that nobody can shorten
    ObjectLock,
}

impl Arguments {
    /// What clap cannot check for single options.
    pub(crate) fn check(&self) -> Result<(), String> {
        let selection = match &self.command {
            Command::Ls(ls) => &ls.selection,
            Command::Cat(cat) => &cat.selection,
            Command::Stats(stats) => &stats.selection,
            Command::Tail(_)
            | Command::Verify(_)
            | Command::Prove(_)
            | Command::Check(_)
            | Command::Key(_)
            | Command::Witness(_)
            | Command::Journal { .. }
            | Command::Doctor(_)
            | Command::Policy { .. }
            | Command::Completions { .. }
            | Command::Man { .. } => return Ok(()),
        };
        let times_ms = selection.times_ms();
        if times_ms.start < times_ms.end {
            return Ok(());
        }
        let (since, until) = (shown(times_ms.start), shown(times_ms.end));
        Err(format!("--since {since} is not before --until {until}: nothing is between them"))
    }
}

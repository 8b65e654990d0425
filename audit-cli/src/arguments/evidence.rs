//! Options of the commands that deal with evidence.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use audit_core::UniqueId;
use audit_evidence::{TrustedKey, VerifierKey};
use audit_host::listen_address;
use clap::Args;

use super::{Source, times_ms};
use crate::keys;
use crate::units::Moment;

/// The keys that a verification trusts.
#[derive(Debug, Args)]
pub(crate) struct TrustedKeys {
    /// The verifier key of a host, as `audit key` prints it, or a file that holds it. May be given
    /// several times. A key that was replaced: "KEY until 2026-11-26T14:00Z"; its successor: "KEY
    /// from 2026-11-26T14:00Z". These are times at which streams were opened
    #[arg(
        long = "key",
        value_name = "KEY",
        env = "AUDIT_VERIFIER_KEY",
        value_parser = keys::trusted,
        required_unless_present = "policy"
    )]
    pub(crate) keys: Vec<TrustedKey>,

    /// The keys to trust: a tlog-policy file whose logs are hosts, and whose quorum must have
    /// cosigned each stream or a proof's checkpoint
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) source: Source,

    #[command(flatten)]
    pub(crate) trusted: TrustedKeys,

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

    /// Records from this time on must exist and have evidence; older ones are not checked:
    /// 2026-11-23, 2026-11-23T14:30Z, or an age: 90s, 30m, 6h, 7d. Without it, records missing at
    /// the beginning of a stream count as expired
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,

    /// The bucket's name in its hosts' records, if it is read under another one, as a copy or a
    /// moved directory. May be given several times. Without it, streams of another bucket are
    /// reported; in a directory, streams of another bucket than the first stream's
    #[arg(long, value_name = "URL")]
    pub(crate) written_to: Vec<String>,

    /// Also check the Parquet files that `audit compact` created there: that their records are
    /// those that hosts signed, and that each column matches its record
    #[arg(long, value_name = "URL")]
    pub(crate) parquet: Option<String>,

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
    since: Option<Moment>,

    /// Search for the execution only before this time
    #[arg(long, value_name = "TIME", requires = "execution")]
    until: Option<Moment>,

    /// The verifier key of the record's host, as for `verify`: only objects that it certified are
    /// used. Without it, an object that somebody else signed may be. May be given several times
    #[arg(long = "key", value_name = "KEY", env = "AUDIT_VERIFIER_KEY", value_parser = keys::trusted)]
    pub(crate) keys: Vec<TrustedKey>,

    /// The directory to write to: for each record <stream>-<number>.tlog-proof, and the record
    /// itself as .json
    #[arg(long, short, value_name = "DIRECTORY", default_value = ".")]
    pub(crate) output: PathBuf,
}

impl Prove {
    pub(crate) fn times_ms(&self) -> Range<i64> {
        times_ms(self.since, self.until)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The proof: a file that ends in .tlog-proof; or the .note of a report
    pub(crate) proof: PathBuf,

    /// The record: a file with its line, or - for standard input; or the report's file
    pub(crate) record: PathBuf,

    #[command(flatten)]
    pub(crate) trusted: TrustedKeys,
}

impl Check {
    /// Refuses the same file as proof and as record: standard input or a pipe cannot be read twice.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.proof == self.record {
            true if self.proof == Path::new("-") => {
                Err("PROOF and RECORD are both standard input: one of them must be a file".into())
            }
            true => Err(format!("PROOF and RECORD are both {}", self.proof.display())),
            false => Ok(()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Key {
    /// The file with the private key
    pub(crate) file: PathBuf,

    /// Create the file with a new key. The host's records are verified under this name, such as
    /// example.com/api: at most 64 characters, without spaces and +
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

    /// The directory with the state of what was cosigned. If it is lost or restored from an older
    /// copy, create a new key: the old one could cosign two histories
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) state: PathBuf,

    /// The address to serve at. Anyone can send requests; only the hosts get cosignatures
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8430", value_parser = listen_address)]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct Heads {
    /// The directory of the witness's state, or a copy of its files heads and heads.signed
    pub(crate) directory: PathBuf,

    /// The witness's verifier key, or a file that holds it
    #[arg(long, value_name = "KEY", value_parser = keys::verifier)]
    pub(crate) key: VerifierKey,

    /// The verifier key of a host, or a file that holds it: heads must be certified by one of them.
    /// May be given several times. Without it, the witness is believed
    #[arg(long = "host", value_name = "KEY", value_parser = keys::verifier)]
    pub(crate) hosts: Vec<VerifierKey>,

    /// Add what was seen of each stream to the state of `audit verify`, which then finds what the
    /// bucket lacks of it, or has otherwise. The file is created if it is missing
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
}

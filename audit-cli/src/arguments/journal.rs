//! Options of `audit journal`.

use std::path::PathBuf;

use audit_sink_s3::Settings;
use clap::{Args, Subcommand, ValueEnum};

use super::reading::Filter;

#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Show the contents of a journal, and which records are not known to be in the bucket. Changes
    /// nothing, even while a host has it open
    Show(JournalDirectory),
    /// Print records of a journal, by default those that are not known to be in the bucket. Changes
    /// nothing
    Cat(JournalCat),
    /// Recover the journal of a host that is gone, and deliver its undelivered records to the
    /// bucket, each once
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

    /// Print the records that were delivered or set aside after a conflict, and are still in the
    /// journal
    #[arg(long, short, conflicts_with = "all")]
    pub(crate) delivered: bool,

    /// Print all records in the journal, delivered or not
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

    /// Show what would be delivered, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// First list the bucket, and deliver again the delivered records that are still in the journal
    /// but missing from the bucket. Then the same for each route, in its own bucket: the one in
    /// --routes, or else the one that the journal names. A route's bucket that cannot be read is
    /// named, and the others are restored. Overwrites nothing and stores no record twice
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) again: bool,

    /// Remove segments once all their records are delivered. With --again, keep them if another
    /// object has the key of one that would be restored, or if a route's bucket cannot be read
    #[arg(long)]
    pub(crate) remove: bool,

    /// Give up after this many seconds. Undelivered records stay in the journal
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,

    /// The file with the log streams of the host. Those that follow the journal also get the
    /// records they do not have yet. Without it, the missing records are listed; they remain in the
    /// bucket
    #[arg(long, env = "AUDIT_LOG_STREAMS", value_name = "FILE")]
    pub(crate) log_streams: Option<PathBuf>,

    /// The file with the host's routes, for buckets with settings of their own, such as a role.
    /// Records of a route that is not in the file go to the bucket that the journal names
    #[arg(long, env = "AUDIT_ROUTES", value_name = "FILE")]
    pub(crate) routes: Option<PathBuf>,

    /// The compression of objects that were not cut yet
    #[arg(long, value_enum, default_value = "zstd", value_name = "HOW")]
    pub(crate) compression: Compression,

    /// The size of objects that were not cut yet, in bytes of lines: the host's max_object_bytes
    #[arg(long, value_name = "BYTES", default_value_t = Settings::default().max_object_bytes)]
    pub(crate) max_object_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    Zstd,
    Gzip,
    None,
}

//! Options of `audit journal`.

use std::path::PathBuf;

use audit_sink_s3::Settings;
use clap::{Args, Subcommand, ValueEnum};

use super::reading::Filter;

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

    /// The file with the log streams of the host: those that follow the journal get what they do
    /// not have yet, too. Without it, what they miss is said, and stays in the bucket
    #[arg(long, env = "AUDIT_LOG_STREAMS", value_name = "FILE")]
    pub(crate) log_streams: Option<PathBuf>,

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

//! Where a journal is, how much it may take, how soon it is delivered.

use std::path::PathBuf;
use std::time::Duration;

use audit_core::MAX_BATCH_BYTES;
use serde::{Deserialize, Serialize};

use crate::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, GROUP_HEADER_BYTES};
use crate::shared::bounds::{InvalidSettings, MAX_IN_FLIGHT, MAX_TIME_MS, within};

/// A block for the header of the segment, and a group of one largest batch: its headers are less
/// than another block.
const MIN_SEGMENT_BYTES: u64 = 2 * BLOCK_BYTES + MAX_BATCH_BYTES as u64;
const MAX_SEGMENT_BYTES: u64 = 1 << 30;
const _: () = assert!(GROUP_HEADER_BYTES + BATCH_HEADER_BYTES <= BLOCK_BYTES as usize);

/// A journal on this host's disk: where it is, and how it is brought to the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalSettings {
    /// Its directory, made if it does not exist, for its owner alone. One process has it open at a
    /// time. It must be on a disk that keeps what it has synced, and that outlives the process:
    /// what is acknowledged may be there alone.
    pub directory: PathBuf,

    /// The size of a segment, in bytes. Default: 64 MiB. A multiple of 4,096, and room for one
    /// largest batch ([`MAX_BATCH_BYTES`]).
    ///
    /// Segments are allocated and zeroed before they are needed, so two of them are always there.
    #[serde(default = "default_segment_bytes")]
    pub segment_bytes: u64,

    /// How much disk its segments may take, in bytes. Default: 4 GiB. At least three segments.
    ///
    /// It is how long an outage of the bucket can last: at 1 MiB of logs a second, 4 GiB are over
    /// an hour. From 80% on there is a warning, and segments that are delivered go before their
    /// time; when there is no room, functions wait for it and then fail.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: u64,

    /// When an object is cut that is not full, in milliseconds after its first record was read.
    /// Default: 5,000.
    ///
    /// It bounds how late a record is in the bucket, and how many objects a quiet host makes: 5 s
    /// are 17,280 a day.
    #[serde(default = "default_cut_after_ms")]
    pub cut_after_ms: u64,

    /// How long segments are kept after they are full and delivered, in milliseconds. Default: one
    /// hour. Less if there is no room. What they hold can be compared with the destination, and
    /// delivered again: see [`OrphanedJournal`](crate::OrphanedJournal).
    #[serde(default = "default_retention_ms")]
    pub retention_ms: u64,

    /// The most objects that are sent at once. Default: 16. It begins with one, adds one for each
    /// that arrives, and goes back to one when the bucket is in trouble.
    #[serde(default = "default_journal_in_flight")]
    pub max_in_flight: usize,
}

fn default_segment_bytes() -> u64 {
    64 << 20
}

fn default_max_bytes() -> u64 {
    4 << 30
}

fn default_cut_after_ms() -> u64 {
    5_000
}

fn default_retention_ms() -> u64 {
    60 * 60 * 1_000
}

fn default_journal_in_flight() -> usize {
    16
}

impl JournalSettings {
    /// A journal in this directory, with defaults for all else.
    pub fn new(directory: impl Into<PathBuf>) -> JournalSettings {
        JournalSettings {
            directory: directory.into(),
            segment_bytes: default_segment_bytes(),
            max_bytes: default_max_bytes(),
            cut_after_ms: default_cut_after_ms(),
            retention_ms: default_retention_ms(),
            max_in_flight: default_journal_in_flight(),
        }
    }

    /// Whether a journal can work with these values.
    ///
    /// # Errors
    ///
    /// For the first value that makes no sense, naming it.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let JournalSettings {
            directory: _,
            segment_bytes,
            max_bytes,
            cut_after_ms,
            retention_ms,
            max_in_flight,
        } = *self;
        within("journal.segment_bytes", segment_bytes, MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES)?;
        within("journal.segment_bytes modulo 4096", segment_bytes % BLOCK_BYTES, 0, 0)?;
        within("journal.max_bytes", max_bytes, 3 * segment_bytes, u64::MAX / 8)?;
        within("journal.cut_after_ms", cut_after_ms, 0, MAX_TIME_MS)?;
        within("journal.retention_ms", retention_ms, 0, 365 * MAX_TIME_MS)?;
        within("journal.max_in_flight", max_in_flight as u64, 1, MAX_IN_FLIGHT as u64)
    }

    pub(crate) fn cut_after(&self) -> Duration {
        Duration::from_millis(self.cut_after_ms)
    }
}

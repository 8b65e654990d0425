//! The settings of a journal.

use std::path::PathBuf;
use std::time::Duration;

use audit_core::MAX_BATCH_BYTES;
use serde::{Deserialize, Serialize};

use crate::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, GROUP_HEADER_BYTES, TABLE_ROW_BYTES};
use crate::shared::bounds::{InvalidSettings, MAX_IN_FLIGHT, MAX_TIME_MS, within};

/// One block for the segment's header, plus a group with a single batch of maximum size, whose
/// headers and table of routes fit into another block.
const MIN_SEGMENT_BYTES: u64 = 2 * BLOCK_BYTES + MAX_BATCH_BYTES as u64;
const MAX_SEGMENT_BYTES: u64 = 1 << 30;
const _: () =
    assert!(GROUP_HEADER_BYTES + 2 * BATCH_HEADER_BYTES + TABLE_ROW_BYTES <= BLOCK_BYTES as usize);

/// Room for some small objects.
const MIN_DELIVERY_BYTES: u64 = 1 << 20;
const MAX_DELIVERY_BYTES: u64 = 8 << 30;

/// A journal on this host's disk: its location, its size, and its delivery to the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalSettings {
    /// Its directory, created if it does not exist, accessible only to its owner. Only one process
    /// can have it open. It must be on a disk that keeps synced data and outlives the process,
    /// since it may hold the only copy of acknowledged records.
    pub directory: PathBuf,

    /// The size of a segment, in bytes. Default: 64 MiB. It must be a multiple of 4,096 with room
    /// for one batch of maximum size ([`MAX_BATCH_BYTES`]).
    ///
    /// Segments are allocated and zeroed before they are needed, so at least two always exist.
    #[serde(default = "default_segment_bytes")]
    pub segment_bytes: u64,

    /// The most disk space that its segments may take, in bytes. Default: 4 GiB. Minimum: three
    /// segments.
    ///
    /// This bounds the outage of the bucket that a host survives: at 1 MiB of logs a second, 4 GiB
    /// last over an hour. From 80% on, a warning is logged and delivered segments are removed
    /// before their retention ends. Without room, functions wait for it and then fail.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: u64,

    /// How long an object that is not full waits for more records, in milliseconds after its first
    /// record was read. Default: 5,000.
    ///
    /// This bounds the delay until a record is in the bucket, and the number of objects of a quiet
    /// host: with 5 s, 17,280 a day.
    #[serde(default = "default_cut_after_ms")]
    pub cut_after_ms: u64,

    /// How long full segments are kept after their delivery, in milliseconds. Default: one hour.
    /// They are removed earlier if room is needed. Their records can be compared with the
    /// destination and delivered again: see [`OrphanedJournal`](crate::OrphanedJournal).
    #[serde(default = "default_retention_ms")]
    pub retention_ms: u64,

    /// The maximum number of objects sent at once. Default: 16. Sending starts with one, adds one
    /// for each delivered object, and returns to one when the bucket is in trouble.
    #[serde(default = "default_journal_in_flight")]
    pub max_in_flight: usize,

    /// The most memory for records that are being encoded and objects that are being sent, in
    /// bytes, for all routes together. Default: 48 MiB. Minimum: 1 MiB.
    ///
    /// Half of it is for records, until their object is encoded and planned. Three eighths are for
    /// sending, and one eighth is for sending again what a destination did not take in time. The
    /// default has room for the records of three objects of 8 MiB: two cores encode while the next
    /// object is read. With `n` cores, `2 * (n + 1) * max_object_bytes` keep all of them busy.
    ///
    /// It should be at least four times `max_object_bytes`. Larger objects are delivered too, and
    /// take more memory than is counted for them: each counts as at most a quarter of this while it
    /// is encoded, and as at most the part for sending while it is sent.
    #[serde(default = "default_max_delivery_bytes")]
    pub max_delivery_bytes: u64,
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

fn default_max_delivery_bytes() -> u64 {
    48 << 20
}

impl JournalSettings {
    /// A journal in this directory with default settings.
    pub fn new(directory: impl Into<PathBuf>) -> JournalSettings {
        JournalSettings {
            directory: directory.into(),
            segment_bytes: default_segment_bytes(),
            max_bytes: default_max_bytes(),
            cut_after_ms: default_cut_after_ms(),
            retention_ms: default_retention_ms(),
            max_in_flight: default_journal_in_flight(),
            max_delivery_bytes: default_max_delivery_bytes(),
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// The first value out of bounds, by name.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let JournalSettings {
            directory: _,
            segment_bytes,
            max_bytes,
            cut_after_ms,
            retention_ms,
            max_in_flight,
            max_delivery_bytes,
        } = *self;
        within("journal.segment_bytes", segment_bytes, MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES)?;
        within("journal.segment_bytes modulo 4096", segment_bytes % BLOCK_BYTES, 0, 0)?;
        within("journal.max_bytes", max_bytes, 3 * segment_bytes, u64::MAX / 8)?;
        within("journal.cut_after_ms", cut_after_ms, 0, MAX_TIME_MS)?;
        within("journal.retention_ms", retention_ms, 0, 365 * MAX_TIME_MS)?;
        within("journal.max_in_flight", max_in_flight as u64, 1, MAX_IN_FLIGHT as u64)?;
        within(
            "journal.max_delivery_bytes",
            max_delivery_bytes,
            MIN_DELIVERY_BYTES,
            MAX_DELIVERY_BYTES,
        )
    }

    pub(crate) fn cut_after(&self) -> Duration {
        Duration::from_millis(self.cut_after_ms)
    }
}

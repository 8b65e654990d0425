//! The result of verifying a stream.

use super::Finding;
use crate::{Hash, StreamEnd, SystemRecord};

/// The result of verifying a stream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamReport {
    /// The stream.
    pub stream: String,
    /// The name of the host that wrote it. `None` if no object has valid evidence.
    pub host: Option<String>,
    /// One past the number of the last record in an object with valid evidence.
    pub size: u64,
    /// The root of the stream's tree at that size.
    pub root: Option<Hash>,
    /// The number of records in objects with valid evidence, including system records.
    pub records: u64,
    /// The number of objects of any kind.
    pub objects: u64,
    /// All records below this number were acknowledged.
    pub stable: u64,
    /// The host's opening record, if present.
    pub opened: Option<SystemRecord>,
    /// When the host wrote its last system record, in milliseconds since the Unix epoch.
    pub latest: Option<u64>,
    /// The maximum known difference between the host's clock and the store's, in milliseconds.
    pub clock_offset: Option<u64>,
    /// The deadline for the host's next system record, in milliseconds since the Unix epoch.
    pub promised: Option<u64>,
    /// One past the number of the closing record.
    pub closed: Option<u64>,
    /// Whether its last object's metadata is unusable, so that it may end later.
    pub(super) is_open: bool,
    /// Whether a later stream states that it ends here.
    pub(super) is_succeeded: bool,
    /// The ends of earlier streams that it states.
    pub previous: Vec<StreamEnd>,
    /// The findings, in no order. Those of a [`BucketReport`](super::BucketReport) are in one.
    pub findings: Vec<Finding>,
}

impl StreamReport {
    /// The report of a stream without objects.
    pub(super) fn new(stream: &str) -> StreamReport {
        StreamReport {
            stream: stream.to_owned(),
            host: None,
            size: 0,
            root: None,
            records: 0,
            objects: 0,
            stable: 0,
            opened: None,
            latest: None,
            clock_offset: None,
            promised: None,
            closed: None,
            is_open: false,
            is_succeeded: false,
            previous: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Whether it is complete: closed, or stated as fully delivered by the host's next stream.
    pub fn has_ended(&self) -> bool {
        self.closed.is_some() || self.is_succeeded
    }
}

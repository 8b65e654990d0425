//! The inputs of the fuzz targets, and what they read.

use std::collections::BTreeMap;

use super::disk::SimulatedDisk;
use crate::format::{self, FIRST_GROUP, Found, SegmentHeader};
use crate::recovery;
use crate::segment::{self, SegmentReader, Window};

/// The first bytes of every group.
pub const GROUP_MARK: &str = format::GROUP_MARK;

/// The alignment of groups, in bytes.
pub const BLOCK_BYTES: usize = format::BLOCK_BYTES as usize;

/// The header of the first segment.
pub fn segment_header(salt: u32, bytes: u64) -> Vec<u8> {
    SegmentHeader { ordinal: 1, salt, bytes }.encode()
}

/// Appends the checksum to a header.
pub fn seal(header: &mut Vec<u8>, salt: u32) {
    format::seal(header, salt);
}

/// Recovers a journal of one segment, and reads every group that recovery found.
pub fn read_segment(file: Vec<u8>) -> Vec<Vec<u8>> {
    let files = BTreeMap::from([(segment::file_name(1), file)]);
    let disk = SimulatedDisk::with_files(0, &files);
    let mut groups = Vec::new();
    let Ok(recovered) = recovery::recover(&disk) else { return groups };
    for found in recovered.segments {
        let mut sequence = found.first_sequence;
        let mut reader = SegmentReader::new(found.segment, FIRST_GROUP, Window::default());
        while reader.position().offset < found.end {
            let Ok(Found::Group(header)) = reader.look() else {
                panic!("recovery saw a group here")
            };
            assert_eq!(header.first_sequence, sequence);
            sequence += u64::from(header.count);
            let (places, payload) = reader.batches(&header).expect("its checksums match");
            let end = places.last().map_or(payload.len(), |last| last.lines.end);
            assert_eq!(end, payload.len());
            groups.push(payload.to_vec());
            reader.step_over(&header);
        }
        assert_eq!(sequence, found.next_sequence);
    }
    groups
}

//! The files of the journal that read, compiled into the fuzz targets themselves: they are no part
//! of what the crate offers.
#![allow(dead_code, reason = "a target needs some of it")]

#[path = "../audit-sink-s3/src/journal/begin.rs"]
mod begin;
#[path = "../audit-sink-s3/src/journal/disk.rs"]
pub mod disk;
#[path = "../audit-sink-s3/src/journal/format.rs"]
pub mod format;
#[path = "../audit-sink-s3/src/journal/recovery.rs"]
pub mod recovery;
#[path = "../audit-sink-s3/src/journal/recovery_error.rs"]
mod recovery_error;
#[path = "../audit-sink-s3/src/journal/segment.rs"]
pub mod segment;
#[path = "../audit-sink-s3/src/journal/simulated_disk.rs"]
pub mod simulated_disk;

use std::collections::BTreeMap;

/// Recovers a journal of one file, and reads every group that recovery found.
pub fn read_segment(file: Vec<u8>) -> Vec<Vec<u8>> {
    let disk = simulated_disk::SimulatedDisk::with_files(0, &BTreeMap::from([(segment::file_name(1), file)]));
    let mut groups = Vec::new();
    let Ok(recovered) = recovery::recover(&disk) else { return groups };
    for found in recovered.segments {
        let mut sequence = found.first_sequence;
        let mut reader = segment::SegmentReader::new(found.segment, format::FIRST_GROUP, segment::Window::default());
        while reader.position().offset < found.end {
            let Ok(format::Found::Group(header)) = reader.look() else { panic!("recovery saw a group here") };
            assert_eq!(header.first_sequence, sequence);
            sequence += u64::from(header.count);
            let (places, payload) = reader.batches(&header).expect("its checksums match");
            assert_eq!(
                places.iter().map(|place| place.lines.len() + format::BATCH_HEADER_BYTES).sum::<usize>(),
                payload.len()
            );
            groups.push(payload.to_vec());
            reader.step_over(&header);
        }
        assert_eq!(sequence, found.next_sequence);
    }
    groups
}

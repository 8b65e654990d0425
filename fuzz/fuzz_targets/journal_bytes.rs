//! Any bytes as a segment, and any bytes behind the header of one: they are read without a panic,
//! and no record comes from what is no group.
#![no_main]

#[path = "../journal.rs"]
mod journal;

use journal::format::{BLOCK_BYTES, GROUP_MARK, SegmentHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let has_mark = bytes.windows(GROUP_MARK.len()).any(|window| window == GROUP_MARK.as_bytes());
    let groups = journal::read_segment(bytes.to_vec());
    assert!(groups.is_empty() || has_mark);

    let len = BLOCK_BYTES as usize + bytes.len().next_multiple_of(BLOCK_BYTES as usize);
    let mut file = SegmentHeader { ordinal: 1, salt: 7, bytes: len as u64 }.encode();
    file.resize(BLOCK_BYTES as usize, 0);
    file.extend_from_slice(bytes);
    file.resize(len, 0);
    let groups = journal::read_segment(file);
    assert!(groups.is_empty() || has_mark);
});

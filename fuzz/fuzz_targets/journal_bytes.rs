//! Arbitrary bytes, as a whole segment and after the header of one, are read without a panic. They
//! yield no group unless they contain the mark of one.
#![no_main]

use audit_journal::simulation::fuzz::{BLOCK_BYTES, GROUP_MARK, read_segment, segment_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let has_mark = bytes.windows(GROUP_MARK.len()).any(|window| window == GROUP_MARK.as_bytes());
    let groups = read_segment(bytes.to_vec());
    assert!(groups.is_empty() || has_mark);

    let len = BLOCK_BYTES + bytes.len().next_multiple_of(BLOCK_BYTES);
    let mut file = segment_header(7, len as u64);
    file.resize(BLOCK_BYTES, 0);
    file.extend_from_slice(bytes);
    file.resize(len, 0);
    let groups = read_segment(file);
    assert!(groups.is_empty() || has_mark);
});

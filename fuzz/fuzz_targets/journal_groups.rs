//! Groups with correct checksums and arbitrary numbers, as a forger could write them, are read
//! without a panic and within their segment.
#![no_main]

use audit_journal::simulation::fuzz::{BLOCK_BYTES, read_segment, seal, segment_header};
use libfuzzer_sys::fuzz_target;

/// First sequence, count, batches, bytes of payload, durable ordinal and offset, payload, and
/// whether the numbers are made consistent.
type Group = (u64, u32, u32, u32, u32, u64, Vec<u8>, bool);

fuzz_target!(|input: (u32, Vec<Group>)| {
    let (salt, groups) = input;
    let block = BLOCK_BYTES;
    let mut file = vec![0; block];
    let (mut sequence, mut end) = (0, (0, 0));
    for (first, count, batches, bytes, ordinal, offset, lines, fits) in groups {
        let mut header =
            format!("batch 00000000 time 0000000000000000 count {count:08x} bytes {:08x} ", lines.len());
        let sum = crc32c::crc32c_append(crc32c::crc32c(header.as_bytes()), &lines);
        header.push_str(&format!("sum {sum:08x}\n"));
        let batch_sum = crc32c::crc32c_append(salt, header.as_bytes());
        let payload = [header.as_bytes(), &lines].concat();
        let (first, batches, bytes, durable) = match fits {
            true => (sequence, 1, payload.len() as u32, end),
            false => (first, batches, bytes, (ordinal, offset)),
        };
        let mut group = format!(
            "group 0000000000000000000000002D first {first:016x} count {count:08x} batches {batches:08x} \
             bytes {bytes:08x} durable {:08x}+{:016x} sum {batch_sum:08x} ",
            durable.0, durable.1
        )
        .into_bytes();
        seal(&mut group, salt);
        file.extend_from_slice(&group);
        file.extend_from_slice(&payload);
        file.resize(file.len().next_multiple_of(block), 0);
        sequence = first.wrapping_add(u64::from(count));
        end = (1, file.len() as u64);
    }
    let header = segment_header(salt, file.len() as u64);
    file[..header.len()].copy_from_slice(&header);
    read_segment(file);
});

//! The frontier of a stream's tree as bytes: the hashes one behind the other. How many records it
//! is of is known where it is kept.

use audit_evidence::{CompactRange, Hash};
use bytes::Bytes;

/// The bytes.
pub(crate) fn write(range: &CompactRange) -> Bytes {
    range.hashes().flat_map(|hash| *hash.as_bytes()).collect::<Vec<u8>>().into()
}

/// The frontier of so many records. `None` if the bytes are not one's.
pub(crate) fn read(records: u64, bytes: &[u8]) -> Option<CompactRange> {
    let (hashes, rest) = bytes.as_chunks::<{ Hash::BYTES }>();
    let hashes: Vec<Hash> = hashes.iter().map(|hash| Hash::from_bytes(*hash)).collect();
    CompactRange::from_hashes(records, &hashes).ok().filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frontier_is_read_as_written_or_refused_for_its_length() {
        let mut range = CompactRange::default();
        for records in 0..70u64 {
            let bytes = write(&range);
            assert_eq!(read(records, &bytes), Some(range.clone()));
            // A tree has a hash for each bit of its size.
            let has_as_many = (records + 1).count_ones() == records.count_ones();
            assert_eq!(read(records + 1, &bytes).is_some(), has_as_many);
            assert!(bytes.is_empty() || read(records, &bytes[1..]).is_none());
            range.push(Hash::leaf(&[&records.to_be_bytes()]));
        }
    }
}

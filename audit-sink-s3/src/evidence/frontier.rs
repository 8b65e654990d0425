//! The frontier of a stream's tree as bytes: its concatenated hashes. The number of records is
//! stored separately.

use audit_evidence::{CompactRange, Hash};
use bytes::Bytes;

pub(crate) fn write(range: &CompactRange) -> Bytes {
    range.hashes().flat_map(|hash| *hash.as_bytes()).collect::<Vec<u8>>().into()
}

/// The frontier of this many records. `None` if the bytes have the wrong length.
pub(crate) fn read(records: u64, bytes: &[u8]) -> Option<CompactRange> {
    let (hashes, rest) = bytes.as_chunks::<{ Hash::BYTES }>();
    let hashes: Vec<Hash> = hashes.iter().map(|hash| Hash::from_bytes(*hash)).collect();
    CompactRange::from_hashes(records, &hashes).ok().filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontiers_round_trip_or_have_the_wrong_length() {
        let mut range = CompactRange::default();
        for records in 0..70u64 {
            let bytes = write(&range);
            assert_eq!(read(records, &bytes), Some(range.clone()));
            // A frontier has one hash for each bit that is set in the tree's size.
            let has_as_many = (records + 1).count_ones() == records.count_ones();
            assert_eq!(read(records + 1, &bytes).is_some(), has_as_many);
            assert!(bytes.is_empty() || read(records, &bytes[1..]).is_none());
            range.push(Hash::leaf(&[&records.to_be_bytes()]));
        }
    }
}

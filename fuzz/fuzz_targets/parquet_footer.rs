//! Arbitrary bytes, as a whole Parquet file and as the footer of one, are refused or accepted
//! without a panic, and in a time that is bounded by their length.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The two files need nothing else of `audit-cli`, whose dependencies would take minutes to build
// here.
#[path = "../../audit-cli/src/parquet/footer.rs"]
mod footer;
#[path = "../../audit-cli/src/parquet/thrift.rs"]
mod thrift;

fuzz_target!(|bytes: &[u8]| {
    let _ = footer::check(bytes);
    let mut file = b"PAR1".to_vec();
    file.extend_from_slice(bytes);
    file.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    file.extend_from_slice(b"PAR1");
    let _ = footer::check(&file);
});

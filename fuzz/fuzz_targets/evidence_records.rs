//! The metadata of objects, system records, and the state of a verifier: what parses is the same
//! after it was written and parsed again.
#![no_main]

use audit_evidence::{ObjectHead, Sidecar, State, SystemRecord};
use libfuzzer_sys::fuzz_target;

const STREAM: &str = "01M86YQH3BN92MTRKE2RS1CKJ5";

fn head(sidecar: &[u8]) -> Option<ObjectHead> {
    let sidecar = Sidecar::parse(sidecar)?;
    ObjectHead::from_metadata(STREAM, |name| sidecar.get(name)).ok()
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(parsed) = head(bytes) {
        assert_eq!(head(Sidecar::text(&parsed).as_bytes()).as_ref(), Some(&parsed));
        assert_eq!(parsed.note().to_string().lines().nth(1), Some(&*parsed.end().to_string()));
    }
    if let Ok(record) = SystemRecord::parse(bytes) {
        assert_eq!(SystemRecord::parse(record.to_line().as_bytes()).as_ref(), Ok(&record));
    }
    if let Some(Ok(state)) = std::str::from_utf8(bytes).ok().map(State::parse) {
        assert_eq!(State::parse(&state.to_string()).as_ref(), Ok(&state));
    }
});

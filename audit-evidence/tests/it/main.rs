//! The crate against vectors of a second implementation, against another crate, and against
//! tampering.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ct_merkle_agrees;
mod heads_reject_every_change;
mod keys_and_notes_have_one_form;
mod policies_count_quorums;
mod submissions_reach_the_witness;
mod trees_match_the_vectors;
mod vectors;
mod verify;
mod witnesses_sign_one_history;
mod writers_satisfy_the_verifier;

//! What the audit crates cost, beside null implementations, physical baselines and other ways of
//! doing the same.
//!
//! - `cargo run --release -p audit-benches --bin report` compares everything side by side in about
//!   two minutes and says whether the targets hold: see [`report`].
//! - `cargo bench -p audit-benches --bench templates` (or `journal`, `delivery`, `release`)
//!   measures one stage with criterion, for work on it;
//!   `-- --warm-up-time 0.5 --measurement-time 1` is enough to see a ratio.
//!
//! The other ways are in [`rivals`], with their method. They and what they need are compiled for
//! nothing but this package, which neither `cargo build` nor `cargo test --workspace` touches.

pub mod bodies;
pub mod contest;
pub mod report;
pub mod rivals;
pub mod stages;
pub mod store;

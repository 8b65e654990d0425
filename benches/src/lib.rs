//! The cost of the audit crates, compared with null implementations, physical baselines and
//! alternatives.
//!
//! - `cargo run --release -p audit-benches --bin report` compares everything in about ten minutes
//!   and reports whether the targets hold: see [`report`].
//! - `cargo bench -p audit-benches --bench templates` (or `journal`, `delivery`, `release`)
//!   measures one stage with criterion, for work on it;
//!   `-- --warm-up-time 0.5 --measurement-time 1` is enough to see a ratio.
//!
//! The alternatives are described in [`rivals`]. They and their dependencies are compiled only for
//! this package, which neither `cargo build` nor `cargo test --workspace` builds.

pub mod bodies;
pub mod contest;
pub mod report;
pub mod rivals;
pub mod stages;
pub mod store;

//! Readers of the remaining files, which share no code with the writers.

pub mod delivery;
pub mod followers;
pub mod journal;

//! What is left is read by code that shares none with what wrote it.

pub mod delivery;
pub mod followers;
pub mod journal;

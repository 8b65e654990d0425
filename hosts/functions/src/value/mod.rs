//! Names and values that every layer speaks of.

mod component_path;

pub use component_path::ComponentPath;

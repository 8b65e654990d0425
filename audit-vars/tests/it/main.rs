//! One binary, so that it is linked once; the modules are named for the property they hold.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input_says_what_and_where;
mod body_macro_writes_json;
mod duplicate_members;
mod members_are_unique;
mod no_rendering_exceeds_its_bound;
mod plain_data_is_written_as_serde_json_does;
mod rendering_equals_tree_walk;
mod text_compiles_or_is_refused_with_a_path;
mod trees;
mod user_input_never_becomes_a_variable;

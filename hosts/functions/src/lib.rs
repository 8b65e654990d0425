//! A host for JavaScript and TypeScript functions whose reads and writes are audited.

pub mod chance;
pub mod demo;
pub mod engine;
pub mod functions;
pub mod program;
pub mod serve;
pub mod server;
pub mod settings;
pub mod store;
pub mod value;

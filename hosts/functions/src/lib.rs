//! A host for JavaScript and TypeScript functions whose reads and writes are audited.

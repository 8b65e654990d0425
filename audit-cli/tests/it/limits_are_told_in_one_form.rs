//! Messages of exceeded limits say "exceeds limit of N", in all crates, so that people and alerts
//! recognize them. Those that Convex's users know keep Convex's words.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Other phrases for an exceeded limit, which messages must not use.
const OTHERS: [&str; 10] = [
    "exceeds the limit of",
    "exceed the limit of",
    "exceeds a limit of",
    "exceed {",
    "exceeds {",
    "exceed what",
    "exceeds what",
    ", more than {",
    "may be at most {",
    "can have at most {",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        let is_apart = ["target", "tests", "benches", "fuzz", "simulation"].contains(&&*name);
        if path.is_dir() && !is_apart && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The lines of a source, before its tests, that use one of these phrases.
fn otherwise(source: &str) -> Vec<&str> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.filter(|line| OTHERS.iter().any(|other| line.contains(other))).collect()
}

#[test]
fn limits_are_told_in_one_form() {
    let mut found = Vec::new();
    sources(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(), &mut found);
    let mut wrong = Vec::new();
    let mut told = 0;
    for path in &found {
        let source = fs::read_to_string(path).unwrap();
        told += source.matches("limit of ").count();
        let lines = otherwise(&source).into_iter().map(str::trim);
        wrong.extend(lines.map(|line| format!("{}: {line}", path.display())));
    }
    assert!(found.len() > 300 && told > 30, "{} files, {told} limits", found.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(otherwise("format!(\"{a} functions, more than {b}\")").len(), 1);
}

//! Determines the commit of a release build, for `VERSION`.
//!
//! It comes from `AUDIT_COMMIT`, in a package from cargo's `.cargo_vcs_info.json`, in an archive
//! made by git from the file `COMMIT`, and in a checkout from git. Debug builds have none, so that
//! a commit does not rebuild all programs.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=AUDIT_COMMIT");
    println!("cargo:rerun-if-changed=COMMIT");
    let variable = |name: &str| std::env::var(name).ok();
    let version = variable("CARGO_PKG_VERSION").unwrap_or_default();
    let is_release = variable("PROFILE").is_some_and(|profile| profile == "release");
    let commit = is_release.then(commit).flatten();
    let commit: String = commit.unwrap_or_default().chars().take(12).collect();
    let is_commit = commit.len() >= 7 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    let shown = if is_commit { format!("{version} ({commit})") } else { version };
    println!("cargo:rustc-env=AUDIT_VERSION={shown}");
}

fn commit() -> Option<String> {
    if let Ok(commit) = std::env::var("AUDIT_COMMIT") {
        return Some(commit);
    }
    if let Ok(info) = std::fs::read_to_string(".cargo_vcs_info.json") {
        let (_, rest) = info.split_once("\"sha1\": \"")?;
        return Some(rest.split('"').next()?.to_owned());
    }
    let archived = std::fs::read_to_string("COMMIT").unwrap_or_default();
    if !archived.starts_with('$') && !archived.trim().is_empty() {
        return Some(archived.trim().to_owned());
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // Changes with each commit and each checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "HEAD"])
}

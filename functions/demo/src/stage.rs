//! The directories and settings of scenes, and helpers for proofs.

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::bucket::{Log, Logs};
use super::process::Host;

pub(super) type Played<T> = Result<T, Box<dyn Error>>;

/// The lines of proof, or the reason why the promise does not hold.
pub(super) type Proof = Result<Vec<String>, String>;

/// The interval at which a condition is checked.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The directories and settings of the scenes.
pub(super) struct Stage {
    pub(super) directory: PathBuf,
    functions: PathBuf,
    /// Environment variables that hosts are started without.
    unset: Vec<OsString>,
}

impl Stage {
    pub(super) fn new(directory: PathBuf, functions: PathBuf, unset: &[OsString]) -> Stage {
        Stage { directory, functions, unset: unset.to_vec() }
    }

    pub(super) async fn host(&self, data: &str, options: &[&str]) -> Played<Host> {
        Host::start(&self.functions, &self.directory.join(data), options, &self.unset).await
    }

    pub(super) fn logs(&self, data: &str) -> Played<Logs> {
        Logs::read(&self.directory.join(data).join("bucket"))
    }
}

/// Fails with a message unless the condition holds.
pub(super) fn expect(is_so: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(otherwise()) }
}

pub(super) fn count(found: &[&Log], expected: usize, what: &str) -> Result<(), String> {
    expect(found.len() == expected, || format!("{} {what}, not {expected}", found.len()))
}

pub(super) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

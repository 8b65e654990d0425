//! The files that a verification relies on: keys, policies, states.

use std::io;
use std::path::Path;

use audit_evidence::{Policy, State, TrustedKey};

use crate::arguments::TrustedKeys;
use crate::failure::Failure;

/// The trusted keys, including those of the policy, and the policy. A policy states no validity, so
/// the validity that `--key` gives to a key also applies to the policy's.
pub(crate) fn trusted(
    arguments: &TrustedKeys,
) -> Result<(Vec<TrustedKey>, Option<Policy>), Failure> {
    let policy = arguments.policy.as_deref().map(read_policy).transpose()?;
    let mut keys = arguments.keys.clone();
    for log in policy.iter().flat_map(Policy::logs) {
        if keys.iter().all(|trusted| trusted.key != *log) {
            keys.push(log.clone().into());
        }
    }
    Ok((keys, policy))
}

fn read_policy(file: &Path) -> Result<Policy, Failure> {
    let text = audit_host::read_text(file);
    let text = text.map_err(|error| unreadable(file, "the policy", error))?;
    Policy::parse(text.as_bytes()).map_err(|error| {
        Failure::new(format!("the policy {} cannot be used", file.display())).because(error)
    })
}

/// The state, empty if there is no file yet.
pub(crate) fn read_state(file: &Path) -> Result<State, Failure> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(unreadable(file, "the state", error)),
        Ok(text) => text,
    };
    State::parse(&text).map_err(|error| {
        Failure::new(format!("the state {} is not one", file.display())).because(error)
    })
}

pub(super) fn read_text(file: &Path, what: &str) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| unreadable(file, what, error))
}

fn unreadable(file: &Path, what: &str, error: io::Error) -> Failure {
    Failure::new(format!("{what} {} cannot be read", file.display())).because(error)
}

//! The files that a verification relies on: keys, policies, states.

use std::io;
use std::path::Path;

use audit_core::{InputLines, durable, read_text};
use audit_evidence::{Policy, State, TrustedKey};

use crate::arguments::TrustedKeys;
use crate::failure::Failure;
use crate::output::Output;

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
    let text = read_text(file).map_err(|error| unreadable(file, "the policy", error))?;
    Policy::parse(text.as_bytes()).map_err(|error| {
        Failure::new(format!("the policy {} cannot be used", file.display())).because(error)
    })
}

/// The state of the last run, empty without a file.
pub(super) fn remembered(file: Option<&Path>, output: &Output) -> Result<State, Failure> {
    let Some(file) = file else { return Ok(State::default()) };
    Ok(read_state(file)?.unwrap_or_else(|| {
        // With a mistyped name, every run would compare with nothing.
        let what = "nothing is compared with an earlier run";
        output.note(&format!("there is no state {} yet: {what}", file.display()));
        State::default()
    }))
}

/// The longest state, in bytes: that of nine million streams.
const MAX_STATE_BYTES: usize = 1 << 30;

/// The state. `None` if there is no file yet.
pub(crate) fn read_state(file: &Path) -> Result<Option<State>, Failure> {
    let mut text = String::new();
    let read = InputLines::open(file).and_then(|mut lines| {
        while let Some(line) = lines.next_text()? {
            text.push_str(line);
            text.push('\n');
            if text.len() > MAX_STATE_BYTES {
                let what = format!("it exceeds limit of {MAX_STATE_BYTES} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
            }
        }
        Ok(())
    });
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(file, "the state", error)),
        Ok(()) => {}
    }
    State::parse(&text).map(Some).map_err(|error| {
        Failure::new(format!("the state {} is not one", file.display())).because(error)
    })
}

pub(crate) fn write_state(file: &Path, state: &State) -> Result<(), Failure> {
    durable::replace(file, state.to_string().as_bytes()).map_err(|error| {
        Failure::new(format!("the state {} cannot be written", file.display())).because(error)
    })
}

pub(super) fn unreadable(file: &Path, what: &str, error: io::Error) -> Failure {
    Failure::new(format!("{what} {} cannot be read", file.display())).because(error)
}

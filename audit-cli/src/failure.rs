//! How a command ends.

use std::error::Error;
use std::fmt;
use std::io;

/// A command that could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing is wrong.
    Well,
    /// Something is wrong, and was said.
    Wrong,
    /// Something can be neither proven nor refuted.
    Unproven,
    /// A sign of life is overdue.
    Late,
    /// Something has expired.
    Expired,
}

impl Outcome {
    pub(crate) fn wrong_if(wrong: bool) -> Outcome {
        if wrong { Outcome::Wrong } else { Outcome::Well }
    }

    /// The exit code. 2 and 3 are those of commands that could not be carried out.
    pub(crate) fn code(self) -> u8 {
        match self {
            Outcome::Well => 0,
            Outcome::Wrong => 1,
            Outcome::Unproven => 4,
            Outcome::Late => 5,
            Outcome::Expired => 6,
        }
    }
}

/// A command that could not be carried out.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    closed_pipe: bool,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), source: None, closed_pipe: false }
    }

    fn of(error: &dyn Error) -> Failure {
        let failure = Failure::new(error.to_string());
        match error.source() {
            Some(source) => failure.because(source.to_string()),
            None => failure,
        }
    }

    pub(crate) fn because(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure { source: Some(source.into()), ..self }
    }

    /// The output could not be written.
    pub(crate) fn of_output(error: io::Error) -> Failure {
        let closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Failure { closed_pipe, ..Failure::new("the output cannot be written").because(error) }
    }

    /// Whoever read the output has gone: nothing is wrong, and nothing more to do.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<audit_sink_s3::OpenError> for Failure {
    fn from(error: audit_sink_s3::OpenError) -> Failure {
        Failure::of(&error)
    }
}

impl From<audit_journal::JournalError> for Failure {
    fn from(error: audit_journal::JournalError) -> Failure {
        Failure::of(&error)
    }
}

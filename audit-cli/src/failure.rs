//! The outcome of a command, and its failure.

use std::error::Error;
use std::io;

use audit_sink_s3::OpenError;

use crate::escape;

/// The outcome of a command that ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No problem was found.
    Well,
    /// A problem was found and reported.
    Wrong,
    /// Something could be neither proven nor refuted.
    Unproven,
    /// A heartbeat is overdue.
    Late,
    Expired,
}

impl Outcome {
    pub(crate) fn wrong_if(wrong: bool) -> Outcome {
        if wrong { Outcome::Wrong } else { Outcome::Well }
    }

    /// The exit code. Commands that failed have 2 and 3.
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

/// The failure of a command, with its cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    closed_pipe: bool,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), source: None, closed_pipe: false }
    }

    pub(crate) fn because(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure { source: Some(source.into()), ..self }
    }

    pub(crate) fn of(error: &dyn Error) -> Failure {
        let source = error.source().map(|source| source.to_string().into());
        Failure { source, ..Failure::new(error.to_string()) }
    }

    pub(crate) fn of_output(error: io::Error) -> Failure {
        let closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Failure { closed_pipe, ..Failure::new("the output cannot be written").because(error) }
    }

    /// The failure and its cause, as the page shows them.
    pub(crate) fn shown(&self) -> serde_json::Value {
        let mut shown = serde_json::json!({ "error": escape::text(&self.message) });
        if let Some(source) = &self.source {
            shown["because"] = escape::text(&source.to_string()).into_owned().into();
        }
        shown
    }

    /// Whether the reader of the output is gone, which is not an error.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        Failure::of(&error)
    }
}

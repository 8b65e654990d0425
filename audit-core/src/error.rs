//! The error of a sink.

use std::borrow::Cow;
use std::error::Error;

/// A sink's operation failed.
///
/// The code that creates the error decides whether the batch may have been persisted
/// ([`outcome`](Self::outcome)) and what the caller should do ([`kind`](Self::kind)). The cause is
/// the [`source`](Error::source), and is not repeated in the message.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SinkError(Box<Inner>);

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Inner {
    kind: SinkErrorKind,
    outcome: Outcome,
    message: Cow<'static, str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What to do about a [`SinkError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SinkErrorKind {
    /// The destination is unreachable or overloaded. Fail the function; a later one may succeed.
    Unavailable,
    /// Every attempt fails until an operator acts: on credentials, a missing bucket, a full disk, a
    /// conflicting object.
    Blocked,
    /// The sink was closed, or stopped for good because it cannot trust its storage. Open a new
    /// one.
    Closed,
}

/// Whether a batch whose `persist` failed may still reach the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The batch will certainly not reach the destination.
    NotPersisted,
    /// The batch may have been persisted, or may still be. Retrying the same logs may then store
    /// them twice.
    Indeterminate,
}

impl SinkError {
    /// The batch will certainly not reach the destination. `message` is in lower case, with numbers
    /// and units, and without a full stop.
    pub fn not_persisted(kind: SinkErrorKind, message: impl Into<Cow<'static, str>>) -> SinkError {
        SinkError(Box::new(Inner {
            kind,
            outcome: Outcome::NotPersisted,
            message: message.into(),
            source: None,
        }))
    }

    /// The batch may reach the destination. `message` as in [`not_persisted`](Self::not_persisted).
    pub fn indeterminate(kind: SinkErrorKind, message: impl Into<Cow<'static, str>>) -> SinkError {
        let SinkError(mut inner) = SinkError::not_persisted(kind, message);
        inner.outcome = Outcome::Indeterminate;
        SinkError(inner)
    }

    /// The error of every `persist` after `close`.
    pub fn closed() -> SinkError {
        SinkError::not_persisted(SinkErrorKind::Closed, "the audit sink is closed")
    }

    /// Adds the cause, which must not contain credentials.
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> SinkError {
        self.0.source = Some(source.into());
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> SinkErrorKind {
        self.0.kind
    }

    /// Whether the batch may have been persisted.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_chained_and_not_repeated() {
        let error =
            SinkError::indeterminate(SinkErrorKind::Unavailable, "no answer after 3 attempts")
                .with_source(std::io::Error::other("connection reset"));
        assert_eq!(error.to_string(), "no answer after 3 attempts");
        assert_eq!(error.source().unwrap().to_string(), "connection reset");
        assert_eq!(error.outcome(), Outcome::Indeterminate);
        assert_eq!(SinkError::closed().outcome(), Outcome::NotPersisted);
    }

    #[test]
    fn sink_errors_are_one_pointer_and_send() {
        fn assert_send_sync<T: Send + Sync + 'static>() {}
        assert_send_sync::<SinkError>();
        assert_eq!(size_of::<SinkError>(), size_of::<usize>());
    }
}

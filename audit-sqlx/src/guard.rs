//! Keeps a connection from committing before the logs of its transaction are durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Error;

/// Refuses commits until the logs are durable. The hooks of the connection, which share this guard,
/// enforce it; without hooks it has no effect.
#[doc(hidden)]
#[derive(Debug, Clone, Default)]
pub struct Guard(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether commits are refused, since the logs are not durable yet.
    is_closed: AtomicBool,
    is_rolled_back: AtomicBool,
}

/// The error of a commit whose transaction the database has rolled back.
const ROLLED_BACK: &str = "the database rolled the transaction back, after an error that the \
                           function caught: nothing is committed";

/// Whether a commit failed because the database had rolled the transaction back.
pub(crate) fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Protocol(message) if message == ROLLED_BACK)
}

impl Guard {
    #[cfg(feature = "sqlite")]
    pub(crate) fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed.load(Ordering::Acquire)
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn rolled_back(&self) {
        self.0.is_rolled_back.store(true, Ordering::Release);
    }

    /// Allows the commit, since the logs are durable. Fails if the database has rolled the
    /// transaction back.
    pub(crate) fn let_commit(&self) -> Result<(), Error> {
        if self.0.is_rolled_back.load(Ordering::Acquire) {
            return Err(Error::Protocol(ROLLED_BACK.to_owned()));
        }
        self.release();
        Ok(())
    }

    /// Ends the transaction: later statements of the connection may commit.
    pub(crate) fn release(&self) {
        self.0.is_closed.store(false, Ordering::Release);
    }
}

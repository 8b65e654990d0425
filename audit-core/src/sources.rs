//! Errors with their sources, as text.

use std::error::Error;
use std::iter::successors;

/// The sources of an error, from the outermost to the innermost. The error itself is not included.
pub fn sources(error: &dyn Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    successors(error.source(), |source| (*source).source())
}

/// An error and its sources on one line, for logs, and for errors that several callers share.
pub fn with_sources(error: &dyn Error) -> String {
    sources(error).fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SinkError, SinkErrorKind};

    #[test]
    fn sources_follow_the_error_in_order() {
        let inner = SinkError::not_persisted(SinkErrorKind::Unavailable, "inner")
            .with_source(std::io::Error::other("innermost"));
        let error = SinkError::not_persisted(SinkErrorKind::Closed, "outer").with_source(inner);
        assert_eq!(with_sources(&error), "outer: inner: innermost");
        assert_eq!(
            sources(&error).map(ToString::to_string).collect::<Vec<_>>(),
            ["inner", "innermost"]
        );
    }
}

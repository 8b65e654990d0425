//! Errors with their sources, as text.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::iter::successors;

/// The sources of an error, from the outermost to the innermost. The error itself is not included.
pub fn sources(error: &dyn Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    successors(error.source(), |source| (*source).source())
}

/// An error and its sources on one line, for logs, and for errors that several callers share.
pub fn with_sources(error: &dyn Error) -> String {
    sources(error).fold(error.to_string(), |text, source| followed_by(&text, source))
}

/// A text, a colon, and what follows. The text of a library or of a store may end with a full stop.
pub fn followed_by(text: &str, next: impl Display) -> String {
    format!("{}: {next}", text.strip_suffix('.').unwrap_or(text))
}

/// Advice on an error if it, or one of its sources, says that no more files can be opened, or that
/// a file would be too large. `None` for other errors.
///
/// The operating system's errors are EMFILE (the process has too many open files), ENFILE (all
/// processes together have too many) and EFBIG (the file is too large).
pub fn descriptors_advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const EFBIG: i32 = 27;
    with_wrapped(error).find_map(|error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            Some(EMFILE) => Some("raise the limit of open files: ulimit -n, LimitNOFILE"),
            Some(ENFILE) => Some("raise the system's limit of open files: fs.file-max"),
            Some(EFBIG) => Some("raise the limit of the size of files: ulimit -f, LimitFSIZE"),
            Some(_) | None => None,
        }
    })
}

/// An error and its sources, including the errors that I/O errors among them wrap. `source` of an
/// I/O error skips the error that it wraps, and returns that error's source.
pub(crate) fn with_wrapped<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    fn next<'e>(error: &&'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
        let error: &'e (dyn Error + 'static) = *error;
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as _).or_else(|| error.source())
    }
    successors(Some(error), next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SinkError, SinkErrorKind};

    /// The error texts of S3 and of Convex end with a full stop.
    #[test]
    fn a_text_that_ends_with_a_full_stop_is_followed_like_any_other() {
        let error = SinkError::not_persisted(SinkErrorKind::Closed, "It is not there.")
            .with_source(std::io::Error::other("Denied."));
        let text = with_sources(&error);
        assert_eq!(text, "It is not there: Denied.");
        assert_eq!(followed_by(&text, "allow it"), "It is not there: Denied: allow it");
    }

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
    #[test]
    fn a_lack_of_files_is_found_in_any_source() {
        let of = |code| io::Error::from_raw_os_error(code);
        let sink = |source| {
            let kind = SinkErrorKind::Unavailable;
            SinkError::not_persisted(kind, "x").with_source(io::Error::other(source))
        };
        let advice = |error: &(dyn Error + 'static)| descriptors_advice(error).unwrap_or_default();
        assert!(advice(&of(24)).contains("ulimit -n"));
        assert!(advice(&sink(of(24))).contains("ulimit -n"));
        assert!(advice(&io::Error::other(sink(of(23)))).contains("fs.file-max"));
        assert_eq!(advice(&sink(of(2))), "");
    }
}

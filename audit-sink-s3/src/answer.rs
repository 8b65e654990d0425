//! What an answer of the bucket means for a request that creates an object.
//!
//! `object_store` folds answers into a few kinds of error and keeps the rest as text, so some of it
//! is read back out of the text here; a test against a real server pins that. What is not
//! recognized counts as [`Answer::Unknown`]: the same bytes are sent again, which is harmless
//! whatever the answer meant.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

/// Why a request did not succeed, and what its sender does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) answer: Answer,
    /// What the bucket said, in one line, without any credential.
    pub(crate) detail: String,
    /// Whether there was no answer in the time it was given.
    pub(crate) timed_out: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Something stands under the key. It may be our own object, from a request that seemed to
    /// fail.
    Exists,
    /// Nothing stands under the key and nothing was written: another request for it was under way.
    Contention,
    /// The request may have been carried out or not, or yet be.
    Unknown,
    /// No repetition helps until somebody acts.
    Blocked(Blocker),
}

/// What stands in the way, and so what an operator has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocker {
    Permission,
    Credentials,
    NoBucket,
    Region,
    HostClock,
    EncryptionKey,
    Unsupported,
    Disk,
    Request,
}

impl Blocker {
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Blocker::Permission => {
                "allow the credentials to put and to get objects under the prefix"
            }
            Blocker::Credentials => "renew or correct the credentials",
            Blocker::NoBucket => "create the bucket, or correct its name",
            Blocker::Region => "set the bucket's region and endpoint",
            Blocker::HostClock => "set this host's clock",
            Blocker::EncryptionKey => {
                "enable the encryption key, and allow the credentials to use it"
            }
            Blocker::Unsupported => "use a store that can create objects conditionally",
            Blocker::Disk => "make room, or allow this process to write to the directory",
            Blocker::Request => "read the bucket's answer",
        }
    }
}

impl Refusal {
    /// The request was given up without an answer.
    pub(crate) fn timeout(limit: Duration) -> Refusal {
        let detail = format!("no answer within {} ms", limit.as_millis());
        Refusal { answer: Answer::Unknown, detail, timed_out: true }
    }

    /// Nothing stands under a key that was said to exist a moment ago.
    pub(crate) fn gone() -> Refusal {
        let detail = "the key was refused as existing, and nothing stands there".to_owned();
        Refusal { answer: Answer::Contention, detail, timed_out: false }
    }

    /// Reads what `object_store` made of the answer.
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is another crate's and may grow: unknown is safe"
    )]
    pub(crate) fn of(error: &object_store::Error) -> Refusal {
        use object_store::Error;
        let text = error.to_string();
        let status = Status::within(&text);
        let code = status.as_ref().and_then(|status| status.code);
        let answer = match error {
            // 409 of S3 is contention; Azure's, whose code is another, says that the blob exists.
            Error::AlreadyExists { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. } => match code {
                Some("ConditionalRequestConflict" | "OperationAborted") => Answer::Contention,
                _ => Answer::Exists,
            },
            Error::NotFound { .. } => Answer::Blocked(Blocker::NoBucket),
            Error::PermissionDenied { .. } => {
                Answer::Blocked(of_code(code).unwrap_or(Blocker::Permission))
            }
            Error::Unauthenticated { .. } => {
                Answer::Blocked(of_code(code).unwrap_or(Blocker::Credentials))
            }
            Error::NotSupported { .. } | Error::NotImplemented { .. } => {
                Answer::Blocked(Blocker::Unsupported)
            }
            Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => {
                Answer::Blocked(Blocker::Request)
            }
            Error::Generic { .. } => match (&status, io_error(error)) {
                (Some(status), _) => of_status(status, &text),
                (None, Some(kind)) => of_io(kind, error),
                (None, None) => of_text(&text),
            },
            _ => Answer::Unknown,
        };
        let detail = match status {
            Some(status) => status.to_string(),
            None => innermost(error),
        };
        Refusal { answer, detail, timed_out: false }
    }
}

/// What a store said, in one line, without any credential, and what to do if it waits for somebody.
/// For errors of the stores of a [`Bucket`](crate::Bucket), whose own text may quote the whole
/// answer and signed URLs.
pub fn describe(error: &object_store::Error) -> String {
    Refusal::of(error).to_string()
}

/// As an operator reads it: what the bucket said, and what to do if it waits for somebody.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match self.answer {
            Answer::Exists | Answer::Contention | Answer::Unknown => Ok(()),
            Answer::Blocked(blocker) => write!(f, " ({})", blocker.advice()),
        }
    }
}

fn of_status(status: &Status<'_>, text: &str) -> Answer {
    if let Some(blocker) = of_code(status.code) {
        return Answer::Blocked(blocker);
    }
    match (status.number, status.code) {
        // Refusals that a repetition may well overcome: a slow or a damaged upload, an overloaded
        // or failing store.
        (
            400,
            Some("RequestTimeout" | "BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch"),
        ) => Answer::Unknown,
        (408 | 425 | 429, _) => Answer::Unknown,
        (501, _) => Answer::Blocked(Blocker::Unsupported),
        (500.., _) => Answer::Unknown,
        (300..400, _) => Answer::Blocked(Blocker::Region),
        // The service that hands out credentials refused.
        (400.., _) if is_of_credentials(text) => Answer::Blocked(Blocker::Credentials),
        (400.., _) => Answer::Blocked(Blocker::Request),
        _ => Answer::Unknown,
    }
}

/// S3's [error codes](https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html) that
/// name what is wrong, whatever the status they come with.
fn of_code(code: Option<&str>) -> Option<Blocker> {
    let blocker = match code? {
        "ExpiredToken"
        | "NotSignedUp"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "RequestExpired"
        | "AuthenticationFailed" => Blocker::Credentials,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => Blocker::Permission,
        "NoSuchBucket" | "InvalidBucketName" | "ContainerNotFound" => Blocker::NoBucket,
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "IllegalLocationConstraintException" => Blocker::Region,
        "RequestTimeTooSkewed" => Blocker::HostClock,
        "NotImplemented" => Blocker::Unsupported,
        code if code.starts_with("KMS") => Blocker::EncryptionKey,
        _ => return None,
    };
    Some(blocker)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an unknown error of the disk is tried again")]
fn of_io(kind: io::ErrorKind, error: &object_store::Error) -> Answer {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let local = matches!(error, object_store::Error::Generic { store: "LocalFileSystem", .. });
    match kind {
        PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull if local => {
            Answer::Blocked(Blocker::Disk)
        }
        _ => Answer::Unknown,
    }
}

/// Errors without any answer: of the connection, or of the service that hands out credentials.
fn of_text(text: &str) -> Answer {
    if text.contains("redirect without LOCATION") {
        Answer::Blocked(Blocker::Region)
    } else if is_of_credentials(text) {
        Answer::Blocked(Blocker::Credentials)
    } else {
        Answer::Unknown
    }
}

/// Whether the request that failed went to a service that hands out credentials: an instance's
/// metadata (two addresses at AWS, one of them that of Azure and GCP too), or a token endpoint.
fn is_of_credentials(text: &str) -> bool {
    [
        "169.254.169.254",
        "169.254.170.2",
        "metadata.google.internal",
        "token request",
        "CreateSession",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}

fn io_error(error: &object_store::Error) -> Option<io::ErrorKind> {
    causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind).last()
}

type Cause<'a> = &'a (dyn std::error::Error + 'static);

fn causes(error: &object_store::Error) -> impl Iterator<Item = Cause<'_>> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// The innermost cause says most (`connection refused`); what lies around it repeats it, with the
/// whole URL.
fn innermost(error: &object_store::Error) -> String {
    let outer = scrub(&error.to_string());
    match causes(error).last().map(|cause| scrub(&cause.to_string())) {
        Some(inner) if !outer.contains(&inner) => format!("{outer}: {inner}"),
        _ => outer,
    }
}

/// One line, not too long, without the query of any URL: queries carry signatures and tokens.
pub(crate) fn scrub(text: &str) -> String {
    const MAX_BYTES: usize = 400;
    let words = text.split_whitespace().map(|word| match word.find("://").and(word.find('?')) {
        Some(query) => &word[..query],
        None => word,
    });
    let mut line = words.collect::<Vec<_>>().join(" ");
    if line.len() > MAX_BYTES {
        line.truncate(line.floor_char_boundary(MAX_BYTES));
        line.push('…');
    }
    line
}

/// An HTTP answer, as far as it may be shown. The rest of an S3 error's XML repeats the request,
/// headers that carry session tokens included.
#[derive(Debug, PartialEq, Eq)]
struct Status<'a> {
    number: u16,
    code: Option<&'a str>,
    message: Option<&'a str>,
}

impl<'a> Status<'a> {
    fn within(text: &'a str) -> Option<Status<'a>> {
        let (_, rest) = text.split_once("status code: ")?;
        let number = rest.get(..3)?.parse().ok()?;
        Some(Status { number, code: element(rest, "Code"), message: element(rest, "Message") })
    }
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once("</")?;
    Some(content.trim()).filter(|content| !content.is_empty())
}

impl fmt::Display for Status<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { number, code, message } = self;
        write!(f, "status {number}")?;
        if let Some(code) = code {
            write!(f, " {}", scrub(code))?;
        }
        if let Some(message) = message {
            write!(f, ": {}", scrub(message))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::Error;

    fn text(status: &str, code: &str) -> String {
        format!(
            "Error performing PUT http://127.0.0.1:9000/b/k?x-id=1 in 1.5ms - Server returned non-2xx status code: \
             {status}: <?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Said so</Message>\
             <CanonicalRequest>x-amz-security-token:SECRET</CanonicalRequest></Error>"
        )
    }

    fn generic(status: &str, code: &str) -> Refusal {
        Refusal::of(&Error::Generic { store: "S3", source: text(status, code).into() })
    }

    fn blocked(blocker: Blocker) -> Answer {
        Answer::Blocked(blocker)
    }

    #[test]
    fn the_answer_table() {
        for (status, code, answer) in [
            ("500 Internal Server Error", "InternalError", Answer::Unknown),
            ("503 Service Unavailable", "SlowDown", Answer::Unknown),
            ("429 Too Many Requests", "TooManyRequests", Answer::Unknown),
            ("400 Bad Request", "RequestTimeout", Answer::Unknown),
            ("400 Bad Request", "BadDigest", Answer::Unknown),
            ("400 Bad Request", "ExpiredToken", blocked(Blocker::Credentials)),
            ("400 Bad Request", "AuthorizationHeaderMalformed", blocked(Blocker::Region)),
            ("400 Bad Request", "KMS.DisabledException", blocked(Blocker::EncryptionKey)),
            ("400 Bad Request", "InvalidArgument", blocked(Blocker::Request)),
            ("301 Moved Permanently", "PermanentRedirect", blocked(Blocker::Region)),
            ("307 Temporary Redirect", "", blocked(Blocker::Region)),
            ("501 Not Implemented", "", blocked(Blocker::Unsupported)),
        ] {
            assert_eq!(generic(status, code).answer, answer, "{status} {code}");
        }
        let denied = |code| {
            let source = text("403 Forbidden", code).into();
            Refusal::of(&Error::PermissionDenied { path: "k".into(), source }).answer
        };
        assert_eq!(denied("AccessDenied"), blocked(Blocker::Permission));
        assert_eq!(denied("ExpiredToken"), blocked(Blocker::Credentials));
        assert_eq!(denied("RequestTimeTooSkewed"), blocked(Blocker::HostClock));
        let exists = |status, code| {
            Refusal::of(&Error::AlreadyExists {
                path: "k".into(),
                source: text(status, code).into(),
            })
            .answer
        };
        assert_eq!(exists("412 Precondition Failed", "PreconditionFailed"), Answer::Exists);
        assert_eq!(exists("409 Conflict", "ConditionalRequestConflict"), Answer::Contention);
        assert_eq!(exists("409 Conflict", "BlobAlreadyExists"), Answer::Exists);
        let missing = Error::NotFound {
            path: "k".into(),
            source: text("404 Not Found", "NoSuchBucket").into(),
        };
        assert_eq!(Refusal::of(&missing).answer, blocked(Blocker::NoBucket));
    }

    #[test]
    fn what_has_no_status_is_read_by_its_cause() {
        let of = |store, source: Box<dyn std::error::Error + Send + Sync>| {
            Refusal::of(&Error::Generic { store, source }).answer
        };
        let io = |kind: io::ErrorKind| Box::new(io::Error::from(kind));
        assert_eq!(of("S3", io(io::ErrorKind::ConnectionReset)), Answer::Unknown);
        assert_eq!(of("S3", io(io::ErrorKind::PermissionDenied)), Answer::Unknown);
        assert_eq!(of("LocalFileSystem", io(io::ErrorKind::StorageFull)), blocked(Blocker::Disk));
        assert_eq!(of("LocalFileSystem", io(io::ErrorKind::Interrupted)), Answer::Unknown);
        assert_eq!(
            of("S3", "Error performing PUT http://169.254.169.254/latest".into()),
            blocked(Blocker::Credentials)
        );
        assert_eq!(of("S3", "something nobody foresaw".into()), Answer::Unknown);
    }

    #[test]
    fn an_operator_reads_what_was_said_and_what_to_do_and_no_secret() {
        let refusal = generic("400 Bad Request", "ExpiredToken");
        assert_eq!(
            refusal.to_string(),
            "status 400 ExpiredToken: Said so (renew or correct the credentials)"
        );
        let leaky = "GET https://sts.example/?token=SECRET failed\nfor https://a.example/b?sig=SECRET, twice";
        assert_eq!(scrub(leaky), "GET https://sts.example/ failed for https://a.example/b twice");
        let error = Error::Generic { store: "S3", source: leaky.into() };
        assert!(!Refusal::of(&error).to_string().contains("SECRET"));
        assert!(scrub(&"ü".repeat(1_000)).len() < 410);
    }
}

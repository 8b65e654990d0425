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

use serde_json::Value;

use super::credentials::{CredentialFailure, Issuer};
use super::provider::Provider;
use crate::one_line::scrub;
use crate::panic::Panicked;

/// Why a request did not succeed, and what its sender does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) answer: Answer,
    /// Who refused or failed, and what it said: in one line, without any credential.
    pub(crate) detail: String,
    /// What an operator has to do. Empty if nobody has to.
    pub(crate) advice: String,
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

/// Why no repetition helps, and so what an operator has to do: see
/// [`Provider::advice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocker {
    Permission,
    /// They are refused.
    Credentials,
    /// There are none.
    NoCredentials,
    /// A file that credentials are obtained with cannot be used.
    CredentialFile,
    NoBucket,
    Region,
    HostClock,
    EncryptionKey,
    Unsupported,
    /// The disk of a directory.
    Disk,
    Request,
    /// The URL is of http, and only https is allowed.
    PlainHttp,
    Tls(Certificate),
    /// Whoever answers at an https URL does not speak TLS.
    NotTls,
    /// Code panicked. What became of the request is unknown.
    Panic,
}

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certificate {
    UnknownIssuer,
    /// Or not valid yet.
    Expired,
    WrongName,
    Other,
}

impl Blocker {
    #[cfg(test)]
    pub(crate) const ALL: [Blocker; 18] = [
        Blocker::Permission,
        Blocker::Credentials,
        Blocker::NoCredentials,
        Blocker::CredentialFile,
        Blocker::NoBucket,
        Blocker::Region,
        Blocker::HostClock,
        Blocker::EncryptionKey,
        Blocker::Unsupported,
        Blocker::Disk,
        Blocker::Request,
        Blocker::PlainHttp,
        Blocker::Tls(Certificate::UnknownIssuer),
        Blocker::Tls(Certificate::Expired),
        Blocker::Tls(Certificate::WrongName),
        Blocker::Tls(Certificate::Other),
        Blocker::NotTls,
        Blocker::Panic,
    ];

    /// Whether it is the settings of this process that are wrong.
    pub(crate) fn is_configuration(self) -> bool {
        match self {
            Blocker::NoCredentials | Blocker::CredentialFile | Blocker::PlainHttp => true,
            Blocker::Permission
            | Blocker::Credentials
            | Blocker::NoBucket
            | Blocker::Region
            | Blocker::HostClock
            | Blocker::EncryptionKey
            | Blocker::Unsupported
            | Blocker::Disk
            | Blocker::Request
            | Blocker::Tls(_)
            | Blocker::NotTls
            | Blocker::Panic => false,
        }
    }
}

impl Refusal {
    fn new(answer: Answer, detail: String, provider: Provider, issuer: Option<&Issuer>) -> Refusal {
        let advice = match answer {
            Answer::Exists | Answer::Contention | Answer::Unknown => String::new(),
            Answer::Blocked(blocker) => provider.advice(blocker, issuer),
        };
        Refusal { answer, detail, advice, timed_out: false }
    }

    /// The request was given up without an answer.
    pub(crate) fn timeout(limit: Duration) -> Refusal {
        let detail = format!("no answer within {} ms", limit.as_millis());
        Refusal { answer: Answer::Unknown, detail, advice: String::new(), timed_out: true }
    }

    /// Nothing stands under a key that was said to exist a moment ago.
    pub(crate) fn gone() -> Refusal {
        let detail = "the key was refused as existing, and nothing stands there".to_owned();
        Refusal { answer: Answer::Contention, detail, advice: String::new(), timed_out: false }
    }

    /// The request, or what makes it, panicked.
    pub(crate) fn panicked(Panicked(what): &Panicked, provider: Provider) -> Refusal {
        let detail = format!("a request to the {} panicked: {what}", provider.noun());
        Refusal::new(Answer::Blocked(Blocker::Panic), detail, provider, None)
    }

    pub(crate) fn is_panic(&self) -> bool {
        self.answer == Answer::Blocked(Blocker::Panic)
    }

    /// As one hears it who reads, and so needs other permissions.
    pub(crate) fn for_reader(self, provider: Provider) -> Refusal {
        if self.answer != Answer::Blocked(Blocker::Permission) {
            return self;
        }
        Refusal { advice: provider.advice_to_reader().to_owned(), ..self }
    }

    /// Reads what `object_store` made of the answer.
    pub(crate) fn of(error: &object_store::Error, provider: Provider) -> Refusal {
        let failure = causes(error).find_map(|cause| cause.downcast_ref::<CredentialFailure>());
        if let Some(failure) = failure {
            return of_credentials(failure, provider);
        }
        let (answer, status) = read(error);
        let detail = match status {
            Some(status) if is_of_credentials(&error.to_string()) => {
                format!("credentials: {status}")
            }
            Some(status) => format!("{}: {status}", provider.noun()),
            None => without_status(error, provider.noun()),
        };
        Refusal::new(answer, detail, provider, None)
    }
}

/// What a failure to obtain credentials means. Nothing was sent to the bucket.
fn of_credentials(failure: &CredentialFailure, provider: Provider) -> Refusal {
    let CredentialFailure { issuer, has_issued, file, cause } = failure;
    let name = issuer.name;
    let blocked =
        |blocker, detail| Refusal::new(Answer::Blocked(blocker), detail, provider, Some(issuer));
    if let Some(file) = file {
        return blocked(Blocker::CredentialFile, format!("credentials: {file}"));
    }
    let Some(cause) = cause else {
        let detail = format!("{name}: the client panicked while it asked for credentials");
        return blocked(Blocker::Credentials, detail);
    };
    let (answer, status) = read(cause);
    let detail = match &status {
        Some(status) => format!("{name}: {status}"),
        None => without_status(cause, name),
    };
    // No setting names credentials, and the instance has none either, or this is no instance.
    let is_absent = issuer.is_default && !has_issued;
    let none = || format!("no credentials are set, and there are none from the {detail}");
    match answer {
        Answer::Unknown if is_absent && status.is_none() => blocked(Blocker::NoCredentials, none()),
        Answer::Blocked(
            Blocker::NoBucket | Blocker::Request | Blocker::Credentials | Blocker::Permission,
        ) if is_absent => blocked(Blocker::NoCredentials, none()),
        Answer::Exists | Answer::Contention | Answer::Unknown => {
            Refusal::new(Answer::Unknown, detail, provider, Some(issuer))
        }
        Answer::Blocked(
            blocker @ (Blocker::PlainHttp
            | Blocker::Tls(_)
            | Blocker::NotTls
            | Blocker::HostClock
            | Blocker::CredentialFile),
        ) => blocked(blocker, detail),
        Answer::Blocked(
            Blocker::Permission
            | Blocker::Credentials
            | Blocker::NoCredentials
            | Blocker::NoBucket
            | Blocker::Region
            | Blocker::EncryptionKey
            | Blocker::Unsupported
            | Blocker::Disk
            | Blocker::Panic
            | Blocker::Request,
        ) => blocked(Blocker::Credentials, detail),
    }
}

/// What an error means by itself, whoever made it.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is another crate's and may grow: unknown is safe"
)]
fn read(error: &object_store::Error) -> (Answer, Option<Status>) {
    use object_store::Error;
    let text = error.to_string();
    let status = Status::within(&text);
    let code = status.as_ref().and_then(|status| status.code.as_deref());
    let answer = match error {
        // 409 of S3 is contention; Azure's, whose code is another, says that the blob exists.
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
            match code {
                Some("ConditionalRequestConflict" | "OperationAborted") => Answer::Contention,
                _ => Answer::Exists,
            }
        }
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
            (None, io_error) => match of_text(&with_cause(error)) {
                Answer::Unknown => io_error.map_or(Answer::Unknown, |kind| of_io(kind, error)),
                answer => answer,
            },
        },
        _ => Answer::Unknown,
    };
    (answer, status)
}

/// What a store said to one who reads, where its [`Bucket`](crate::Bucket) is not at hand: see
/// [`Bucket::describe`](crate::Bucket::describe).
pub fn describe(error: &object_store::Error) -> String {
    Refusal::of(error, Provider::Other).for_reader(Provider::Other).to_string()
}

/// The number of the HTTP status that a store refused a request with.
pub fn status(error: &object_store::Error) -> Option<u16> {
    let failure = causes(error).any(|cause| cause.is::<CredentialFailure>());
    Status::within(&error.to_string()).filter(|_| !failure).map(|status| status.number)
}

/// As an operator reads it: who refused, what it said, and what to do if it waits for somebody.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, " ({})", self.advice) }
    }
}

fn of_status(status: &Status, text: &str) -> Answer {
    if let Some(blocker) = of_code(status.code.as_deref()) {
        return Answer::Blocked(blocker);
    }
    match (status.number, status.code.as_deref()) {
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

/// Error codes that name what is wrong, whatever the status they come with: of
/// [S3](https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html),
/// [GCS](https://cloud.google.com/storage/docs/xml-api/reference-status) and
/// [Azure](https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes).
fn of_code(code: Option<&str>) -> Option<Blocker> {
    let blocker = match code? {
        "ExpiredToken"
        | "NotSignedUp"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "RequestExpired"
        | "AuthenticationFailed"
        | "InvalidAuthenticationInfo"
        | "NoAuthenticationInformation"
        | "InvalidSecurity"
        | "AuthenticationRequired"
        | "UNAUTHENTICATED" => Blocker::Credentials,
        "AccessDenied"
        | "AllAccessDisabled"
        | "AccountProblem"
        | "AuthorizationFailure"
        | "AuthorizationPermissionMismatch"
        | "InsufficientAccountPermissions"
        | "PERMISSION_DENIED" => Blocker::Permission,
        "NoSuchBucket" | "InvalidBucketName" | "ContainerNotFound" | "ContainerDisabled" => {
            Blocker::NoBucket
        }
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
/// `text` is the innermost cause too.
fn of_text(text: &str) -> Answer {
    let has = |sign: &str| text.contains(sign);
    let blocker = if has("redirect without LOCATION") {
        Blocker::Region
    } else if has("URL scheme is not allowed") {
        Blocker::PlainHttp
    } else if has("invalid peer certificate") {
        Blocker::Tls(if has("UnknownIssuer") || has("UnknownCA") || has("CaUsedAsEndEntity") {
            Certificate::UnknownIssuer
        } else if has("Expired") || has("expired") || has("NotValidYet") || has("not valid yet") {
            Certificate::Expired
        } else if has("NotValidForName") || has("not valid for name") {
            Certificate::WrongName
        } else {
            Certificate::Other
        })
    } else if has("received corrupt message") {
        Blocker::NotTls
    } else if is_of_credentials(text) {
        Blocker::Credentials
    } else {
        return Answer::Unknown;
    };
    Answer::Blocked(blocker)
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

/// The text of an error and of its innermost cause.
fn with_cause(error: &object_store::Error) -> String {
    let outer = error.to_string();
    match causes(error).last().map(ToString::to_string) {
        Some(inner) if !outer.contains(&inner) => format!("{outer}: {inner}"),
        _ => outer,
    }
}

/// Who failed, and why, where there was no answer. The innermost cause says most (`connection
/// refused`); what lies around it repeats it, with the whole URL.
fn without_status(error: &object_store::Error, noun: &str) -> String {
    let text = with_cause(error);
    let host = host(&text);
    let cause = causes(error).last().map(|cause| scrub(&cause.to_string())).unwrap_or_default();
    let at = host.map(|host| format!(" of {host}")).unwrap_or_default();
    let answer = of_text(&text);
    if answer == Answer::Blocked(Blocker::PlainHttp) {
        format!("{noun}: its URL is of http, and only https is allowed")
    } else if matches!(answer, Answer::Blocked(Blocker::Tls(_))) {
        format!("TLS: the certificate{at} is refused: {cause}")
    } else if answer == Answer::Blocked(Blocker::NotTls) {
        format!("TLS: the server{at} does not speak it: {cause}")
    } else if text.contains("dns error") || text.contains("failed to lookup address") {
        format!("DNS: the name{at} cannot be resolved: {cause}")
    } else if let Some(host) = host.filter(|_| io_error(error).is_some()) {
        format!("{noun}: no connection to {host}: {cause}")
    } else {
        format!("{noun}: {}", scrub(&text))
    }
}

/// Host and port of the URL in a text.
fn host(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    rest.split(|c: char| c == '/' || c == '?' || c.is_whitespace()).next()
}

/// An HTTP answer, as far as it may be shown. The rest of an S3 error's XML repeats the request,
/// headers that carry session tokens included.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    number: u16,
    code: Option<String>,
    message: Option<String>,
}

impl Status {
    fn within(text: &str) -> Option<Status> {
        let (_, rest) = text.split_once("status code: ")?;
        let number = rest.get(..3)?.parse().ok()?;
        let body = rest.find(['<', '{']).map_or("", |begin| &rest[begin..]);
        let (code, message) = if body.starts_with('{') {
            of_json(body).unwrap_or_default()
        } else {
            (element(body, "Code"), element(body, "Message"))
        };
        Some(Status { number, code, message })
    }
}

fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once("</")?;
    Some(content.trim().to_owned()).filter(|content| !content.is_empty())
}

/// Code and message of an error as JSON: of Google's APIs (`{"error":{"status":…,"message":…}}`),
/// of OAuth (`{"error":…,"error_description":…}`), of AWS (`{"Code":…,"Message":…}`).
fn of_json(body: &str) -> Option<(Option<String>, Option<String>)> {
    let value = serde_json::Deserializer::from_str(body).into_iter::<Value>().next()?.ok()?;
    let text = |value: &Value, names: &[&str]| {
        let found = names.iter().find_map(|name| value.get(name)?.as_str());
        found.map(|found| found.trim().to_owned()).filter(|found| !found.is_empty())
    };
    Some(match value.get("error") {
        Some(error @ Value::Object(_)) => {
            let reason = error.get("errors").and_then(|errors| text(errors.get(0)?, &["reason"]));
            (text(error, &["status"]).or(reason), text(error, &["message"]))
        }
        _ => (
            text(&value, &["error", "Code", "code", "__type"]),
            text(&value, &["error_description", "Message", "message"]),
        ),
    })
}

impl fmt::Display for Status {
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
        Refusal::of(
            &Error::Generic { store: "S3", source: text(status, code).into() },
            Provider::S3,
        )
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
            Refusal::of(&Error::PermissionDenied { path: "k".into(), source }, Provider::S3).answer
        };
        assert_eq!(denied("AccessDenied"), blocked(Blocker::Permission));
        assert_eq!(denied("ExpiredToken"), blocked(Blocker::Credentials));
        assert_eq!(denied("RequestTimeTooSkewed"), blocked(Blocker::HostClock));
        let exists = |status, code| {
            let source = text(status, code).into();
            Refusal::of(&Error::AlreadyExists { path: "k".into(), source }, Provider::S3).answer
        };
        assert_eq!(exists("412 Precondition Failed", "PreconditionFailed"), Answer::Exists);
        assert_eq!(exists("409 Conflict", "ConditionalRequestConflict"), Answer::Contention);
        assert_eq!(exists("409 Conflict", "BlobAlreadyExists"), Answer::Exists);
        let missing = Error::NotFound {
            path: "k".into(),
            source: text("404 Not Found", "NoSuchBucket").into(),
        };
        assert_eq!(Refusal::of(&missing, Provider::S3).answer, blocked(Blocker::NoBucket));
    }

    #[test]
    fn what_has_no_status_is_read_by_its_cause() {
        let of = |store, source: Box<dyn std::error::Error + Send + Sync>| {
            Refusal::of(&Error::Generic { store, source }, Provider::S3).answer
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
            "bucket: status 400 ExpiredToken: Said so (renew or correct the credentials: \
             AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role they come \
             from)"
        );
        let leaky = "GET https://sts.example/?token=SECRET failed\nfor https://a.example/b?sig=SECRET, twice";
        assert_eq!(scrub(leaky), "GET https://sts.example/ failed for https://a.example/b twice");
        let error = Error::Generic { store: "S3", source: leaky.into() };
        assert!(!Refusal::of(&error, Provider::S3).to_string().contains("SECRET"));
        assert!(scrub(&"ü".repeat(1_000)).len() < 410);
    }

    /// A request of which only the status and the body are of interest.
    fn answered(provider: Provider, status: &str, body: &str) -> String {
        let store = "store";
        let source = format!(
            "Error performing PUT https://host:9/b/k?sig=SECRET in 1ms - Server returned non-2xx \
             status code: {status}: {body}"
        );
        let (path, source) = ("k".to_owned(), source.into());
        let error = match &status[..3] {
            "401" => Error::Unauthenticated { path, source },
            "403" => Error::PermissionDenied { path, source },
            "404" => Error::NotFound { path, source },
            _ => Error::Generic { store, source },
        };
        Refusal::of(&error, provider).to_string()
    }

    #[test]
    fn each_provider_has_its_own_sentence_for_each_answer() {
        use Provider::{Azure, Gcs, S3};
        let xml = |code: &str| format!("<Error><Code>{code}</Code><Message>No</Message></Error>");
        let google = r#"{"error":{"code":403,"message":"No","status":"PERMISSION_DENIED"}}"#;
        let old_google = r#"{"error":{"errors":[{"reason":"forbidden"}],"message":"No"}}"#;
        for (provider, status, body, says, advises) in [
            (
                S3,
                "403 Forbidden",
                xml("AccessDenied"),
                "bucket: status 403 AccessDenied: No",
                "s3:PutObject",
            ),
            (
                Gcs,
                "403 Forbidden",
                xml("AccessDenied"),
                "bucket: status 403 AccessDenied: No",
                "objectCreator",
            ),
            (
                Gcs,
                "403 Forbidden",
                google.into(),
                "bucket: status 403 PERMISSION_DENIED: No",
                "objectCreator",
            ),
            (
                Gcs,
                "403 Forbidden",
                old_google.into(),
                "bucket: status 403 forbidden: No",
                "objectCreator",
            ),
            (
                Azure,
                "403 Forbidden",
                xml("AuthorizationPermissionMismatch"),
                "container: status 403 Auth",
                "Storage Blob Data Contributor",
            ),
            (
                Azure,
                "403 Forbidden",
                xml("AuthenticationFailed"),
                "container: status 403 Auth",
                "AZURE_STORAGE_ACCOUNT_KEY",
            ),
            (
                Gcs,
                "401 Unauthorized",
                xml("InvalidSecurity"),
                "bucket: status 401",
                "GOOGLE_SERVICE_ACCOUNT",
            ),
            (
                S3,
                "404 Not Found",
                xml("NoSuchBucket"),
                "bucket: status 404 NoSuchBucket",
                "create the bucket",
            ),
            (
                Azure,
                "404 Not Found",
                xml("ContainerNotFound"),
                "container: status 404",
                "AZURE_STORAGE_ACCOUNT_NAME",
            ),
            (S3, "301 Moved", xml("PermanentRedirect"), "bucket: status 301", "AWS_REGION"),
            (Gcs, "400 Bad Request", xml("KMSKeyDisabled"), "bucket: status 400", "cloudkms"),
            (
                S3,
                "400 Bad Request",
                xml("KMS.DisabledException"),
                "bucket: status 400",
                "kms:Decrypt",
            ),
        ] {
            let said = answered(provider, status, &body);
            assert!(said.starts_with(says) && said.contains(advises), "{said}");
            assert!(!said.contains("SECRET"), "{said}");
        }
        assert_eq!(
            answered(Gcs, "503 Service Unavailable", r#"{"error":{"message":"Later"}}"#),
            "bucket: status 503: Later",
            "nobody has to act"
        );
    }

    #[test]
    fn advice_names_nothing_of_another_provider() {
        let own: [(Provider, &[&str]); 3] = [
            (Provider::S3, &["AWS_", "s3:", "KMS"]),
            (Provider::Gcs, &["GOOGLE_", "roles/"]),
            (Provider::Azure, &["AZURE_", "SAS", "Blob"]),
        ];
        for provider in Provider::ALL {
            for blocker in Blocker::ALL {
                let advice = provider.advice(blocker, None);
                assert!(!advice.is_empty());
                for text in [advice.as_str(), provider.advice_to_reader()] {
                    let others = own.iter().filter(|(owner, _)| *owner != provider);
                    for word in others.flat_map(|(_, words)| words.iter()) {
                        assert!(!text.contains(word), "{provider:?} {blocker:?}: {text}");
                    }
                }
            }
        }
    }

    fn of_issuer(is_default: bool, has_issued: bool, source: &str) -> Refusal {
        let issuer = Issuer {
            name: "STS",
            variables: "AWS_ROLE_ARN",
            endpoint: "AWS_ENDPOINT_URL_STS",
            files: Vec::new(),
            is_default,
        };
        let cause = Some(Error::Generic { store: "S3", source: source.into() });
        let failure = CredentialFailure { issuer: issuer.into(), has_issued, file: None, cause };
        let error = Error::Generic { store: "S3", source: Box::new(failure) };
        Refusal::of(&error, Provider::S3)
    }

    #[test]
    fn a_refusal_of_who_issues_credentials_is_not_the_buckets() {
        let denied = "POST REDACTED: status code: 403 Forbidden: <Error><Code>AccessDenied</Code>\
                      <Message>Not you</Message></Error>";
        let refusal = of_issuer(false, true, denied);
        assert_eq!(refusal.answer, blocked(Blocker::Credentials));
        assert_eq!(
            refusal.to_string(),
            "STS: status 403 AccessDenied: Not you (correct what it is asked with: AWS_ROLE_ARN)"
        );
        let failing = of_issuer(false, false, "status code: 503 Service Unavailable: ");
        assert_eq!((failing.answer, &*failing.detail), (Answer::Unknown, "STS: status 503"));
        let scheme = of_issuer(false, false, "URL scheme is not allowed");
        assert_eq!(scheme.answer, blocked(Blocker::PlainHttp));
        assert!(scheme.to_string().contains("set AWS_ENDPOINT_URL_STS to an https URL"));
        let absent = of_issuer(true, false, "connection refused");
        assert_eq!(absent.answer, blocked(Blocker::NoCredentials));
        assert!(absent.to_string().contains("AWS_SECRET_ACCESS_KEY"), "{absent}");
        let away = of_issuer(true, true, "connection refused");
        assert_eq!(away.answer, Answer::Unknown, "it has issued credentials before");
    }
}

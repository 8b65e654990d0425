//! Interprets the errors of `object_store`.

use std::io;

use audit_core::{DiskFault, sources};

use super::status::Status;
use super::{Refusal, Response};
use crate::bucket::blocker::{Blocker, Certificate};
use crate::bucket::credentials::CredentialFailure;
use crate::bucket::provider::Provider;
use crate::one_line::scrub;

impl Refusal {
    /// Interprets an error of `object_store`.
    pub(crate) fn of(error: &object_store::Error, provider: Provider) -> Refusal {
        let failure = sources(error).find_map(|cause| cause.downcast_ref::<CredentialFailure>());
        if let Some(failure) = failure {
            return of_credentials(failure, provider);
        }
        let (response, status) = read(error);
        let detail = match status {
            Some(status) if is_of_credentials(&error.to_string()) => {
                format!("credentials: {status}")
            }
            Some(status) => format!("{}: {status}", provider.noun()),
            None => without_status(error, provider.noun()),
        };
        Refusal::new(response, detail, provider, None)
    }
}

/// Interprets a failure to obtain credentials. No request was sent to the bucket.
fn of_credentials(failure: &CredentialFailure, provider: Provider) -> Refusal {
    let CredentialFailure { issuer, has_issued, file, cause } = failure;
    let name = &*issuer.name;
    let blocked =
        |blocker, detail| Refusal::new(Response::Blocked(blocker), detail, provider, Some(issuer));
    if let Some(file) = file {
        return blocked(Blocker::CredentialFile, format!("credentials: {file}"));
    }
    let Some(cause) = cause else {
        let detail = format!("{name}: the client panicked while requesting credentials");
        return blocked(Blocker::Credentials, detail);
    };
    let (response, status) = read(cause);
    let detail = match &status {
        Some(status) => format!("{name}: {status}"),
        None => without_status(cause, name),
    };
    // No setting provides credentials, and the instance has none either, or this host is not an
    // instance.
    let is_absent = issuer.is_default && !has_issued;
    let none = || format!("no credentials are set, and none came from the {detail}");
    match response {
        Response::Unknown if is_absent && status.is_none() => {
            blocked(Blocker::NoCredentials, none())
        }
        Response::Blocked(
            Blocker::NoBucket | Blocker::Request | Blocker::Credentials | Blocker::Permission,
        ) if is_absent => blocked(Blocker::NoCredentials, none()),
        Response::Exists | Response::Contention | Response::Unknown => {
            Refusal::new(Response::Unknown, detail, provider, Some(issuer))
        }
        Response::Blocked(
            blocker @ (Blocker::PlainHttp
            | Blocker::Tls(_)
            | Blocker::NotTls
            | Blocker::HostClock
            | Blocker::CredentialFile),
        ) => blocked(blocker, detail),
        Response::Blocked(Blocker::Credentials) => blocked(Blocker::Credentials, detail),
        Response::Blocked(
            Blocker::Permission
            | Blocker::NoCredentials
            | Blocker::Role
            | Blocker::NoBucket
            | Blocker::Region
            | Blocker::EncryptionKey
            | Blocker::Unsupported
            | Blocker::Disk(_)
            | Blocker::Panic
            | Blocker::Request,
        ) if issuer.role.is_some() => blocked(Blocker::Role, detail),
        Response::Blocked(_) => blocked(Blocker::Credentials, detail),
    }
}

/// Interprets an error, whatever its origin.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is another crate's and may grow; unknown is safe"
)]
fn read(error: &object_store::Error) -> (Response, Option<Status>) {
    use object_store::Error;
    let text = error.to_string();
    let status = Status::within(&text);
    let code = status.as_ref().and_then(|status| status.code.as_deref());
    let response = match error {
        // S3's 409 means contention. Azure's 409, which has another code, means that the blob
        // exists.
        Error::AlreadyExists { .. } | Error::Precondition { .. } => match code {
            Some("ConditionalRequestConflict" | "OperationAborted") => Response::Contention,
            _ => Response::Exists,
        },
        // No store responds to a PUT with 304. A host's own client may have followed a redirect
        // (303) to a page, with a GET that has the PUT's condition: then the page exists, but
        // nothing is known of the object.
        Error::NotModified { .. } => Response::Unknown,
        Error::NotFound { .. } => Response::Blocked(Blocker::NoBucket),
        // A lack of permission to use the key is reported like a lack of permission to write.
        Error::PermissionDenied { .. } if text.contains("to perform: kms:") => {
            Response::Blocked(Blocker::EncryptionKey)
        }
        Error::PermissionDenied { .. } => {
            Response::Blocked(of_code(code).unwrap_or(Blocker::Permission))
        }
        Error::Unauthenticated { .. } => {
            Response::Blocked(of_code(code).unwrap_or(Blocker::Credentials))
        }
        Error::NotSupported { .. } | Error::NotImplemented { .. } => {
            Response::Blocked(Blocker::Unsupported)
        }
        Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => {
            Response::Blocked(Blocker::Request)
        }
        Error::Generic { .. } => match &status {
            Some(status) => of_status(status, &text),
            None => match of_text(&with_cause(error)) {
                Response::Unknown => of_disk(error),
                response => response,
            },
        },
        _ => Response::Unknown,
    };
    (response, status)
}

fn of_status(status: &Status, text: &str) -> Response {
    if let Some(blocker) = of_code(status.code.as_deref()) {
        return Response::Blocked(blocker);
    }
    match (status.number, status.code.as_deref()) {
        // Refusals that a retry may overcome: a slow or damaged upload, an overloaded or failing
        // store.
        (
            400,
            Some("RequestTimeout" | "BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch"),
        ) => Response::Unknown,
        // Too many requests to STS.
        (400, Some("Throttling" | "ThrottlingException" | "RequestLimitExceeded"))
        | (408 | 425 | 429, _) => Response::Unknown,
        (501, _) => Response::Blocked(Blocker::Unsupported),
        (500.., _) => Response::Unknown,
        (300..400, _) => Response::Blocked(Blocker::Region),
        // The service that issues credentials refused.
        (400.., _) if is_of_credentials(text) => Response::Blocked(Blocker::Credentials),
        (400.., _) => Response::Blocked(Blocker::Request),
        _ => Response::Unknown,
    }
}

/// Error codes that name the cause, whatever the status that they come with: of
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
        | "InvalidClientTokenId"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
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

/// Interprets an error of a directory. Unknown ones are retried.
fn of_disk(error: &object_store::Error) -> Response {
    let fault = DiskFault::of(error).filter(|_| is_of_directory(error));
    fault.map_or(Response::Unknown, |fault| Response::Blocked(Blocker::Disk(fault)))
}

fn is_of_directory(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { store: "LocalFileSystem", .. })
}

/// Interprets an error without a response, from the connection or from the service that issues
/// credentials. `text` includes the innermost cause.
fn of_text(text: &str) -> Response {
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
        return Response::Unknown;
    };
    Response::Blocked(blocker)
}

/// Whether the failed request went to a service that issues credentials: an instance's metadata
/// service (AWS has two addresses, one of which Azure and GCP share) or a token endpoint.
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
    sources(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind).last()
}

/// The text of an error and of its innermost cause.
fn with_cause(error: &object_store::Error) -> String {
    let outer = error.to_string();
    match sources(error).last().map(ToString::to_string) {
        Some(inner) if !outer.contains(&inner) => format!("{outer}: {inner}"),
        _ => outer,
    }
}

/// Describes an error without a response. The innermost cause is the most informative (`connection
/// refused`); the outer errors repeat it with the whole URL.
fn without_status(error: &object_store::Error, noun: &str) -> String {
    let cause = sources(error).last().map_or_else(|| error.to_string(), ToString::to_string);
    let cause = scrub(&cause);
    if is_of_directory(error) {
        return format!("{noun}: {cause}");
    }
    let text = with_cause(error);
    let host = host(&text);
    let at = host.map(|host| format!(" of {host}")).unwrap_or_default();
    let response = of_text(&text);
    if response == Response::Blocked(Blocker::PlainHttp) {
        format!("{noun}: its URL is an http URL, but only https is allowed")
    } else if matches!(response, Response::Blocked(Blocker::Tls(_))) {
        format!("TLS: the certificate{at} was rejected: {cause}")
    } else if response == Response::Blocked(Blocker::NotTls) {
        format!("TLS: the server{at} does not speak TLS: {cause}")
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

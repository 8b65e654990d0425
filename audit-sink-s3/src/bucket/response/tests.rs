use std::io;

use super::*;
use crate::bucket::blocker::Certificate;
use crate::one_line::scrub;
use object_store::Error;

fn text(status: &str, code: &str) -> String {
    format!(
        "Error performing PUT http://127.0.0.1:9000/b/k?x-id=1 in 1.5ms - Server returned non-2xx status code: \
         {status}: <?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Said so</Message>\
         <CanonicalRequest>x-amz-security-token:SECRET</CanonicalRequest></Error>"
    )
}

fn generic(status: &str, code: &str) -> Refusal {
    Refusal::of(&Error::Generic { store: "S3", source: text(status, code).into() }, Provider::S3)
}

fn blocked(blocker: Blocker) -> Response {
    Response::Blocked(blocker)
}

#[test]
fn responses_match_the_documented_table() {
    for (status, code, response) in [
        ("500 Internal Server Error", "InternalError", Response::Unknown),
        ("503 Service Unavailable", "SlowDown", Response::Unknown),
        ("429 Too Many Requests", "TooManyRequests", Response::Unknown),
        ("400 Bad Request", "RequestTimeout", Response::Unknown),
        ("400 Bad Request", "BadDigest", Response::Unknown),
        ("400 Bad Request", "ExpiredToken", blocked(Blocker::Credentials)),
        ("400 Bad Request", "AuthorizationHeaderMalformed", blocked(Blocker::Region)),
        ("400 Bad Request", "KMS.DisabledException", blocked(Blocker::EncryptionKey)),
        ("400 Bad Request", "InvalidArgument", blocked(Blocker::Request)),
        ("301 Moved Permanently", "PermanentRedirect", blocked(Blocker::Region)),
        ("307 Temporary Redirect", "", blocked(Blocker::Region)),
        ("501 Not Implemented", "", blocked(Blocker::Unsupported)),
    ] {
        assert_eq!(generic(status, code).response, response, "{status} {code}");
    }
    let denied = |code| {
        let source = text("403 Forbidden", code).into();
        Refusal::of(&Error::PermissionDenied { path: "k".into(), source }, Provider::S3).response
    };
    assert_eq!(denied("AccessDenied"), blocked(Blocker::Permission));
    assert_eq!(denied("ExpiredToken"), blocked(Blocker::Credentials));
    assert_eq!(denied("RequestTimeTooSkewed"), blocked(Blocker::HostClock));
    let exists = |status, code| {
        let source = text(status, code).into();
        Refusal::of(&Error::AlreadyExists { path: "k".into(), source }, Provider::S3).response
    };
    assert_eq!(exists("412 Precondition Failed", "PreconditionFailed"), Response::Exists);
    assert_eq!(exists("409 Conflict", "ConditionalRequestConflict"), Response::Contention);
    assert_eq!(exists("409 Conflict", "BlobAlreadyExists"), Response::Exists);
    let page = Error::NotModified { path: "k".into(), source: text("304 Not Modified", "").into() };
    assert_eq!(Refusal::of(&page, Provider::S3).response, Response::Unknown);
    let missing =
        Error::NotFound { path: "k".into(), source: text("404 Not Found", "NoSuchBucket").into() };
    assert_eq!(Refusal::of(&missing, Provider::S3).response, blocked(Blocker::NoBucket));
}

#[test]
fn errors_without_a_status_are_read_by_cause() {
    let of = |store, source: Box<dyn std::error::Error + Send + Sync>| {
        Refusal::of(&Error::Generic { store, source }, Provider::S3).response
    };
    let io = |kind: io::ErrorKind| Box::new(io::Error::from(kind));
    assert_eq!(of("S3", io(io::ErrorKind::ConnectionReset)), Response::Unknown);
    assert_eq!(of("S3", io(io::ErrorKind::PermissionDenied)), Response::Unknown);
    for (kind, fault) in [
        (io::ErrorKind::StorageFull, DiskFault::Full),
        (io::ErrorKind::QuotaExceeded, DiskFault::Quota),
        (io::ErrorKind::ReadOnlyFilesystem, DiskFault::ReadOnly),
        (io::ErrorKind::PermissionDenied, DiskFault::Permission),
    ] {
        assert_eq!(of("LocalFileSystem", io(kind)), blocked(Blocker::Disk(fault)));
    }
    assert_eq!(of("LocalFileSystem", io(io::ErrorKind::Interrupted)), Response::Unknown);
    assert_eq!(
        of("S3", "Error performing PUT http://169.254.169.254/latest".into()),
        blocked(Blocker::Credentials)
    );
    assert_eq!(of("S3", "something nobody foresaw".into()), Response::Unknown);
}

#[test]
fn refusals_name_cause_and_remedy_without_secrets() {
    let refusal = generic("400 Bad Request", "ExpiredToken");
    assert_eq!(
        refusal.to_string(),
        "bucket: status 400 ExpiredToken: Said so (renew or correct the credentials: \
         AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role they come \
         from)"
    );
    let leaky =
        "GET https://sts.example/?token=SECRET failed\nfor https://a.example/b?sig=SECRET, twice";
    assert_eq!(scrub(leaky), "GET https://sts.example/ failed for https://a.example/b twice");
    let error = Error::Generic { store: "S3", source: leaky.into() };
    assert!(!Refusal::of(&error, Provider::S3).to_string().contains("SECRET"));
    assert!(scrub(&"ü".repeat(1_000)).len() < 410);
}

/// The text of the refusal for a response with this status and body.
fn said(provider: Provider, status: &str, body: &str) -> String {
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
fn each_provider_has_a_message_per_response() {
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
        (S3, "400 Bad Request", xml("KMS.DisabledException"), "bucket: status 400", "kms:Decrypt"),
    ] {
        let said = said(provider, status, &body);
        assert!(said.starts_with(says) && said.contains(advises), "{said}");
        assert!(!said.contains("SECRET"), "{said}");
    }
    assert_eq!(
        said(Gcs, "503 Service Unavailable", r#"{"error":{"message":"Later"}}"#),
        "bucket: status 503: Later",
        "nobody needs to act"
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
            // What to do about another cause would mislead.
            for (words, causes) in [
                ("room", &[Blocker::Disk(DiskFault::Full), Blocker::Disk(DiskFault::Quota)][..]),
                ("move it back", &[Blocker::Disk(DiskFault::Moved)]),
                ("mount", &[Blocker::Disk(DiskFault::ReadOnly)]),
                ("restart", &[Blocker::Disk(DiskFault::Removed), Blocker::Panic]),
                ("clock", &[Blocker::HostClock, Blocker::Tls(Certificate::Expired)]),
                ("to write to", &[Blocker::Permission, Blocker::Disk(DiskFault::Permission)]),
            ] {
                let is_its = causes.contains(&blocker);
                assert!(is_its || !advice.contains(words), "{provider:?} {blocker:?}: {advice}");
            }
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
    let issuer = Issuer::new("STS", "AWS_ROLE_ARN", "AWS_ENDPOINT_URL_STS", Vec::new());
    let issuer = Issuer { is_default, ..issuer };
    let cause = Some(Error::Generic { store: "S3", source: source.into() });
    let failure = CredentialFailure { issuer: issuer.into(), has_issued, file: None, cause };
    let error = Error::Generic { store: "S3", source: Box::new(failure) };
    Refusal::of(&error, Provider::S3)
}

#[test]
fn refusals_of_the_issuer_are_not_the_buckets() {
    let denied = "POST REDACTED: status code: 403 Forbidden: <Error><Code>AccessDenied</Code>\
                  <Message>Not you</Message></Error>";
    let refusal = of_issuer(false, true, denied);
    assert_eq!(refusal.response, blocked(Blocker::Credentials));
    assert_eq!(
        refusal.to_string(),
        "STS: status 403 AccessDenied: Not you (correct the settings of that request: AWS_ROLE_ARN)"
    );
    let failing = of_issuer(false, false, "status code: 503 Service Unavailable: ");
    assert_eq!((failing.response, &*failing.detail), (Response::Unknown, "STS: status 503"));
    let scheme = of_issuer(false, false, "URL scheme is not allowed");
    assert_eq!(scheme.response, blocked(Blocker::PlainHttp));
    assert!(scheme.to_string().contains("set AWS_ENDPOINT_URL_STS to an https URL"));
    let absent = of_issuer(true, false, "connection refused");
    assert_eq!(absent.response, blocked(Blocker::NoCredentials));
    assert!(absent.to_string().contains("AWS_SECRET_ACCESS_KEY"), "{absent}");
    let away = of_issuer(true, true, "connection refused");
    assert_eq!(away.response, Response::Unknown, "it has issued credentials before");
}

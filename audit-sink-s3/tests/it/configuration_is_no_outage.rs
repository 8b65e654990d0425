//! Opening a sink rejects a configuration that can never work, naming what to change; one that
//! breaks later blocks. Anything that may pass is an outage, which does not delay the start.

use std::path::Path;
use std::process::Command;

use crate::support::stub::{self, Authority, Stub};
use crate::support::{batch, check, read_server, until};
use audit_core::{AuditSink, HealthState};
use audit_sink_s3::{Bucket, OpenErrorKind, S3Sink, Settings};
use futures::future::join_all;
use s3_testserver::S3TestServer;

type Options = Vec<(&'static str, String)>;

fn options<const N: usize>(options: [(&'static str, &str); N]) -> Options {
    options.map(|(name, value)| (name, value.to_owned())).into()
}

fn settings() -> Settings {
    Settings {
        linger_ms: 0,
        persist_timeout_ms: 2_000,
        retry_base_ms: 1,
        retry_cap_ms: 8,
        blocked_retry_cap_ms: 8,
        ..Settings::default()
    }
}

async fn open(url: &str, options: Options) -> Result<S3Sink, (OpenErrorKind, String)> {
    let open = async {
        S3Sink::builder(Bucket::open_with(url, options)?).with_settings(settings()).open().await
    };
    open.await.map_err(|error| (error.kind(), error.to_string()))
}

const S3: &str = "s3://logs/a";
const GCS: &str = "gs://logs/a";
const AZURE: &str = "az://logs/a";

#[test]
fn impossible_settings_are_refused_before_any_request() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = root.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let absent = root.path().join("absent").to_str().unwrap().to_owned();
    let (empty, two_lines) = (file("empty", ""), file("two", "SECRET-TOKEN\n"));
    let (token, no_json) = (file("token", "SECRET-TOKEN"), file("json", "SECRET-TOKEN"));
    let (absent, empty, two_lines) = (absent.as_str(), empty.as_str(), two_lines.as_str());
    let (token, no_json) = (token.as_str(), no_json.as_str());
    let web = "aws_web_identity_token_file";
    let uri = ("aws_container_credentials_full_uri", "http://127.0.0.1:1/");
    let container = "aws_container_authorization_token_file";
    let azure = ("azure_storage_account_name", "account");
    let (id, tenant) = (("azure_client_id", "id"), ("azure_tenant_id", "tenant"));
    let federated = "azure_federated_token_file";
    for (url, options, says) in [
        (AZURE, options([id]), "AZURE_STORAGE_ACCOUNT_NAME is not set"),
        (
            S3,
            options([("aws_endpoint", "http://127.0.0.1:9")]),
            "aws_endpoint is an http URL: use https, or set AWS_ALLOW_HTTP=true",
        ),
        (
            S3,
            options([("aws_endpoint_url_s3", "http://127.0.0.1:9")]),
            "aws_endpoint_url_s3 is an http URL",
        ),
        (S3, options([("aws_endpoint", "127.0.0.1:9000")]), "aws_endpoint is not a URL"),
        (S3, options([("aws_endpoint", "localhost:9000")]), "aws_endpoint is not a URL"),
        (S3, options([("aws_endpoint", "ftp://host")]), "aws_endpoint is not a URL"),
        (S3, options([("aws_endpoint", "https://u:SECRET-TOKEN@host")]), "aws_endpoint has more"),
        (S3, options([("aws_endpoint", "https://host/?x=SECRET-TOKEN")]), "aws_endpoint has more"),
        (
            S3,
            options([("aws_endpoint", "https://host/x/logs/")]),
            "aws_endpoint ends with the bucket's name",
        ),
        (S3, options([("aws_timeout", "30")]), "aws_timeout: "),
        (S3, options([("aws_connect_timeout", "soon")]), "aws_connect_timeout: "),
        (S3, options([("aws_allow_http", "perhaps")]), "aws_allow_http: "),
        (S3, options([("aws_checksum_algorithm", "never")]), "aws_checksum_algorithm: "),
        (S3, options([("aws_access_key_id", "id")]), "aws_access_key_id: Missing SecretAccessKey"),
        (
            S3,
            options([(web, token)]),
            "aws_web_identity_token_file is set, but AWS_ROLE_ARN is not",
        ),
        (
            S3,
            options([("aws_role_arn", "arn")]),
            "aws_role_arn is set, but AWS_WEB_IDENTITY_TOKEN_FILE is not",
        ),
        (
            S3,
            options([(web, absent), ("aws_role_arn", "arn")]),
            "absent of aws_web_identity_token_file cannot be read",
        ),
        (
            S3,
            options([(web, empty), ("aws_role_arn", "arn")]),
            "empty of aws_web_identity_token_file is empty",
        ),
        (
            S3,
            options([
                (web, token),
                ("aws_role_arn", "arn"),
                ("aws_endpoint_url_sts", "http://sts"),
            ]),
            "aws_endpoint_url_sts is not an https URL",
        ),
        (
            S3,
            options([uri]),
            "aws_container_credentials_full_uri is set, but AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE is not",
        ),
        (
            S3,
            options([uri, (container, absent)]),
            "aws_container_authorization_token_file cannot be read",
        ),
        (
            S3,
            options([uri, (container, two_lines)]),
            "aws_container_authorization_token_file holds more than one line, or ends with a line feed",
        ),
        (
            GCS,
            options([("google_base_url", "http://127.0.0.1:9")]),
            "google_base_url is an http URL: use https, or set GOOGLE_ALLOW_HTTP=true",
        ),
        (GCS, options([("google_service_account", absent)]), "google_service_account: "),
        (
            GCS,
            options([("google_service_account_key", "{SECRET-TOKEN")]),
            "google_service_account_key: ",
        ),
        (
            GCS,
            options([("google_application_credentials", no_json)]),
            "google_application_credentials: ",
        ),
        (GCS, options([("google_timeout", "30")]), "google_timeout: "),
        (
            AZURE,
            options([azure, ("azure_storage_endpoint", "http://127.0.0.1:9")]),
            "azure_storage_endpoint is an http URL: use https, or set AZURE_ALLOW_HTTP=true",
        ),
        (
            AZURE,
            options([azure, ("azure_client_secret", "SECRET-TOKEN"), id]),
            "azure_client_secret is set, but AZURE_TENANT_ID is not",
        ),
        (
            AZURE,
            options([azure, (federated, token)]),
            "azure_federated_token_file is set, but AZURE_CLIENT_ID is not",
        ),
        (
            AZURE,
            options([azure, id, tenant, (federated, absent)]),
            "absent of azure_federated_token_file cannot be read",
        ),
        (
            AZURE,
            options([azure, ("azure_storage_account_key", "SECRET-TOKEN!")]),
            "azure_storage_account_key: ",
        ),
        (AZURE, options([azure, ("azure_timeout", "30")]), "azure_timeout: "),
    ] {
        let Err(error) = Bucket::open_with(url, options) else { panic!("not refused: {says}") };
        assert_eq!(error.kind(), OpenErrorKind::Configuration);
        let error = error.to_string();
        assert!(error.contains(says), "expected {says}\n   found {error}");
        assert!(error.starts_with(url) && !error.contains("SECRET-TOKEN"), "{error}");
    }
}

#[tokio::test]
async fn configuration_errors_are_refused_and_outages_are_not() {
    let (tls, plain) = (Authority::new().serve(&["127.0.0.1"], true).await, Stub::plain().await);
    let (https, http) = (tls.url(), plain.url());
    let closed = Stub::plain().await.close();
    let https_of_plain = http.replace("http:", "https:");
    let s3 = |endpoint: &str| {
        let keys = [("aws_access_key_id", "id"), ("aws_secret_access_key", "key")];
        options([("aws_endpoint", endpoint), ("aws_allow_http", "true"), keys[0], keys[1]])
    };
    let key = r#"{"private_key":"k","private_key_id":"k","client_email":"e","disable_oauth":true}"#;
    let gcs = |endpoint: &str| {
        options([
            ("google_base_url", endpoint),
            ("google_allow_http", "true"),
            ("google_service_account_key", key),
        ])
    };
    let azure = |endpoint: &str| {
        options([
            ("azure_storage_endpoint", endpoint),
            ("azure_allow_http", "true"),
            ("azure_storage_account_name", "account"),
            ("azure_storage_account_key", "a2V5"),
        ])
    };
    let metadata = options([
        ("aws_metadata_endpoint", &closed),
        ("aws_endpoint", &http),
        ("aws_allow_http", "true"),
    ]);
    let no_role = options([
        ("aws_metadata_endpoint", &http),
        ("aws_endpoint", &http),
        ("aws_allow_http", "true"),
    ]);
    plain.answer("404 Not Found", "");
    let (blocked, configuration) = (OpenErrorKind::Blocked, OpenErrorKind::Configuration);
    let unknown = "TLS: the certificate of 127.0.0.1:";
    let not_tls = "TLS: the server of 127.0.0.1:";
    let none = "no credentials are set, and none came from the instance metadata service";
    let refused = [
        (S3, s3(&https), blocked, unknown, "SSL_CERT_FILE), or correct AWS_ENDPOINT"),
        (GCS, gcs(&https), blocked, unknown, "GOOGLE_BASE_URL"),
        (AZURE, azure(&https), blocked, unknown, "AZURE_STORAGE_ENDPOINT"),
        (S3, s3(&https_of_plain), blocked, not_tls, "the scheme and the port of AWS_ENDPOINT"),
        (GCS, gcs(&https_of_plain), blocked, not_tls, "GOOGLE_BASE_URL"),
        (AZURE, azure(&https_of_plain), blocked, not_tls, "AZURE_STORAGE_ENDPOINT"),
        (S3, metadata, configuration, none, "set AWS_ACCESS_KEY_ID"),
        (S3, no_role, configuration, none, "set AWS_ACCESS_KEY_ID"),
    ];
    let refused = join_all(refused.map(|(url, options, kind, says, advises)| async move {
        let opened = open(url, options).await;
        let Err((found, error)) = opened else { panic!("not refused: {url} {says} {advises}") };
        assert!(error.contains(says) && error.contains(advises), "{error}");
        assert_eq!(found, kind, "{error}");
    }));
    let outages = [(S3, s3(&closed)), (GCS, gcs(&closed)), (AZURE, azure(&closed))];
    let outages = join_all(outages.map(|(url, options)| async move {
        let sink = open(url, options).await.unwrap();
        let error = sink.persist(batch("outage", 1)).await.unwrap_err().to_string();
        let HealthState::Retrying { reason } = sink.health().state else { panic!("{error}") };
        assert!(reason.contains(": no connection to 127.0.0.1:"), "{reason}");
    }));
    futures::join!(refused, outages);
}

/// Runs [`child_with_an_authority`] in a process that trusts the certificate authority.
#[test]
fn expired_or_foreign_certificates_are_rejected() {
    let root = tempfile::tempdir().unwrap();
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["configuration_is_no_outage::child_with_an_authority", "--exact", "--ignored"])
        .env("SSL_CERT_FILE", root.path().join("authority.pem"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "the test above runs it with an authority that it trusts"]
async fn child_with_an_authority() {
    let authority = Authority::new();
    std::fs::write(std::env::var_os("SSL_CERT_FILE").unwrap(), authority.pem()).unwrap();
    for (names, is_valid, says, advises) in [
        (["127.0.0.1"], true, "bucket: status 403 AccessDenied", "s3:PutObject"),
        (["127.0.0.1"], false, "TLS: the certificate", "renew the server's certificate"),
        (["elsewhere.example"], true, "TLS: the certificate", "set AWS_ENDPOINT to a name"),
    ] {
        let server = authority.serve(&names, is_valid).await;
        server.answer("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>");
        let endpoint = server.url();
        let keys = [("aws_access_key_id", "id"), ("aws_secret_access_key", "key")];
        let options = options([("aws_endpoint", &endpoint), keys[0], keys[1]]);
        let (kind, error) = open(S3, options).await.unwrap_err();
        assert_eq!(kind, OpenErrorKind::Blocked);
        assert!(error.contains(says) && error.contains(advises), "{error}");
    }
}

#[tokio::test]
async fn broken_credentials_block_with_a_remedy_until_mended() {
    let (server, issuer) = (S3TestServer::start().await, Stub::plain().await);
    let issued = stub::issued(server.access_key(), server.secret_key());
    issuer.answer("200 OK", &issued);
    let root = tempfile::tempdir().unwrap();
    let token: &Path = &root.path().join("token");
    std::fs::write(token, "token").unwrap();
    let options = options([
        ("aws_endpoint", &server.endpoint()),
        ("aws_allow_http", "true"),
        ("aws_container_credentials_full_uri", &issuer.url()),
        ("aws_container_authorization_token_file", token.to_str().unwrap()),
    ]);
    let sink = open(&format!("s3://{}/logs", server.bucket()), options).await.unwrap();
    let is_blocked_by = async |tag: &str, says: &[&str]| {
        let persisted = sink.persist(batch(tag, 1));
        let seen = async {
            until(|| sink.health().state != HealthState::Ok).await;
            let HealthState::Blocked { reason } = sink.health().state else {
                panic!("{:?}", sink.health())
            };
            assert!(says.iter().all(|text| reason.contains(text)), "{reason}");
            std::fs::write(token, "token").unwrap();
            issuer.answer("200 OK", &issued);
        };
        let (persisted, ()) = futures::join!(persisted, seen);
        persisted.unwrap();
        assert_eq!(sink.health().state, HealthState::Ok);
    };
    let variable = "aws_container_authorization_token_file";
    std::fs::remove_file(token).unwrap();
    is_blocked_by("gone", &["credentials: the file ", variable, "cannot be read"]).await;
    // The client panics on this response.
    std::fs::write(token, "token\n").unwrap();
    is_blocked_by("line feed", &["credentials: the file ", variable, "line feed"]).await;
    issuer.answer("403 Forbidden", r#"{"code":"AccessDenied","message":"not you"}"#);
    let refused = "container's credentials endpoint: status 403 AccessDenied: not you";
    is_blocked_by("refused", &[refused, "AWS_CONTAINER_CREDENTIALS_FULL_URI"]).await;

    issuer.answer("500 Internal Server Error", "");
    let persisted = sink.persist(batch("failing", 1));
    let seen = async {
        until(|| sink.health().state != HealthState::Ok).await;
        let HealthState::Retrying { reason } = sink.health().state else {
            panic!("{:?}", sink.health())
        };
        assert_eq!(reason, "container's credentials endpoint: status 500");
        issuer.answer("200 OK", &issued);
    };
    futures::join!(persisted, seen).0.unwrap();
    assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 4);
}

/// Each way to credentials that asks a server, with what the server says.
#[tokio::test]
async fn credentials_come_from_each_service_that_issues_them() {
    let (server, issuer) = (S3TestServer::start().await, Stub::plain().await);
    let issued = stub::issued(server.access_key(), server.secret_key());
    let roles = "/latest/meta-data/iam/security-credentials/";
    for (path, body) in [
        ("/latest/api/token", "METADATA-TOKEN"),
        (roles, "role"),
        (&format!("{roles}role"), &issued),
    ] {
        issuer.answer_at(path, "200 OK", body);
    }
    issuer.answer_at("/container", "200 OK", &issued);
    let root = tempfile::tempdir().unwrap();
    let token = root.path().join("token");
    std::fs::write(&token, "token").unwrap();
    let container = format!("{}/container", issuer.url());
    let ways = [
        options([("aws_metadata_endpoint", &issuer.url())]),
        options([
            ("aws_container_credentials_full_uri", &container),
            ("aws_container_authorization_token_file", token.to_str().unwrap()),
        ]),
    ];
    for (n, mut way) in ways.into_iter().enumerate() {
        way.extend(options([("aws_endpoint", &server.endpoint()), ("aws_allow_http", "true")]));
        let sink = open(&format!("s3://{}/logs", server.bucket()), way).await.unwrap();
        sink.persist(batch(&format!("way {n}"), 1)).await.unwrap();
    }
    assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 2);
}

//! Each request has the configured encryption, tags, storage class and expected owner. Options that
//! a provider lacks are refused.

use std::collections::BTreeMap;

use crate::support::{self, batch};
use audit_core::AuditSink;
use audit_sink_s3::{Bucket, OpenError, OpenErrorKind, S3Sink, Settings};
use http::Method;
use s3_testserver::S3TestServer;

const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/1";

fn bucket(server: &S3TestServer, options: &[(&str, &str)]) -> Result<Bucket, OpenError> {
    let endpoint = server.endpoint();
    let own = [
        ("aws_endpoint", endpoint.as_str()),
        ("aws_allow_http", "true"),
        ("aws_access_key_id", server.access_key()),
        ("aws_secret_access_key", server.secret_key()),
    ];
    let options = own.iter().chain(options).copied();
    Bucket::open_with(&format!("s3://{}/logs", server.bucket()), options)
}

#[tokio::test]
async fn each_put_has_what_the_settings_say() {
    let server = S3TestServer::start().await;
    let options = [
        ("aws_server_side_encryption", "aws:kms"),
        ("aws_sse_kms_key_id", KEY),
        ("aws_sse_bucket_key_enabled", "true"),
        ("aws_object_tags", "team=audit&kind=a%20log"),
        ("aws_storage_class", "STANDARD_IA"),
        ("aws_expected_bucket_owner", server.owner()),
    ];
    let directory = tempfile::tempdir().unwrap();
    let journal = support::journal(directory.path(), 1);
    for journal in [None, Some(journal)] {
        let settings = Settings { linger_ms: 0, journal, ..Settings::default() };
        let bucket = bucket(&server, &options).unwrap();
        let sink = S3Sink::builder(bucket).with_settings(settings).open().await.unwrap();
        sink.persist(batch("kept", 1)).await.unwrap();
        sink.close().await.unwrap();
    }
    let expected = [
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", KEY),
        ("x-amz-server-side-encryption-bucket-key-enabled", "true"),
        ("x-amz-tagging", "team=audit&kind=a+log"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-expected-bucket-owner", server.owner()),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let expected = BTreeMap::from(expected);
    let requests = server.requests();
    for request in &requests {
        let mut said = request.headers.clone();
        said.retain(|name, _| expected.contains_key(name));
        if request.method == Method::PUT {
            assert_eq!(said, expected, "{request:?}");
        } else {
            assert_eq!(said.into_keys().collect::<Vec<_>>(), ["x-amz-expected-bucket-owner"]);
        }
    }
    assert!(requests.len() > 4 && server.objects().len() == 3, "{requests:?}");
}

#[tokio::test]
async fn a_bucket_of_another_account_is_refused() {
    let server = S3TestServer::start().await;
    let bucket = bucket(&server, &[("aws_expected_bucket_owner", "210987654321")]).unwrap();
    let error = S3Sink::builder(bucket).open().await.unwrap_err();
    assert_eq!(error.kind(), OpenErrorKind::Blocked);
    let error = error.to_string();
    assert!(error.contains("correct AWS_EXPECTED_BUCKET_OWNER"), "{error}");
    assert!(server.objects().is_empty());
}

#[test]
fn settings_that_can_never_work_are_refused() {
    const ARN: &str = "arn:aws:iam::123456789012:role/audit";
    for (url, name, value, says) in [
        ("s3://b", "aws_expected_bucket_owner", "1234", "has 12 digits"),
        ("s3://b", "aws_storage_class", "DEEP_ARCHIVE", "until they are restored"),
        ("s3://b", "aws_storage_class", "a b", "aws_storage_class is not the name"),
        ("s3://b", "aws_object_tags", "", "aws_object_tags does not have 1 to 10 tags"),
        ("s3://b", "aws_sse_kms_key_id", KEY, "AWS_SERVER_SIDE_ENCRYPTION is not"),
        ("s3://b", "aws_server_side_encryption", "rot13", "aws_server_side_encryption: "),
        ("s3://b", "aws_assume_role_arn", "audit", "is not the ARN of a role"),
        ("s3://b", "aws_assume_role_arn", "arn:aws:iam::12:role/a", "is not the ARN of a role"),
        ("s3://b", "aws_assume_role_external_id", "x-1", "AWS_ASSUME_ROLE_ARN is not"),
        ("s3://b", "aws_assume_role_session_name", "x-1", "AWS_ASSUME_ROLE_ARN is not"),
        ("gs://b", "google_storage_class", "a b", "google_storage_class is not the name"),
        ("gs://b", "aws_object_tags", "a=b", "the gs store has no option aws_object_tags"),
        ("gs://b", "google_object_tags", "a=b", "the gs store has no option google_object_tags"),
        ("az://b", "azure_access_tier", "Archive", "until they are restored"),
        ("az://b", "azure_blob_tags", "=", "azure_blob_tags has a tag whose name"),
        ("az://b", "aws_assume_role_arn", ARN, "the az store has no option"),
        ("memory:///", "aws_storage_class", "X", "the memory store has no option"),
    ] {
        let account = ("azure_storage_account_name", "account");
        let account = account.to_owned();
        let options = [(name, value), account].into_iter().take(1 + usize::from(url == "az://b"));
        let error = Bucket::open_with(url, options).unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Configuration);
        assert!(error.to_string().contains(says), "expected {says}\n   found {error}");
    }
    for query in ["assume_role_external_id=é", "assume_role_session_name=a%20b"] {
        let url = format!("s3://b?assume_role_arn={ARN}&{query}");
        let error = Bucket::open(&url).unwrap_err().to_string();
        assert!(error.contains(" must have 2 to ") && !error.contains('é'), "{error}");
    }
}

#[test]
fn the_query_of_a_url_has_settings_and_no_secrets() {
    for (url, says) in [
        ("s3://b?secret_access_key=SECRET", "region, server_side_encryption"),
        ("s3://b?aws_region=SECRET", "assume_role_arn, assume_role_external_id"),
        ("gs://b?object_tags=SECRET", "the query of a gs:// URL can only have storage_class:"),
        ("az://b?sig=SECRET", "the query of a az:// URL can only have access_tier, blob_tags:"),
        ("file:///b?x=SECRET", "a file:// URL cannot have a query"),
        ("memory:///b?x=SECRET", "a memory:// URL cannot have a query"),
    ] {
        let error = Bucket::open(url).unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Configuration);
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error} {error:?}").contains("SECRET"), "{error:?}");
    }
    let options = [("aws_access_key_id", "id"), ("aws_secret_access_key", "key")];
    let bucket = Bucket::open_with("s3://b/p?region=eu-central-1&storage_class=X", options);
    assert_eq!(bucket.unwrap().to_string(), "s3://b/p");
}

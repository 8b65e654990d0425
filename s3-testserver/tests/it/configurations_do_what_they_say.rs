//! Policies, versions, retention and the server's clock.

use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, Result};
use s3_testserver::{RetentionMode, S3TestServer};

use crate::client::{client, create, put};

const ALLOW_ALL: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}"#;

async fn list(store: &AmazonS3, prefix: &str) -> Result<usize> {
    use futures::TryStreamExt;
    Ok(store.list(Some(&Path::from(prefix))).try_collect::<Vec<_>>().await?.len())
}

fn is_denied<T: std::fmt::Debug>(result: Result<T>) -> bool {
    matches!(result, Err(Error::PermissionDenied { .. }))
}

#[tokio::test]
async fn requests_without_a_statement_are_denied() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    let arn = format!("arn:aws:s3:::{}", server.bucket());
    let policy = format!(
        r#"{{"Version": "2012-10-17", "Statement": [
            {{"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": "{arn}/logs/*"}},
            {{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "{arn}",
              "Condition": {{"StringLike": {{"s3:prefix": "logs/*"}}}}}}]}}"#
    );
    server.set_policies(Some(&[&policy]));
    put(&store, "logs/a", "1").await.expect("allowed");
    store.get(&Path::from("logs/a")).await.expect("allowed");
    assert_eq!(list(&store, "logs").await.expect("allowed"), 1);
    assert!(is_denied(put(&store, "other/a", "1").await));
    let error = list(&store, "other").await.expect_err("denied");
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    // The client asks for a list to be deleted, which is refused object by object.
    let error = store.delete(&Path::from("logs/a")).await.expect_err("denied");
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    assert!(matches!(store.get(&Path::from("logs/b")).await, Err(Error::NotFound { .. })));
    assert_eq!(server.objects().len(), 1);

    // Without permission to list, a client is not told that an object is missing.
    let policy = policy.replace("s3:ListBucket", "s3:Nothing");
    server.set_policies(Some(&[&policy]));
    assert!(is_denied(store.get(&Path::from("logs/b")).await));
    server.set_policies(None);
    assert!(matches!(store.get(&Path::from("logs/b")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn denials_override_and_conditions_are_evaluated() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    let policy = format!(
        r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",
            "Resource": "arn:aws:s3:::{}/*", "Condition": {{"Null": {{"s3:if-none-match": "true"}}}}}}]}}"#,
        server.bucket()
    );
    server.set_policies(Some(&[ALLOW_ALL, &policy]));
    create(&store, "a", "1").await.expect("with the header");
    assert!(is_denied(put(&store, "a", "2").await));
    assert_eq!(server.objects()["a"].bytes, "1");
}

#[tokio::test]
async fn deletes_hide_versions_and_retention_keeps_them() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    let path = Path::from("a");
    assert_eq!(put(&store, "a", "1").await.expect("stored").version, None);
    server.set_versioning(true);
    server.set_object_lock(Some(RetentionMode::Compliance));
    let version = put(&store, "a", "2").await.expect("stored").version.expect("it has a version");
    let head = store.head(&path).await.expect("it is there");
    assert_eq!(head.version, Some(version));
    store.delete(&path).await.expect("hiding is allowed");
    assert!(matches!(store.get(&path).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn skewed_clocks_are_refused_with_the_servers_time() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    server.set_clock_offset(600);
    put(&store, "a", "1").await.expect("within the limit");
    server.set_clock_offset(-3_600);
    assert!(is_denied(put(&store, "b", "1").await));
    assert_eq!(server.objects().len(), 1);
}

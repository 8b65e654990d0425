//! The server refuses requests that a real store would refuse, and stores nothing.

use object_store::path::Path;
use object_store::{Attribute, Attributes, Error, ObjectStore, ObjectStoreExt, PutOptions};
use s3_testserver::S3TestServer;

use crate::client::{builder, client, client_with_header, put};

#[tokio::test]
async fn wrong_secrets_are_refused() {
    let server = S3TestServer::start().await;
    let store = builder(&server).with_secret_access_key("wrong").build().unwrap();
    // Large enough that the client is still sending when it is refused.
    let error = put(&store, "a", vec![0; 8 << 20]).await.unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn unknown_access_keys_are_refused() {
    let server = S3TestServer::start().await;
    let store = builder(&server).with_access_key_id("nobody").build().unwrap();
    let error = put(&store, "a", "1").await.unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn unsigned_requests_are_refused() {
    let server = S3TestServer::start().await;
    let store = builder(&server).with_skip_signature(true).build().unwrap();
    let error = put(&store, "a", "1").await.unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn wrong_checksums_are_refused() {
    let server = S3TestServer::start().await;
    let of_nothing = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let store = client_with_header(&server, "x-amz-checksum-sha256", of_nothing);
    let error = put(&store, "a", "1").await.unwrap_err();
    assert!(error.to_string().contains("BadDigest"), "{error}");
    assert!(server.objects().is_empty());
    // The same header is right for an empty body.
    put(&store, "a", "").await.unwrap();
}

#[tokio::test]
async fn other_buckets_do_not_exist() {
    let server = S3TestServer::start().await;
    let store = builder(&server).with_bucket_name("another").build().unwrap();
    assert!(matches!(put(&store, "a", "1").await, Err(Error::NotFound { .. })));
    assert!(store.get(&Path::from("a")).await.is_err());
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn unsupported_headers_are_refused() {
    let server = S3TestServer::start().await;
    let attributes = Attributes::from_iter([(Attribute::CacheControl, "no-store")]);
    let options = PutOptions { attributes, ..Default::default() };
    let error = client(&server).put_opts(&Path::from("a"), "1".into(), options).await.unwrap_err();
    assert!(error.to_string().contains("NotImplemented"), "{error}");

    let locked = client_with_header(&server, "x-amz-object-lock-mode", "COMPLIANCE");
    let error = put(&locked, "a", "1").await.unwrap_err();
    assert!(error.to_string().contains("Object Lock"), "{error}");
    assert!(server.objects().is_empty());
}

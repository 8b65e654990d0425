//! What a sink writes to Google Cloud Storage is listed and read back, page by page, with its
//! metadata and its storage class, and a refusal is Google's.

use crate::support::{batch, bucket_on, check, read_server, read_store};
use audit_core::AuditSink;
use audit_sink_s3::layout::Listed;
use audit_sink_s3::{Bucket, OpenErrorKind, S3Sink, Settings};
use futures::TryStreamExt;
use http::Method;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use s3_testserver::{S3TestServer, StoredObject};

fn settings() -> Settings {
    Settings { linger_ms: 0, max_object_bytes: 1, ..Settings::default() }
}

#[tokio::test]
async fn objects_are_listed_and_read_with_their_metadata() {
    let server = S3TestServer::start_gcs().await;
    let bucket = bucket_on(&server, "logs");
    let sink = S3Sink::builder(bucket.clone()).with_settings(settings()).open().await.unwrap();
    assert_eq!(sink.health().create_only, Some(true));
    for n in 0..3 {
        sink.persist(batch("gcs", 1 + n)).await.unwrap();
    }
    sink.close().await.unwrap();
    // Through the client, and straight from the server's memory.
    let read = read_store(&**bucket.store()).await;
    assert_eq!(read, read_server(&server));
    assert_eq!(check("logs/", &read).unwrap().len(), 6);
    let creates = server.requests().into_iter().filter(|request| request.method == Method::PUT);
    for request in creates {
        assert_eq!(request.headers["x-goog-if-generation-match"], "0", "{request:?}");
    }

    let day = bucket.level(None).await.unwrap().partitions;
    let hour = bucket.level(Some(&day[0])).await.unwrap().partitions;
    let listed: Vec<_> = bucket.list(&hour[0]).try_collect().await.unwrap();
    assert!(listed.iter().all(|listed| matches!(listed, Listed::Object(_))), "{listed:?}");
    assert_eq!(listed.len(), 3);
}

#[tokio::test]
async fn listings_go_on_past_a_page_and_keys_are_escaped() {
    let server = S3TestServer::start_gcs().await;
    for n in 0..1_001 {
        server.put_object(&format!("logs/a&b/{n:04}"), StoredObject::default());
    }
    let store = bucket_on(&server, "logs").store().clone();
    let all: Vec<_> = store.list(Some(&Path::from("logs"))).try_collect().await.unwrap();
    assert_eq!(all.len(), 1_001);
    assert_eq!(all[1_000].location.as_ref(), "logs/a&b/1000");
    let level = store.list_with_delimiter(Some(&Path::from("logs"))).await.unwrap();
    assert_eq!((level.common_prefixes, level.objects.len()), (vec![Path::from("logs/a&b")], 0));
    server.put_object("x", StoredObject { bytes: "0123456789".into(), ..Default::default() });
    let part = store.get_range(&Path::from("x"), 2..5).await.unwrap();
    assert_eq!(part, "234");
    store.delete(&Path::from("x")).await.unwrap();
    assert!(server.delete_object("x").is_none());
}

#[tokio::test]
async fn a_storage_class_is_sent_and_a_refusal_is_of_google() {
    let server = S3TestServer::start_gcs().await;
    let open = |token: &str| {
        let options = [
            ("google_base_url", server.endpoint()),
            ("google_allow_http", "true".to_owned()),
            ("google_bearer_token", token.to_owned()),
        ];
        let url = format!("gs://{}/logs?storage_class=NEARLINE", server.bucket());
        S3Sink::builder(Bucket::open_with(&url, options).unwrap()).with_settings(settings()).open()
    };
    let sink = open(server.token()).await.unwrap();
    sink.persist(batch("class", 1)).await.unwrap();
    sink.close().await.unwrap();
    let requests = server.requests();
    let puts: Vec<_> = requests.iter().filter(|request| request.method == Method::PUT).collect();
    assert_eq!(puts.len(), 3);
    assert!(puts.iter().all(|put| put.headers["x-goog-storage-class"] == "NEARLINE"));

    let error = open("SECRET").await.unwrap_err();
    assert_eq!(error.kind(), OpenErrorKind::Blocked);
    let error = error.to_string();
    assert!(error.contains("bucket: status 401 AuthenticationRequired"), "{error}");
    assert!(error.contains("GOOGLE_SERVICE_ACCOUNT") && !error.contains("SECRET"), "{error}");
}

//! A client reads back what it wrote, and a test sees the same objects without HTTP.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use object_store::aws::Checksum;
use object_store::path::Path;
use object_store::{Attribute, Attributes, Error, ObjectStore, ObjectStoreExt, PutOptions};
use s3_testserver::{S3TestServer, StoredObject};

use crate::client::{builder, client, put};

/// A key of the sink, whose `=` is percent-encoded in requests.
const KEY: &str = "logs/dt=2026-01-31/hour=23/stream-000000000000.ndjson.zst";

#[tokio::test]
async fn bytes_and_metadata_are_read_back() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    let path = Path::from(KEY);
    let attributes = Attributes::from_iter([
        (Attribute::ContentType, "application/x-ndjson"),
        (Attribute::ContentEncoding, "zstd"),
        (Attribute::Metadata("sha256".into()), "abc"),
        (Attribute::Metadata("last-sequence".into()), "41"),
    ]);
    let options = PutOptions { attributes: attributes.clone(), ..Default::default() };
    let written = store.put_opts(&path, "0123456789".into(), options).await.unwrap();

    let read = store.get(&path).await.unwrap();
    assert_eq!(read.attributes, attributes);
    assert_eq!(read.meta.e_tag, written.e_tag);
    assert_eq!(read.bytes().await.unwrap(), "0123456789");
    assert_eq!(store.get_range(&path, 2..5).await.unwrap(), "234");

    let head = store.head(&path).await.unwrap();
    assert_eq!((head.size, head.e_tag), (10, written.e_tag));
    assert_eq!(head.location, path);

    let expected = StoredObject {
        bytes: Bytes::from_static(b"0123456789"),
        metadata: [("sha256".into(), "abc".into()), ("last-sequence".into(), "41".into())].into(),
        content_type: Some("application/x-ndjson".into()),
        content_encoding: Some("zstd".into()),
    };
    assert_eq!(server.objects(), [(KEY.to_owned(), expected)].into());
}

/// As on S3 for an unencrypted object that was written with one PUT.
#[tokio::test]
async fn the_e_tag_is_the_md5() {
    let server = S3TestServer::start().await;
    let written = put(&client(&server), "a", "").await.unwrap();
    assert_eq!(written.e_tag.unwrap(), "\"d41d8cd98f00b204e9800998ecf8427e\"");
}

#[tokio::test]
async fn listings_follow_prefix_and_delimiter() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    let keys = ["a/1", "a/2", "ab", "b/x=y/1", "b/x=y/2", "b/z"];
    for key in keys {
        server.put_object(key, StoredObject::default());
    }
    let listed = |prefix: Option<&'static str>| {
        let prefix = prefix.map(Path::from);
        store
            .list(prefix.as_ref())
            .map_ok(|object| object.location.to_string())
            .try_collect::<Vec<_>>()
    };
    assert_eq!(listed(None).await.unwrap(), keys);
    assert_eq!(listed(Some("a")).await.unwrap(), ["a/1", "a/2"]);
    assert_eq!(listed(Some("none")).await.unwrap(), [""; 0]);

    let folder = store.list_with_delimiter(Some(&Path::from("b"))).await.unwrap();
    assert_eq!(folder.common_prefixes, [Path::from("b/x=y")]);
    assert_eq!(
        folder.objects.into_iter().map(|o| o.location).collect::<Vec<_>>(),
        [Path::from("b/z")]
    );

    let later =
        store.list_with_offset(None, &Path::from("ab")).try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(later.len(), 3);

    let requests = server.requests();
    assert!(requests.iter().all(|request| request.is_list()));
    assert_eq!(requests[1].prefix.as_deref(), Some("a/"));
}

#[tokio::test]
async fn a_listing_of_many_objects_comes_in_pages() {
    let server = S3TestServer::start().await;
    for i in 0..2500 {
        server.put_object(&format!("{i:04}"), StoredObject::default());
    }
    let listed = client(&server).list(None).map_ok(|object| object.location.to_string());
    let listed: Vec<_> = listed.try_collect().await.unwrap();
    assert!(listed.into_iter().eq(server.objects().into_keys()));
    assert_eq!(server.request_count(&Method::GET), 3);
}

#[tokio::test]
async fn deleted_objects_are_gone() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    for key in ["a", "b", "c", "d"] {
        put(&store, key, key).await.unwrap();
    }
    store.delete(&Path::from("a")).await.unwrap();
    let bulk = stream::iter(["b", "c"].map(|key| Ok(Path::from(key)))).boxed();
    store.delete_stream(bulk).try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(server.objects().into_keys().collect::<Vec<_>>(), ["d"]);
    assert!(matches!(store.get(&Path::from("a")).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.head(&Path::from("a")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn changes_behind_the_client_are_visible() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    let object = StoredObject { bytes: Bytes::from_static(b"theirs"), ..Default::default() };
    server.put_object("a", object.clone());
    assert_eq!(store.get(&Path::from("a")).await.unwrap().bytes().await.unwrap(), "theirs");
    assert_eq!(server.delete_object("a"), Some(object));
    assert!(matches!(store.get(&Path::from("a")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn right_checksums_are_accepted() {
    let server = S3TestServer::start().await;
    let store = builder(&server).with_checksum_algorithm(Checksum::SHA256).build().unwrap();
    put(&store, "a", vec![7; 3 << 20]).await.unwrap();
    assert_eq!(server.objects()["a"].bytes, vec![7; 3 << 20]);
}

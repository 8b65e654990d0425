//! The layout that readers rely on: keys, metadata, content type, compression.

use std::sync::Arc;

use crate::support;
use crate::support::{batch, bucket_on, check, read_server};
use audit_core::testing::{ManualClock, SeededRandom};
use audit_core::{AuditSink, Batch, Durability, Place, UniqueId};
use audit_sink_s3::layout::{Compression, ObjectKey, ObjectMetadata};
use audit_sink_s3::{S3Sink, Settings};
use s3_testserver::S3TestServer;

/// A sink whose stream is the same in each run.
async fn open(server: &S3TestServer, prefix: &str, settings: Settings) -> S3Sink {
    S3Sink::builder(bucket_on(server, prefix))
        .with_settings(settings)
        .with_clock(Arc::new(ManualClock::at(1_700_000_000_000)))
        .with_random(Arc::new(SeededRandom::new(7)))
        .open()
        .await
        .unwrap()
}

#[tokio::test]
async fn objects_have_the_documented_metadata() {
    for (compression, suffix, content_type) in [
        (Compression::Zstd, ".ndjson.zst", "application/zstd"),
        (Compression::Gzip, ".ndjson.gz", "application/gzip"),
        (Compression::None, ".ndjson", "application/x-ndjson"),
    ] {
        let server = S3TestServer::start().await;
        let sink =
            open(&server, "some/prefix", Settings { compression, ..Settings::default() }).await;
        let stream = sink.stream();
        assert_eq!(
            stream,
            UniqueId::generate(&ManualClock::at(1_700_000_000_000), &SeededRandom::new(7))
        );
        let receipt = sink.persist(batch("a", 3)).await.unwrap();
        assert_eq!(receipt.durability, Durability::Delivered);
        let receipt = sink.persist(batch("b", 2)).await.unwrap();
        assert_eq!(receipt.place, Some(Place { stream, first_sequence: 3, count: 2 }));

        let key = format!("some/prefix/dt=2023-11-14/hour=22/{stream}-000000000003{suffix}");
        let object = server.objects().remove(&key).unwrap();
        assert_eq!(object.content_type.as_deref(), Some(content_type));
        assert_eq!(object.content_encoding, None);
        let metadata: Vec<_> =
            object.metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
        // sha256 of {"t":"b","i":0}\n{"t":"b","i":1}\n
        let sha256 = "sha256=f935a0c7c68b1659d27a3859491916302621f1e47891e1785c05dbe4aeda3bb9";
        assert_eq!(metadata, ["count=2", "format=1", "lastsequence=4", sha256]);
        check("some/prefix/", &read_server(&server)).unwrap();
    }
}

#[tokio::test]
async fn the_first_record_determines_the_hour() {
    let server = S3TestServer::start().await;
    let sink = open(&server, "logs", Settings { linger_ms: 100, ..Settings::default() }).await;
    let at = |time_ms| Batch::from_lines(time_ms, "{}\n".into()).unwrap();
    // 2023-11-14T22:59:59.999Z, then the next hour, in one object; then invalid times.
    let (first, second) =
        tokio::join!(sink.persist(at(1_700_002_799_999)), sink.persist(at(1_700_002_800_000)));
    assert_eq!(
        [first, second].map(|receipt| receipt.unwrap().place.unwrap().first_sequence),
        [0, 1]
    );
    for time_ms in [1_700_002_800_000, -1, i64::MAX, i64::MIN] {
        sink.persist(at(time_ms)).await.unwrap();
    }
    let mut keys: Vec<String> = server.objects().into_keys().collect();
    keys.retain(|key| !key.ends_with("probe"));
    let (hours, numbers): (Vec<_>, Vec<_>) =
        keys.iter().map(|key| key.rsplit_once('/').unwrap()).unzip();
    assert_eq!(
        hours,
        [
            "logs/dt=0001-01-01/hour=00",
            "logs/dt=1969-12-31/hour=23",
            "logs/dt=2023-11-14/hour=22",
            "logs/dt=2023-11-14/hour=23",
            "logs/dt=9999-12-31/hour=23",
        ]
    );
    let numbers: Vec<_> = numbers.iter().map(|name| &name[27..39]).collect();
    assert_eq!(
        numbers,
        ["000000000005", "000000000003", "000000000000", "000000000002", "000000000004"]
    );
    assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 6);
}

#[tokio::test]
async fn the_public_module_suffices_for_readers() {
    let server = S3TestServer::start().await;
    let bucket = bucket_on(&server, "logs");
    let sink = S3Sink::builder(bucket.clone()).open().await.unwrap();
    let place = sink.persist(batch("read", 4)).await.unwrap().place.unwrap();
    let key =
        ObjectKey::new(support::TIME_MS, place.stream, place.first_sequence, Compression::Zstd);
    let found =
        bucket.store().get_opts(&bucket.path(&key.to_string()), Default::default()).await.unwrap();
    let metadata = ObjectMetadata::from_attributes(&found.attributes).unwrap();
    assert_eq!((metadata.count, metadata.last_sequence), (4, 3));
    let text = found.meta.location.prefix_match(bucket.prefix()).unwrap();
    let text: Vec<_> = text.map(|part| part.as_ref().to_owned()).collect();
    let read: ObjectKey = text.join("/").parse().unwrap();
    assert_eq!(
        (read.stream(), read.first_sequence(), read.compression()),
        (place.stream, 0, Compression::Zstd)
    );
    assert_eq!(read.hour_ms(), 1_699_999_200_000);
}

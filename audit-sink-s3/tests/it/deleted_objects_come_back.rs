//! A journal's kept segments restore objects deleted from the bucket: each record once, without
//! overwriting anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::support::gated_store::{Gate, GatedStore};
use crate::support::{
    self, Ledger, Objects, TIME_MS, bucket_of, large_batch, read_directory, read_store,
};
use audit_core::{AuditSink, Batch};
use audit_journal::{JournalDelivering, OpenErrorKind, OrphanedJournal};
use audit_sink_s3::rescue::{self, JournalRedelivered};
use audit_sink_s3::{Bucket, Compression, JournalSettings, S3Sink, Settings};
use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{Attribute, Attributes, ObjectStore, ObjectStoreExt, PutOptions};
use tempfile::TempDir;

/// A host that delivered everything, and its bucket.
struct Delivered {
    root: TempDir,
    settings: Settings,
    store: Store,
    /// The number of the route that has the records, 0 for the host's own bucket.
    route: u32,
    ledger: Ledger,
    /// What the host delivered.
    objects: Objects,
    records: u64,
}

enum Store {
    Memory(Arc<GatedStore>),
    /// A directory, without metadata.
    Directory(Bucket),
}

const MINUTE_MS: i64 = 60_000;

/// Three records, which have more than a third and less than half of [`MAX_OBJECT_BYTES`].
fn batch(n: i64) -> Batch {
    let time_ms = TIME_MS + n * 25 * MINUTE_MS;
    let line = |i| format!("{{\"n\":{n},\"i\":{i},\"at\":{time_ms}}}\n");
    Batch::from_lines(time_ms, (0..3).map(line).collect::<String>().into()).unwrap()
}

/// Room for two batches, but not for a third.
const MAX_OBJECT_BYTES: usize = 240;

impl Delivered {
    async fn memory(compression: Compression, retention_ms: u64, batches: Vec<Batch>) -> Delivered {
        let (store, root) = (Store::Memory(GatedStore::detached()), tempfile::tempdir().unwrap());
        Delivered::new(store, root, 0, compression, retention_ms, batches).await
    }

    /// A route's bucket in memory.
    async fn route(compression: Compression, batches: Vec<Batch>) -> Delivered {
        let (store, root) = (Store::Memory(GatedStore::detached()), tempfile::tempdir().unwrap());
        Delivered::new(store, root, 2, compression, 1_000_000, batches).await
    }

    async fn directory(compression: Compression, batches: Vec<Batch>) -> Delivered {
        let root = tempfile::tempdir().unwrap();
        let url = format!("file://{}/bucket", root.path().display());
        let store = Store::Directory(Bucket::open(&url).unwrap());
        Delivered::new(store, root, 0, compression, 1_000_000, batches).await
    }

    async fn new(
        store: Store,
        root: TempDir,
        route: u32,
        compression: Compression,
        retention_ms: u64,
        batches: Vec<Batch>,
    ) -> Delivered {
        let journal = root.path().join("journal");
        let journal = JournalSettings { retention_ms, ..support::journal(journal, 60_000) };
        let settings = Settings {
            compression,
            max_object_bytes: MAX_OBJECT_BYTES,
            retry_base_ms: 1,
            retry_cap_ms: 8,
            ..Settings::default()
        };
        let mut delivered = Delivered {
            root,
            settings: settings.clone(),
            store,
            route,
            ledger: Ledger::default(),
            objects: Objects::new(),
            records: 0,
        };
        let with_journal = Settings { journal: Some(journal), ..settings };
        let other = || bucket_of(&GatedStore::detached(), "");
        let (own, routes) = match route {
            0 => (delivered.bucket(), Vec::new()),
            _ => (other(), vec![("globex", other()), ("acme", delivered.bucket())]),
        };
        let sink = S3Sink::builder(own).with_settings(with_journal).open().await.unwrap();
        let mut opened = Vec::new();
        for (name, bucket) in routes {
            opened.push(sink.open_route(name, bucket).await.unwrap());
        }
        let host: &dyn AuditSink = opened.last().map_or(&sink, |route| route);
        for (n, batch) in batches.into_iter().enumerate() {
            let receipt = host.persist(batch.clone()).await.unwrap();
            delivered.ledger.acknowledged(&batch, &receipt);
            delivered.records += u64::from(batch.count());
            if let [other, ..] = &opened[..] {
                // The journal also has records of other destinations between them.
                other.persist(batch.clone()).await.unwrap();
                sink.persist(batch).await.unwrap();
            }
            // Some objects are cut by size, others earlier.
            if n % 3 == 2 {
                host.flush().await.unwrap();
            }
        }
        sink.close().await.unwrap();
        delivered.objects = delivered.read().await;
        delivered
    }

    fn bucket(&self) -> Bucket {
        match &self.store {
            Store::Memory(store) => bucket_of(store, ""),
            Store::Directory(bucket) => bucket.clone(),
        }
    }

    /// The objects in the bucket, without the probe's.
    async fn read(&self) -> Objects {
        let mut objects = match &self.store {
            Store::Memory(store) => read_store(&**store.inner()).await,
            Store::Directory(_) => read_directory(&self.root.path().join("bucket")),
        };
        objects.retain(|key, _| !key.starts_with("_audit/"));
        objects
    }

    async fn delete(&self, key: &str) {
        match &self.store {
            Store::Memory(store) => store.inner().delete(&Key::from(key)).await.unwrap(),
            Store::Directory(bucket) => bucket.store().delete(&Key::from(key)).await.unwrap(),
        }
    }

    /// Replaces an object with foreign content.
    async fn replace(&self, key: &str, bytes: Bytes, attributes: Attributes) {
        let (key, payload) = (Key::from(key), bytes.into());
        match &self.store {
            Store::Memory(store) => {
                let options = PutOptions { attributes, ..PutOptions::default() };
                store.inner().put_opts(&key, payload, options).await.unwrap();
            }
            Store::Directory(_) => {
                let path = self.root.path().join("bucket").join(key.as_ref());
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, Bytes::from(payload)).unwrap();
            }
        }
    }

    async fn begin(&self) -> JournalDelivering<JournalRedelivered> {
        let directory = self.root.path().join("journal");
        let journal = loop {
            match OrphanedJournal::open(&directory).await {
                Ok(journal) => break journal,
                // A stopped task ends a little later and then releases its lock.
                Err(error) if error.kind() == OpenErrorKind::Configuration => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
        };
        let (bucket, settings) = (self.bucket(), self.settings.clone());
        let begun = match self.route {
            0 => rescue::deliver_again(&journal, bucket, settings).await,
            route => rescue::deliver_route_again(&journal, route, bucket, settings).await,
        };
        begun.unwrap()
    }

    async fn again(&self) -> JournalRedelivered {
        self.begin().await.finished().await.unwrap()
    }

    fn keys(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    /// Deletes these objects and checks that each record is restored once, and nothing more.
    async fn come_back(&self, deleted: &[String]) {
        for key in deleted {
            self.delete(key).await;
        }
        let again = self.again().await;
        assert!(again.is_whole(), "{again:?}");
        assert_eq!(again.present + again.records, self.records, "{deleted:?}");
        let objects = self.read().await;
        self.ledger.check("", &objects).unwrap();
        let once_more = self.again().await;
        let nothing = JournalRedelivered { present: self.records, ..JournalRedelivered::default() };
        assert_eq!(once_more, nothing, "{deleted:?}");
        assert!(self.read().await == objects, "{deleted:?}");
    }
}

async fn each_host(compression: Compression, count: i64) -> [Delivered; 3] {
    let batches = || (0..count).map(batch).collect();
    [
        Delivered::memory(compression, 1_000_000, batches()).await,
        Delivered::directory(compression, batches()).await,
        Delivered::route(compression, batches()).await,
    ]
}

#[tokio::test]
async fn a_complete_bucket_gets_nothing() {
    for host in each_host(Compression::Zstd, 8).await {
        host.come_back(&[]).await;
        assert!(host.read().await == host.objects);
    }
}

#[tokio::test]
async fn each_deleted_object_comes_back_byte_for_byte() {
    for compression in [Compression::Zstd, Compression::Gzip, Compression::None] {
        for mut host in each_host(compression, 8).await {
            // The other objects show how it was compressed.
            host.settings.compression = Compression::Zstd;
            assert!(host.objects.len() > 4, "{:?}", host.keys());
            for key in host.keys() {
                host.come_back(&[key]).await;
                assert!(host.read().await == host.objects);
            }
        }
    }
}

#[tokio::test]
async fn any_deleted_objects_come_back_with_each_record_once() {
    for host in each_host(Compression::Zstd, 6).await {
        for deleted in 0..1u32 << host.objects.len() {
            let chosen = |(n, key): (usize, _)| (deleted >> n & 1 == 1).then_some(key);
            let keys = host.keys();
            host.come_back(&keys.into_iter().enumerate().filter_map(chosen).collect::<Vec<_>>())
                .await;
            // The next round begins with the host's objects.
            for key in host.read().await.into_keys() {
                host.delete(&key).await;
            }
            for (key, stored) in host.objects.clone() {
                host.replace(&key, stored.bytes, attributes(&stored.metadata.unwrap_or_default()))
                    .await;
            }
        }
    }
}

fn attributes(metadata: &BTreeMap<String, String>) -> Attributes {
    let mut attributes = Attributes::new();
    for (name, value) in metadata {
        attributes.insert(Attribute::Metadata(name.clone().into()), value.clone().into());
    }
    attributes
}

#[tokio::test]
async fn records_that_retention_removed_are_named() {
    let batches: Vec<_> = ["a", "b"].map(|tag| large_batch(tag, 20 << 20)).into();
    let host = Delivered::memory(Compression::Zstd, 0, batches).await;
    let [first, second] = &host.keys()[..] else { panic!("{:?}", host.keys()) };
    // Records gone from the journal but present in the bucket are not lost.
    host.delete(second).await;
    let again = host.again().await;
    assert_eq!((again.objects, again.gone[0].kept_from, again.is_whole()), (1, 1, true));
    assert!(host.read().await == host.objects);
    host.delete(first).await;
    let again = host.again().await;
    assert_eq!((again.objects, again.present, again.gone[0].missing()), (0, 1, 1));
    assert!(!again.is_whole());
}

/// When the requests of a killed delivery reach the store.
#[derive(Debug, Clone, Copy)]
enum Late {
    Never,
    /// Before the next delivery lists the bucket.
    First,
    /// While its own requests for the same keys are in flight.
    Beside,
}

#[tokio::test]
async fn a_killed_delivery_is_finished_by_the_next() {
    for late in [Late::Never, Late::First, Late::Beside] {
        for done in [0, 2] {
            let store = match late {
                Late::Never => GatedStore::new(),
                Late::First | Late::Beside => GatedStore::detached(),
            };
            let (kind, root) = (Store::Memory(Arc::clone(&store)), tempfile::tempdir().unwrap());
            let batches = (0..14).map(batch).collect();
            let host = Delivered::new(kind, root, 0, Compression::Zstd, 1_000_000, batches).await;
            for key in host.keys() {
                host.delete(&key).await;
            }
            let killed = host.begin().await;
            store.set(Gate::Closed);
            let before = store.puts();
            store.arrived(before + 4).await;
            if done > 0 {
                store.set(Gate::Open);
                store.arrived(before + 4 + done).await;
                store.set(Gate::Closed);
            }
            drop(killed);
            match late {
                Late::Never => {
                    // Dropped requests never arrive.
                    tokio::task::yield_now().await;
                    store.set(Gate::Open);
                }
                Late::First => store.set(Gate::Open),
                Late::Beside => {
                    // The next delivery's probe must pass, together with the late requests.
                    store.set(Gate::Open);
                    let next = host.begin().await;
                    store.set(Gate::Closed);
                    tokio::task::yield_now().await;
                    store.set(Gate::Open);
                    next.finished().await.unwrap();
                }
            }
            host.come_back(&[]).await;
        }
    }
}

fn replacements(host: &Delivered, key: &str) -> Vec<(&'static str, Bytes)> {
    let bytes = host.objects[key].bytes.clone();
    let other = host.objects.iter().find(|(other, _)| *other != key).unwrap().1.bytes.clone();
    let mut changed = lines(&bytes);
    let at = changed.iter().position(|byte| *byte == b'i').unwrap();
    changed[at] = b'j';
    let cut_off = bytes.slice(..bytes.len() - 1);
    let nothing = Bytes::new();
    vec![
        ("garbage", Bytes::from_static(b"not ours")),
        ("nothing", nothing),
        ("cut off", cut_off),
        ("another object", other),
        ("a changed record", zstd::encode_all(&changed[..], 3).unwrap().into()),
    ]
}

fn lines(bytes: &Bytes) -> Vec<u8> {
    zstd::decode_all(&bytes[..]).unwrap()
}

#[tokio::test]
async fn foreign_objects_are_named_and_left_alone() {
    for (nth, host) in each_host(Compression::Zstd, 6).await.into_iter().enumerate() {
        let keys = host.keys();
        for kind in 0..replacements(&host, &keys[0]).len() {
            // For each host, each kind of replacement is at another object.
            let n = (nth + kind) % keys.len();
            let key = &keys[n];
            let (what, bytes) = replacements(&host, key).swap_remove(kind);
            host.replace(key, bytes.clone(), Attributes::new()).await;
            // Other objects are still restored.
            let deleted = &keys[(n + 2) % keys.len()];
            host.delete(deleted).await;
            let again = host.again().await;
            let named: Vec<_> =
                again.conflicts.iter().map(|foreign| foreign.key.to_string()).collect();
            assert_eq!(named, std::slice::from_ref(key), "{what}: {again:?}");
            assert!(!again.is_whole());
            let blocked: u64 = again.conflicts.iter().map(|foreign| foreign.records).sum();
            assert_eq!(again.present + again.records + blocked, host.records, "{what}");
            let mut objects = host.read().await;
            assert_eq!(objects[key].bytes, bytes, "{what} is not overwritten");
            objects.insert(key.clone(), host.objects[key].clone());
            assert!(objects == host.objects, "{what} in place of {key}");
            // Once the foreign object is deleted, its records are restored.
            host.come_back(std::slice::from_ref(key)).await;
            assert!(host.read().await == host.objects);
        }
    }
}

#[tokio::test]
async fn moved_records_are_not_restored() {
    let host = Delivered::memory(Compression::Zstd, 1_000_000, (0..6).map(batch).collect()).await;
    let keys = host.keys();
    // All objects joined into one under the first key, without metadata.
    let joined: Vec<u8> = keys.iter().flat_map(|key| lines(&host.objects[key].bytes)).collect();
    let joined = zstd::encode_all(&joined[..], 3).unwrap();
    for key in &keys[1..] {
        host.delete(key).await;
    }
    host.replace(&keys[0], joined.into(), Attributes::new()).await;
    let before = host.read().await;
    let again = host.again().await;
    assert_eq!((again.objects, again.present, again.is_whole()), (0, host.records, true));
    assert!(host.read().await == before);
}

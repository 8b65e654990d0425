//! Directories of a journal and a bucket that are moved away while their host runs, and what takes
//! their place.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use audit_core::testing::remove_directory_in_use;
use audit_core::{AuditSink, HealthState};
use audit_sink_s3::{Bucket, S3Sink, Settings};
use object_store::local::LocalFileSystem;

use crate::support::gated_store::{Gate, GatedStore};
use crate::support::{self, Ledger, batch, bucket_of, read_store};

async fn open(journal: &Path, store: &Arc<GatedStore>) -> S3Sink {
    open_on(journal, bucket_of(store, "logs")).await
}

async fn open_on(journal: &Path, bucket: Bucket) -> S3Sink {
    let journal = support::journal(journal, 1);
    let settings = Settings { journal: Some(journal), ..Settings::default() };
    S3Sink::builder(bucket).with_settings(settings).open().await.unwrap()
}

/// The files except the contents of segments, which are large.
fn files(journal: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(journal).unwrap().map(Result::unwrap);
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        let is_segment = name.ends_with(".journal");
        let bytes = if is_segment { Vec::new() } else { fs::read(entry.path()).unwrap() };
        (name, bytes)
    };
    entries.map(file).collect()
}

fn hears_of_the_move(sink: &S3Sink) -> bool {
    let HealthState::Blocked { reason } = sink.health().state else { return false };
    reason.contains("was moved away from") && reason.ends_with("(move it back)")
}

#[tokio::test]
async fn a_host_leaves_the_journal_alone_that_took_the_place_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let [journal, moved] = ["journal", "moved"].map(|name| root.path().join(name));
    let [store, other] = [(); 2].map(|()| GatedStore::new());
    let mut ledger = Ledger::default();
    let sink = open(&journal, &store).await;
    let first = batch("first", 2);
    ledger.acknowledged(&first, &sink.persist(first.clone()).await.unwrap());
    sink.flush().await.unwrap();

    fs::rename(&journal, &moved).unwrap();
    let second = open(&journal, &other).await;
    second.persist(batch("other", 2)).await.unwrap();
    second.close().await.unwrap();
    let left = files(&journal);
    // The open segment still accepts records, but no object can be planned.
    let late = batch("late", 2);
    ledger.acknowledged(&late, &sink.persist(late.clone()).await.unwrap());
    while !hears_of_the_move(&sink) {
        tokio::task::yield_now().await;
    }
    assert_eq!(files(&journal), left);

    fs::remove_dir_all(&journal).unwrap();
    fs::rename(&moved, &journal).unwrap();
    sink.flush().await.unwrap();
    sink.close().await.unwrap();
    ledger.check("logs/", &read_store(&**store.inner()).await).unwrap();
}

/// The bucket's path may then lead to the mount point of an unmounted disk. Records that were
/// written there would be found neither in the bucket nor in the journal.
#[tokio::test]
async fn records_wait_for_a_bucket_that_was_moved_away() {
    for is_replaced in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let [journal, bucket, moved] =
            ["journal", "bucket", "moved"].map(|name| root.path().join(name));
        let url = format!("file://{}/logs", bucket.display());
        let sink = open_on(&journal, Bucket::open(&url).unwrap()).await;
        sink.persist(batch("first", 2)).await.unwrap();
        sink.flush().await.unwrap();

        fs::rename(&bucket, &moved).unwrap();
        if is_replaced {
            fs::create_dir_all(bucket.join("logs")).unwrap();
        }
        sink.persist(batch("late", 2)).await.unwrap();
        while !hears_of_the_move(&sink) {
            let written =
                fs::read_dir(bucket.join("logs")).is_ok_and(|mut entries| entries.next().is_some());
            assert!(!written, "nothing is written to what has its place");
            tokio::task::yield_now().await;
        }
        // Removes only an empty directory.
        if is_replaced {
            fs::remove_dir(bucket.join("logs")).unwrap();
            fs::remove_dir(&bucket).unwrap();
        }

        fs::rename(&moved, &bucket).unwrap();
        sink.flush().await.unwrap();
        sink.close().await.unwrap();
        let store = LocalFileSystem::new_with_prefix(&bucket).unwrap();
        let objects = read_store(&store).await;
        assert_eq!(objects.keys().filter(|key| key.starts_with("logs/dt=")).count(), 2);
    }
}

/// Nothing can bring a removed journal back, so `close` does not wait for it.
#[tokio::test]
async fn a_sink_whose_journal_was_removed_closes_and_says_so() {
    for is_noticed in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let journal = root.path().join("journal");
        let store = GatedStore::new();
        let sink = open(&journal, &store).await;
        store.set(Gate::Closed);
        sink.persist(batch("sent", 2)).await.unwrap();
        store.arrived(3).await;
        sink.persist(batch("lost", 2)).await.unwrap();
        // The sink may still create files for the objects that it sends while the directory is
        // removed.
        remove_directory_in_use(&journal).unwrap();
        if is_noticed {
            sink.persist(batch("refused", 2)).await.unwrap_err();
            sink.stopped().await;
        }
        // The object in flight is in memory, so it is still delivered.
        let (closed, ()) = tokio::join!(sink.close(), async {
            while !format!("{:?}", sink.health()).contains("was removed: what was not") {
                tokio::task::yield_now().await;
            }
            store.set(Gate::Open);
        });
        let said = closed.unwrap_err().to_string();
        assert!(said.contains("was removed: what was not delivered is lost"), "{said}");
        let objects = read_store(&**store.inner()).await;
        let logs: Vec<_> = objects.keys().filter(|key| key.starts_with("logs/dt=")).collect();
        assert_eq!(logs.len(), 1, "{logs:?}");
    }
}

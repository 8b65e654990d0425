//! A journal's directory that is moved away while its host runs, and what takes its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use audit_core::AuditSink;
use audit_sink_s3::{S3Sink, Settings};

use crate::support::gated_store::GatedStore;
use crate::support::{self, Ledger, batch, bucket_of, read_store};

async fn open(journal: &Path, store: &Arc<GatedStore>) -> S3Sink {
    let journal = support::journal(journal, 1);
    let settings = Settings { journal: Some(journal), ..Settings::default() };
    S3Sink::builder(bucket_of(store, "logs")).with_settings(settings).open().await.unwrap()
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
    // The segment at hand goes on, and no object can be planned.
    let late = batch("late", 2);
    ledger.acknowledged(&late, &sink.persist(late.clone()).await.unwrap());
    while !format!("{:?}", sink.health()).contains("was moved away from") {
        tokio::task::yield_now().await;
    }
    assert_eq!(files(&journal), left);

    fs::remove_dir_all(&journal).unwrap();
    fs::rename(&moved, &journal).unwrap();
    sink.flush().await.unwrap();
    sink.close().await.unwrap();
    ledger.check("logs/", &read_store(&**store.inner()).await).unwrap();
}

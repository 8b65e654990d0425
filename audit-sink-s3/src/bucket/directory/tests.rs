use std::fs::File;
use std::path::{Path as FilePath, PathBuf};

use audit_core::durable::{create_directory, create_unfinished};
use futures::StreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode};

use super::reading::PIECE_BYTES;
use crate::object::key::UNFINISHED;

fn bucket(root: &FilePath) -> crate::Bucket {
    let url = url::Url::from_directory_path(root).unwrap();
    crate::Bucket::open(url.as_str()).unwrap()
}

fn files(directory: &FilePath) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_private_to_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let sink = crate::S3Sink::builder(bucket(&root.path().join("a/b")));
    let sink = sink.open().await.unwrap();
    let line = audit_core::Batch::from_lines(1_700_000_000_000, "{}\n".into()).unwrap();
    audit_core::AuditSink::persist(&sink, line).await.unwrap();
    let path = Path::from("dt=2023-11-14/hour=22/replaced");
    for mode in [PutMode::Create, PutMode::Overwrite] {
        sink.bucket().store().put_opts(&path, "x".into(), mode.into()).await.unwrap();
    }
    fn check(path: &FilePath) -> usize {
        let metadata = path.symlink_metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        if !metadata.is_dir() {
            assert_eq!(mode, 0o600, "{}", path.display());
            return 1;
        }
        assert_eq!(mode, 0o700, "{}", path.display());
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| check(&entry.unwrap().path())).sum()
    }
    assert_eq!(check(&root.path().join("a")), 3, "the probe, a record, and the replaced one");
}

/// Unlike a prefix in a store, a directory may have any name.
#[tokio::test]
async fn a_directory_of_any_name_is_a_bucket() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a\nb", "tab\t", "\u{1b}[31m", "\u{7f}", " ", "%0A", "#", "?", "…", "a\\b", "*"]
    {
        let directory = root.path().join(name);
        let bucket = bucket(&directory);
        let sink = crate::S3Sink::builder(bucket.clone()).open().await.unwrap();
        let line = audit_core::Batch::from_lines(1_700_000_000_000, "{}\n".into()).unwrap();
        audit_core::AuditSink::persist(&sink, line).await.unwrap();
        let day = Path::from("dt=2023-11-14");
        let listed: Vec<_> = bucket.store().list(Some(&day)).collect().await;
        let [Ok(object)] = &listed[..] else { panic!("{name:?}: {listed:?}") };
        assert!(directory.join(object.location.as_ref()).is_file(), "{name:?}");
    }
}

/// A copy of a bucket may be written again while it is read.
#[tokio::test]
async fn a_file_that_becomes_shorter_while_it_is_read_ends_with_an_error() {
    let root = tempfile::tempdir().unwrap();
    let (bucket, path) = (bucket(root.path()), Path::from("dt=2023-11-14/hour=22/a"));
    let file = root.path().join(path.as_ref());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    for left in [0, PIECE_BYTES, PIECE_BYTES + 1] {
        std::fs::write(&file, vec![7; 3 * PIECE_BYTES as usize]).unwrap();
        let found = bucket.store().get(&path).await.unwrap();
        let mut pieces = found.into_stream();
        assert_eq!(pieces.next().await.unwrap().unwrap().len() as u64, PIECE_BYTES);
        File::options().write(true).open(&file).unwrap().set_len(left).unwrap();
        let error = pieces.next().await.unwrap().unwrap_err();
        let why = format!("the file ended after {} of", left.max(PIECE_BYTES));
        assert!(audit_core::with_sources(&error).contains(&why), "{left}: {error:?}");
        assert!(pieces.next().await.is_none());
    }
    let whole = bucket.store().get_range(&path, 1..PIECE_BYTES + 1).await.unwrap();
    assert_eq!(whole.len() as u64, PIECE_BYTES);
    std::fs::write(&file, b"").unwrap();
    assert!(bucket.store().get(&path).await.unwrap().bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn one_of_many_writers_wins_without_leftovers() {
    let root = tempfile::tempdir().unwrap();
    let bucket = bucket(root.path());
    let path = Path::from("dt=2023-11-14/hour=22/a");
    let create = |n: u8| {
        let (store, path) = (bucket.store().clone(), path.clone());
        let content = vec![n; 100_000];
        tokio::spawn(
            async move { store.put_opts(&path, content.into(), PutMode::Create.into()).await },
        )
    };
    let ended = futures::future::join_all((0..16).map(create)).await;
    let (won, lost): (Vec<_>, Vec<_>) =
        ended.into_iter().map(std::result::Result::unwrap).partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 15));
    for error in lost {
        assert!(matches!(error, Err(Error::AlreadyExists { .. })), "{error:?}");
    }
    let stored = bucket.store().get(&path).await.unwrap().bytes().await.unwrap();
    assert!(stored.iter().all(|byte| *byte == stored[0]), "the bytes of one writer");
    assert_eq!(files(root.path()), [root.path().join(path.as_ref())]);
}

/// A killed process may leave directories and objects whose names are not durable.
#[cfg(unix)]
#[tokio::test]
async fn names_left_by_a_killed_process_are_synced() {
    use audit_core::testing::synced_directories;
    let root = tempfile::tempdir().unwrap();
    let below = |path: &str| root.path().join(path).canonicalize().unwrap();
    std::fs::create_dir_all(root.path().join("logs/dt=2023-11-14/hour=22")).unwrap();
    let bucket = bucket(&below("logs"));
    assert!(synced_directories().remove(&below("")), "the bucket's own name");
    let put = async |name: &str| {
        let path = Path::from(format!("dt=2023-11-14/hour=22/{name}"));
        bucket.store().put_opts(&path, "x".into(), PutMode::Create.into()).await.unwrap();
    };
    put("a").await;
    for synced in ["logs/dt=2023-11-14/hour=22", "logs/dt=2023-11-14", "logs"] {
        assert!(synced_directories().remove(&below(synced)), "{synced}");
    }
    // A later object syncs only its own name, unless its directory was removed.
    put("b").await;
    assert!(synced_directories().remove(&below("logs/dt=2023-11-14/hour=22")));
    assert!(!synced_directories().remove(&below("logs")));
    std::fs::remove_dir_all(below("logs/dt=2023-11-14")).unwrap();
    put("c").await;
    assert!(synced_directories().remove(&below("logs")));
}

#[test]
fn opening_removes_only_leftovers_of_dead_writers() {
    let root = tempfile::tempdir().unwrap();
    drop(bucket(root.path()));
    let unfinished = root.path().join(UNFINISHED);
    create_directory(&unfinished).unwrap();
    let (dead, live) = (unfinished.join("dead"), unfinished.join("live"));
    std::fs::write(&dead, "part of an obj").unwrap();
    let (writer, _) = create_unfinished(|| live.clone()).unwrap();
    let object = root.path().join("dt=2023-11-14");
    std::fs::write(&object, "an object").unwrap();
    for _ in 0..2 {
        drop(bucket(root.path()));
        assert!(!dead.exists() && live.exists() && object.exists());
    }
    drop(writer);
    drop(bucket(root.path()));
    assert_eq!(files(root.path()), [object]);
}

#[test]
fn a_writer_without_its_file_fails() {
    let root = tempfile::tempdir().unwrap();
    let (unfinished, path) = (root.path().join("unfinished"), root.path().join("object"));
    let (file, _) = create_unfinished(|| unfinished.clone()).unwrap();
    // Removed between two steps of the writer, by a host that does not see its lock.
    std::fs::remove_file(&unfinished).unwrap();
    file.sync_all().unwrap();
    let error = std::fs::hard_link(&unfinished, &path).unwrap_err();
    let error = Error::Generic { store: "LocalFileSystem", source: error.into() };
    let refusal =
        crate::bucket::response::Refusal::of(&error, crate::bucket::provider::Provider::Directory);
    assert_eq!(refusal.response, crate::bucket::response::Response::Unknown, "it is written again");
    assert!(!path.exists());
}
